"""Pictures as they travel: PNG, in JSON as base64."""

from __future__ import annotations

import base64
import io
from os import PathLike
from pathlib import Path

from PIL import Image

from service.errors import InputError

Picture = bytes | str | PathLike[str] | Image.Image  # a PNG, the path of one, or what PIL has of it


def encoded(picture: Picture, field: str) -> str:
    """In base64. InputError names the field where there is no such file, or PNG cannot hold the picture."""
    return base64.b64encode(_png(picture, field)).decode("ascii")


def decoded(text: str) -> bytes:
    """The PNG. ValueError if it is no base64."""
    return base64.b64decode(text, validate=True)


def opened(png: bytes) -> Image.Image:
    """The picture of a PNG, read. OSError if it is none."""
    image: Image.Image = Image.open(io.BytesIO(png), formats=["PNG"])
    image.load()
    return image


def _png(picture: Picture, field: str) -> bytes:
    if isinstance(picture, bytes):
        return picture
    try:
        if isinstance(picture, Image.Image):
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            return buffer.getvalue()
        return Path(picture).read_bytes()
    except OSError as error:
        raise InputError(field, str(error)) from error
