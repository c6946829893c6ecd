"""A job that a server runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from service.client import Client, ServerError
from service.client.events import Event
from service.commands.files import Made
from service.errors import InputError, UnknownImageError
from service.jobs import Accepted, EditJob, Job, MaskFound, Outcome, Preview

NOT_THERE = {404, 405}  # of whom is asked for no picture
KEY = "RT_KEY"  # no RETOUCH_ name: those are the service's settings


@contextmanager
def made_there(
    url: str, key: Path | None, idempotency_key: str | None, job: Job, fields: dict[str, Any]
) -> Iterator[Made]:
    """What came of the job, by the server at `url`, which is sent its fields.

    Raises:
        RetouchError: as the server says.
        ConnectionError: it cannot be reached, or was lost; the job is cancelled then, and by whatever else is raised.
    """
    with _reached(url), Client(url, _key(key)) as client:
        stream = client.stream_edit if isinstance(job, EditJob) else client.stream_generate
        with stream(**fields, idempotency_key=idempotency_key) as events:
            outcome = Outcome.of(_shown(events))
        yield Made(outcome, lambda image_id: _png(client, image_id))


@contextmanager
def _reached(url: str) -> Iterator[None]:
    try:
        yield
    except ServerError as error:
        if error.status in NOT_THERE:
            raise ConnectionError(f"{url}: no Retouch is there: {error}") from error
        raise
    except httpx.HTTPError as error:
        raise ConnectionError(f"{url}: {error or type(error).__name__}") from error


def _key(path: Path | None) -> str | None:
    """What the file holds, or the environment's."""
    if path is None:
        return os.environ.get(KEY) or None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:  # the path is not told: somebody may have given the key itself
        raise InputError("key", "must name a file that can be read and holds the key") from error


def _png(client: Client, image_id: str) -> bytes | None:
    try:
        return client.image(image_id)
    except UnknownImageError:
        return None


def _shown(events: Iterator[Event]) -> Iterator[Event]:
    """The events, while a bar on stderr says how far they are; nothing where that is no terminal."""
    with tqdm(desc="waiting", leave=False, mininterval=0, disable=None) as bar:  # events are few
        for event in events:
            match event:
                case Accepted():
                    bar.reset(event.num_inference_steps)
                    bar.set_description("drawing" if event.source_id is None else "detecting")
                case MaskFound():
                    bar.set_description(f"drawing {event.edited_ratio:.0%}")
                case Preview():
                    bar.update(event.step + 1 - bar.n)
            yield event
