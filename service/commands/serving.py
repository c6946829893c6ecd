"""`retouch serve`, and `retouch key` for those who may use it."""

from __future__ import annotations

import argparse
import sys

from service.commands.terminal import say
from service.settings import Settings, read_settings


def serve(options: argparse.Namespace) -> None:
    """`retouch serve`."""
    settings = read_settings(**{name: getattr(options, name) for name in Settings.model_fields})
    from service import logs, server  # noqa: PLC0415
    from service.app import create_app  # noqa: PLC0415  # with torch behind it
    from service.engine.embedder import check_embedder  # noqa: PLC0415
    from service.workers.models import check_model  # noqa: PLC0415

    server.check_exposure(settings)
    check_model(settings.model, settings.device)  # now, not when the server is up
    check_embedder(settings.embedding_model)
    app = create_app(settings)
    logs.configure(settings.log_level)
    server.serve(app, settings)


def key(options: argparse.Namespace) -> None:
    """`retouch key`."""
    from service.api.keys import make_key  # noqa: PLC0415

    secret, entry = make_key(options.name)
    sys.stdout.write(f"{secret}\n{entry}\n")
    say("The first line is the key: it is shown once, and kept nowhere. The second belongs into RETOUCH_API_KEYS.")
