"""What a job tells, as clients read it: event by event, or folded into one JSON answer. Blocking: PNGs take a while."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from service.api.images import encode_base64, encode_png, mask_image
from service.api.schemas import Answer
from service.api.streams import frame
from service.jobs import Accepted, Event, ImageReady, Job, MaskFound, Outcome, Preview, Receipt

_ANYTHING = TypeAdapter(Any)


def answer_of(job: Job, outcome: Outcome) -> Answer:
    """All of a job that ended well."""
    receipt, image, mask = outcome.receipt, outcome.image, outcome.mask
    return Answer(
        image_id=receipt.image_id,
        source_id=receipt.source_id,
        image=encode_base64(encode_png(image.image)) if image else None,
        image_url=_url(job, image.image_id) if image else None,
        mask=encode_base64(encode_png(mask_image(mask.edit_mask, image.image if image else None))) if mask else None,
        receipt=receipt,
    )


def frame_of(job: Job, event: Event) -> bytes:
    """One event of a job that goes well."""
    name, data = _told(job, event)
    return frame(name, _ANYTHING.dump_json(data).decode())


def _told(job: Job, event: Event) -> tuple[str, Any]:
    match event:
        case Accepted():
            return "accepted", event
        case MaskFound():
            mask = encode_base64(encode_png(mask_image(event.edit_mask)))
            return "mask", {"mask": mask, "edited_ratio": event.edited_ratio}
        case Preview():
            return "preview", {"step": event.step, "image": encode_base64(encode_png(event.image)), "box": event.box}
        case ImageReady():
            image = encode_base64(encode_png(event.image))
            return "image", {"image_id": event.image_id, "image": image, "image_url": _url(job, event.image_id)}
        case Receipt():
            return "receipt", event
        case _:
            raise TypeError(f"no client is told of {event!r}")


def url_of(image_id: str) -> str:
    """Where a kept picture is."""
    return f"/images/{image_id}"


def _url(job: Job, image_id: str) -> str | None:
    return url_of(image_id) if job.cache == "read_write" else None
