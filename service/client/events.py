"""What a job tells as it comes: Server-Sent Events, as the events of `service.jobs` that they were there."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import httpx
import numpy as np
from httpx_sse import EventSource, ServerSentEvent

from service.client.answers import receipt_of
from service.client.errors import ServerError, cut_off, problem_error, understood
from service.client.pictures import decoded, opened
from service.jobs import Accepted, ImageReady, MaskFound, Preview, Receipt

Event = Accepted | MaskFound | Preview | ImageReady | Receipt
MEDIA_TYPE = "text/event-stream"
LATENT_SCALE = 8  # pixels of a latent position in the mask of a stream


def check_stream(response: httpx.Response) -> None:
    """ServerError where what begins is no stream of events."""
    media_type = response.headers.get("content-type", "none")
    if not media_type.startswith(MEDIA_TYPE):
        raise ServerError(response.status_code, f"must be {MEDIA_TYPE}, got {media_type}")


def iter_events(response: httpx.Response) -> Iterator[Event]:
    """The events of a job, the receipt last. Raises what the job failed by."""
    event = None
    for sent in EventSource(response).iter_sse():
        if (told := _told(response, sent)) is not None:
            yield (event := told)
    if not isinstance(event, Receipt):
        raise cut_off(response)


async def aiter_events(response: httpx.Response) -> AsyncGenerator[Event, None]:
    """As `iter_events`."""
    event = None
    async with aclosing(EventSource(response).aiter_sse()) as all_sent:
        async for sent in all_sent:
            if (told := _told(response, sent)) is not None:
                yield (event := told)
    if not isinstance(event, Receipt):
        raise cut_off(response)


def _told(response: httpx.Response, sent: ServerSentEvent) -> Event | None:
    """None for an event that is not known here: a newer service's."""
    with understood(response):
        if sent.event == "error":
            error = problem_error(response, json.loads(sent.data))
        elif (read := READERS.get(sent.event)) is not None:
            return read(json.loads(sent.data))
        else:
            return None
    raise error


def _accepted(data: Any) -> Accepted:
    return Accepted(data["image_id"], data["source_id"], data["num_inference_steps"])


def _mask(data: Any) -> MaskFound:
    pixels = np.asarray(opened(decoded(data["mask"])).convert("L"))
    return MaskFound(pixels[::LATENT_SCALE, ::LATENT_SCALE] > 0, data["edited_ratio"])


def _preview(data: Any) -> Preview:
    left, top, right, bottom = data["box"]
    return Preview(data["step"], opened(decoded(data["image"])), (left, top, right, bottom))


def _image(data: Any) -> ImageReady:
    return ImageReady(data["image_id"], opened(decoded(data["image"])))


READERS: dict[str, Callable[[Any], Event]] = {
    "accepted": _accepted,
    "mask": _mask,
    "preview": _preview,
    "image": _image,
    "receipt": receipt_of,
}
