"""Bodies of multipart/form-data: fields and files, as many as there may be."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect

from service.errors import InputError

MEDIA_TYPE = "multipart/form-data"
MAX_FILES = 16  # parts; what is more than an edit takes is refused by name
MAX_FIELDS = 64
MAX_FIELD_BYTES = 64 * 1024


@dataclass(frozen=True)
class Form:
    """What came, by name. A file may come several times, NAME or NAME[]; a field once."""

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)

    async def add(self, name: str, value: str | UploadFile, files: Container[str]) -> None:
        """One part. InputError as `read_form`."""
        if isinstance(value, UploadFile):
            if (plain := name.removesuffix("[]")) not in files:
                raise InputError(name, "is no file that is taken here")
            self.files.setdefault(plain, []).append(await value.read())
        elif name.removesuffix("[]") in files:
            raise InputError(name, "must be a file: a part with a filename")
        elif name in self.fields:
            raise InputError(name, "is given twice")
        else:
            self.fields[name] = value


async def read_form(request: Request, files: Container[str]) -> Form:
    """The form that a request's body is; `files` are the names of those that are taken.

    Raises:
        InputError: it is no form, or a part of it is not what its name says.
        HTTPException: it is broken, or too large, or has too many parts.
    """
    media_type = request.headers.get("content-type", "")
    if media_type.partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise InputError("content-type", f"must be {MEDIA_TYPE}, the header came as {media_type!r}")
    form = Form()
    try:
        async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES) as parts:
            for name, value in parts.multi_items():
                await form.add(name, value, files)
    except ClientDisconnect as error:
        raise InputError("body", "did not come to its end") from error
    return form
