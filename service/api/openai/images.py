"""Pictures as OpenAI's clients send and want them: uploads that must be known here, masks of transparency, formats."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.api.images import encode_png, read_mask
from service.errors import InputError

Format = Literal["png", "jpeg", "webp"]

FULL_QUALITY = 100
OPAQUE = 255
UNKNOWN = (
    "only pictures that were drawn here, for this key, and are still kept can be edited: upload the PNG as it came with"
    " its answer, or as GET /images/{id} sends it, unchanged"
)


@dataclass(frozen=True)
class Output:
    """How pictures are written."""

    format: Format = "png"
    quality: int = FULL_QUALITY  # 0 .. 100; PNG has none, and WebP is lossless at 100

    def encode(self, image: Image.Image) -> bytes:
        """The file of a picture."""
        if self.format == "png":
            return encode_png(image)
        options: dict[str, Any] = {"lossless": True} if self._is_lossless else {"quality": self.quality}
        buffer = io.BytesIO()
        image.save(buffer, self.format, **options)
        return buffer.getvalue()

    @property
    def _is_lossless(self) -> bool:
        return self.format == "webp" and self.quality == FULL_QUALITY


def read_source(file: bytes) -> Image.Image:
    """An uploaded picture as RGB. InputError where it cannot be one of ours."""
    try:
        image = read_mask(file, "image")
    except InputError as error:
        raise InputError("image", f"{error.message}; {UNKNOWN}") from error
    if image.has_transparency_data and _alpha(image).min() < OPAQUE:
        raise InputError("image", "must not be transparent anywhere: what may change is told by `mask`")
    return image.convert("RGB")


def read_edit_mask(file: bytes, size: tuple[int, int]) -> Image.Image:
    """The edit mask, white where it changes, of one that is transparent there.

    InputError where it is no PNG of this size (width, height), or does not say what changes.
    """
    image = read_mask(file, "mask")
    if image.size != size:
        came, wanted = (f"{width} x {height} pixels" for width, height in (image.size, size))
        raise InputError("mask", f"must have the size of the image, {wanted}, got {came}")
    if not image.has_transparency_data:
        raise InputError("mask", "must have an alpha channel, for what is fully transparent changes")
    changes = _alpha(image) == 0
    if not changes.any():
        raise InputError("mask", "is fully transparent nowhere, so that nothing would change")
    return Image.fromarray(changes.astype(np.uint8) * 255)


def _alpha(image: Image.Image) -> NDArray[np.uint8]:  # [height, width]
    return np.asarray(image.convert("RGBA").getchannel("A"))
