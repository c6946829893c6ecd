"""What the user said, as a request; and errors, as what the user said."""

from __future__ import annotations

import argparse
import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from service.commands.files import WHAT
from service.errors import InputError

if TYPE_CHECKING:
    from service.api.schemas import EditRequest, GenerateRequest

OWN = {
    *WHAT,
    "command",
    "json",
    "model",
    "device",
    "server",
    "key",
    "idempotency_key",
}  # options that are no fields of a request
FLAGS = {  # where the user knows a field by another name
    "num_inference_steps": "--steps",
    "edit_mask": "--mask",
    "name": "NAME",
    "base_url": "--server",
    "Idempotency-Key": "--idempotency-key",
    "embedding_model": "RETOUCH_EMBEDDING_MODEL",
}

Request = TypeVar("Request", "EditRequest", "GenerateRequest")


def fields_of(options: argparse.Namespace) -> dict[str, Any]:
    """By the API's names; the edit mask is the path of a PNG."""
    return {name: value for name, value in vars(options).items() if name not in OWN and value is not None}


def validated(schema: type[Request], fields: dict[str, Any], *, stream: bool) -> Request:
    """The same as a request. InputError where it cannot be one."""
    from pydantic import ValidationError  # noqa: PLC0415  # `retouch --help` needs no pydantic models

    from service.api.schemas import first_error  # noqa: PLC0415

    if "edit_mask" in fields:
        fields = fields | {"edit_mask": base64.b64encode(_read(fields["edit_mask"])).decode("ascii")}
    try:
        return schema(**fields, stream=stream)
    except ValidationError as error:
        raise first_error(error.errors()[:1]) from error


def as_flag(error: InputError, options: argparse.Namespace) -> str:
    """The error's text, with the field as the command line names it."""
    flag = FLAGS.get(error.field, error.field)
    if flag == "prompt" and not hasattr(options, "source_prompt"):  # the argument of `retouch generate`
        flag = "PROMPT"
    elif flag in vars(options):
        flag = "--" + flag.replace("_", "-")
    return f"{flag}: {error.message}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError("edit_mask", f"{path}: {error.strerror}") from error
