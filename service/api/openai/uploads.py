"""What comes with an edit: its fields, the picture to edit, and where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from service.api.images import encode_base64, encode_png
from service.api.openai.forms import Form
from service.api.openai.images import UNKNOWN, read_edit_mask, read_source
from service.api.openai.schemas import EditsRequest, checked
from service.engine.core import pixels_digest
from service.errors import InputError

FILES = ("image", "mask")


@dataclass(frozen=True, eq=False)
class Upload:
    """An edit that is asked for."""

    body: EditsRequest
    source: Image.Image  # RGB
    digest: str  # of its pixels, by which it is known
    edit_mask: str | None  # as POST /edit takes it: PNG in base64, white where it changes

    @classmethod
    def of(cls, form: Form) -> Upload:
        """Reads all parts; that may take a while. InputError says what is wrong with which."""
        body = checked(EditsRequest, form.fields)
        body.check()
        file, mask = _one(form, "image"), _one(form, "mask")
        if file is None:
            raise InputError("image", f"is needed; {UNKNOWN}")
        source = read_source(file)
        body.check_size(source.size)
        edit_mask = None if mask is None else encode_base64(encode_png(read_edit_mask(mask, source.size)))
        return cls(body, source, pixels_digest(np.asarray(source)), edit_mask)


def _one(form: Form, name: str) -> bytes | None:
    files = form.files.get(name, [])
    if len(files) > 1:
        raise InputError(name, f"must be one picture, got {len(files)}")
    return files[0] if files else None
