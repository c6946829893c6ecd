"""Pictures as they travel: PNG, in JSON as base64."""

from __future__ import annotations

import base64
import binascii
import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.errors import InputError

MAX_SIDE = 2048  # pixels
PART = 1 << 18  # characters of base64 that are decoded at a time; four of them are three bytes
LATENT_SCALE = 8  # pixels of one latent position, where there is no picture to say it
BROKEN = "is a broken PNG"

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_OTHERS = {b"\xff\xd8\xff": "a JPEG", b"GIF8": "a GIF", b"RIFF": "a WebP", b"BM": "a BMP", b"": "no picture"}


def encode_png(image: Image.Image) -> bytes:
    """The file of a picture."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def encode_base64(png: bytes) -> str:
    """A file as text."""
    return base64.b64encode(png).decode("ascii")


def mask_image(edit_mask: NDArray[np.bool_], picture: Image.Image | None = None) -> Image.Image:
    """The edit mask [h, w], white where it changes, at its picture's size; without one at 8 pixels a position."""
    small = Image.fromarray(edit_mask.astype(np.uint8) * 255)
    size = picture.size if picture else (small.width * LATENT_SCALE, small.height * LATENT_SCALE)
    return small.resize(size, Image.Resampling.NEAREST)


def decode_mask(text: str, field: str = "edit_mask") -> Image.Image:
    """The edit mask of a request: a PNG in base64, of any mode but a palette's. InputError names the field.

    Which of its pixels are white is the engine's rule (`service.engine.masks`), so no colour is changed here.
    """
    try:
        png = _decoded(text)
    except (binascii.Error, ValueError) as error:
        raise InputError(field, "must be a PNG in base64 (without a data: prefix)") from error
    return read_mask(png, field)


def read_mask(png: bytes, field: str) -> Image.Image:
    """The same from a file's bytes. Nothing of the size that it claims is held before that is known to be small."""
    if len(png) < 24 or not png.startswith(_SIGNATURE):
        came = next(kind for magic, kind in _OTHERS.items() if png.startswith(magic))
        raise InputError(field, f"must be a PNG, got {came}")
    if png[12:16] != b"IHDR":
        raise InputError(field, BROKEN)
    _check_size(struct.unpack(">II", png[16:24]), field)
    try:
        image: Image.Image = Image.open(io.BytesIO(png), formats=["PNG"])
        _check_size(image.size, field)  # a second header may have claimed another one
        image.load()
        return _without_palette(image)
    except InputError:
        raise
    except Exception as error:  # whatever Pillow raises at what was made to break it
        raise InputError(field, BROKEN) from error


def _without_palette(image: Image.Image) -> Image.Image:
    """Pillow finds out that a palette does not fit its pixels, or is not there, when it is used: that is here."""
    if image.mode != "P":
        return image
    if image.palette is None:
        raise ValueError("there are no colours")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _decoded(text: str) -> bytes:
    """Base64, part by part: each holds the interpreter's lock while it is decoded, and so whoever else would run."""
    if "=" in text[:-2]:
        raise ValueError("padding before the end")
    parts = (text[start : start + PART] for start in range(0, len(text), PART))
    return b"".join([base64.b64decode(part, validate=True) for part in parts])


def _check_size(size: tuple[int, int], field: str) -> None:
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise InputError(field, f"must be 1 to {MAX_SIDE} pixels wide and high, got {size[0]} x {size[1]}")
