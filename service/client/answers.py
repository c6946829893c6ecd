"""What the service answers, as frozen values. A newer service may say more: what is not known here is passed over.

Reading raises ValueError, KeyError, TypeError or OSError where the answer is not one of the service's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import httpx
from PIL import Image

from service.client.pictures import decoded, opened
from service.jobs import Fallback, Receipt, Sampler


@dataclass(frozen=True)
class Result:
    """A picture, where it changed, and what it cost."""

    image_id: str
    source_id: str | None  # of which it is an edit
    image: bytes | None = field(repr=False)  # PNG; None after a dry run
    image_url: str | None  # where it is kept, below the service's address; None if it is not
    mask: bytes | None = field(repr=False)  # PNG, white changed; None if the picture was drawn anew
    receipt: Receipt

    @property
    def picture(self) -> Image.Image | None:
        """The image, read; None after a dry run."""
        return None if self.image is None else opened(self.image)


@dataclass(frozen=True)
class Kept:
    """A picture that the service keeps."""

    image_id: str
    prompt: str
    source_id: str | None  # of which it is an edit; it may have been deleted since
    image_url: str


@dataclass(frozen=True)
class Lineage:
    """Where a picture comes from, and what was made of it."""

    picture: Kept
    ancestors: tuple[Kept, ...]  # the nearest first, as far as they are kept
    edits: tuple[Kept, ...]  # direct ones


@dataclass(frozen=True)
class Model:
    """The model of a service, and what it does where nothing else is said."""

    name: str
    width: int  # pixels
    height: int  # pixels
    num_inference_steps: int
    guidance_scale: float
    sampler: Sampler
    samplers: tuple[Sampler, ...]
    max_pixels: int | None  # of a picture, width times height
    words: tuple[str, ...] | None  # all that it knows; None if it does not tell


def read_result(response: httpx.Response) -> Result:
    """Of /generate and /edit."""
    data = response.json()
    return Result(
        image_id=data["image_id"],
        source_id=data["source_id"],
        image=None if data["image"] is None else decoded(data["image"]),
        image_url=data["image_url"],
        mask=None if data["mask"] is None else decoded(data["mask"]),
        receipt=receipt_of(data["receipt"]),
    )


def read_png(response: httpx.Response) -> bytes:
    """Of /images."""
    media_type = response.headers.get("content-type")
    if media_type != "image/png":
        raise ValueError(f"must be a PNG, got {media_type}")
    return response.content


def read_lineage(response: httpx.Response) -> Lineage:
    """Of /images/ID/lineage."""
    data = response.json()
    kept = [tuple(Kept(**_known(Kept, one)) for one in data[name]) for name in ("ancestors", "edits")]
    return Lineage(Kept(**_known(Kept, data["picture"])), *kept)


def read_model(response: httpx.Response) -> Model:
    """Of /model."""
    data = _known(Model, response.json())
    words = data["words"]
    return Model(**data | {"samplers": tuple(data["samplers"]), "words": None if words is None else tuple(words)})


def read_nothing(_response: httpx.Response) -> None:
    """Of a deletion."""


def read_ready(response: httpx.Response) -> bool:
    """Of /readyz."""
    return response.is_success


def receipt_of(data: Mapping[str, Any]) -> Receipt:
    """Of any job."""
    fallbacks = tuple(Fallback(**_known(Fallback, one)) for one in data["fallbacks"])
    return Receipt(**_known(Receipt, data) | {"fallbacks": fallbacks, "unknown_words": tuple(data["unknown_words"])})


def _known(cls: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(cls)}
    return {name: value for name, value in data.items() if name in names}
