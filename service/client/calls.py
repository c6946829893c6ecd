"""What is asked of a service: requests as plain data, which whoever has a connection sends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict
from urllib.parse import quote

from service.client.pictures import Picture, encoded
from service.errors import InputError, UnknownImageError
from service.jobs import Attention, Cache, Decoding, Detection, MaskMode, Sampler

HEADERS = {"idempotency_key": "Idempotency-Key", "request_id": "X-Request-Id"}


class GenerateFields(TypedDict, total=False):
    """What may be said beside a prompt. None is as good as nothing said."""

    seed: int | None
    num_inference_steps: int | None
    guidance_scale: float | None
    sampler: Sampler | None
    width: int | None  # pixels
    height: int | None  # pixels
    negative_prompt: str | None
    cache: Cache
    deadline_seconds: float | None  # refused if it would take longer, ended if it does
    idempotency_key: str | None  # the same key with the same fields is the same answer: the job is run once
    request_id: str | None  # what the service's log calls the request


class EditFields(GenerateFields, total=False):
    """What may be said beside the new words; the source is one of `image_id` and `source_prompt`, or looked for."""

    image_id: str | None
    source_prompt: str | None
    edit_mask: Picture | None  # white may change
    mask_mode: MaskMode | None
    preset: Literal["fisedit"] | None
    detection: Detection | None
    attention: Attention | None
    dilation: int | None  # latent positions; the next two as well
    margin: int | None
    paste_margin: int | None
    decoding: Decoding | None
    deep_every: int | None
    dry_run: bool
    min_similarity: float | None


class GenerateStreamFields(GenerateFields, total=False):
    """The same, told as it comes."""

    preview_every: int  # steps; 0 = no previews


class EditStreamFields(EditFields, total=False):
    """The same, told as it comes."""

    preview_every: int  # steps; 0 = no previews


@dataclass(frozen=True)
class Call:
    """One request, and the statuses by which it went well."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    statuses: frozenset[int] = frozenset({200})

    @property
    def content(self) -> bytes | None:
        """The body as it travels. Numbers and texts that JSON cannot hold go through: it is the service that judges."""
        return None if self.body is None else json.dumps(self.body).encode()


def generate(prompt: str, fields: Mapping[str, Any], *, stream: bool = False) -> Call:
    """Draw a picture; `fields` as `GenerateFields`. InputError where one cannot be sent."""
    return _job("/generate", prompt, fields, stream=stream)


def edit(prompt: str, fields: Mapping[str, Any], *, stream: bool = False) -> Call:
    """Change the words of one; `fields` as `EditFields`. InputError where one cannot be sent."""
    edit_mask = fields.get("edit_mask")
    text = None if edit_mask is None else encoded(edit_mask, "edit_mask")
    return _job("/edit", prompt, {**fields, "edit_mask": text}, stream=stream)


def image(image_id: str) -> Call:
    """The PNG of a picture that is kept."""
    return _about(image_id)


def mask(image_id: str) -> Call:
    """The PNG of what its edit changed."""
    return _about(image_id, "/mask")


def lineage(image_id: str) -> Call:
    """Where it comes from, and what was made of it."""
    return _about(image_id, "/lineage")


def delete(image_id: str) -> Call:
    """Forget it."""
    return _about(image_id, method="DELETE", status=204)


def model() -> Call:
    """What the service draws with."""
    return Call("GET", "/model")


def ready() -> Call:
    """Whether jobs are taken; that they are not is an answer, too."""
    return Call("GET", "/readyz", statuses=frozenset({200, 503}))


def header(name: str, value: str) -> str:
    """A value that a header can have. InputError, which does not repeat the value: it may be a key."""
    if not (value.isascii() and value.isprintable() and value == value.strip() and value):
        raise InputError(name, "must be printable ASCII without spaces around it")
    return value


def _job(path: str, prompt: str, fields: Mapping[str, Any], *, stream: bool) -> Call:
    said = {name: value for name, value in fields.items() if value is not None}
    headers = {HEADERS[name]: header(name, said.pop(name)) for name in HEADERS if name in said}
    body = {"prompt": prompt, **said} | ({"stream": True} if stream else {})
    return Call("POST", path, body, headers | {"Content-Type": "application/json"})


def _about(image_id: str, part: str = "", method: str = "GET", status: int = 200) -> Call:
    if "/" in image_id or not image_id.strip("."):  # as a path it would lead elsewhere
        raise UnknownImageError(image_id)
    path = f"/images/{quote(image_id, safe='')}{part}"
    return Call(method, path, statuses=frozenset({status}))
