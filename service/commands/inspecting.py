"""`retouch inspect`: the recordings on a disk."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from service.errors import InputError


def inspect(options: argparse.Namespace) -> None:
    """`retouch inspect`."""
    from service.inspection import as_data, table  # noqa: PLC0415  # not for `retouch --help`
    from service.settings import read_settings  # noqa: PLC0415
    from service.workers.stores import look_into  # noqa: PLC0415

    settings = read_settings(disk_path=None if options.disk is None else str(options.disk))
    if not settings.disk_path:
        raise InputError("disk", "name a directory of recordings, here or by RETOUCH_DISK_PATH")
    described = look_into(Path(settings.disk_path))
    sys.stdout.write(json.dumps(as_data(described)) + "\n" if options.json else "\n".join(table(described)) + "\n")
