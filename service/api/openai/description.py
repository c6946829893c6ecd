"""What the API's description says of the OpenAI routes: their answers, their events, and the form of an edit."""

from __future__ import annotations

from typing import Any

from service.api import description
from service.api.description import JOBS, Described
from service.api.openai.errors import Failure, failure_of, status_of
from service.api.openai.forms import MEDIA_TYPE as FORM
from service.api.openai.schemas import EDIT, EditsRequest
from service.api.problems import MEDIA_TYPE as PROBLEM
from service.api.problems import Problem
from service.api.streams import HEADERS
from service.api.streams import MEDIA_TYPE as EVENTS

JSON = "application/json"
STREAM = """event: KIND.partial_image
data: {"type": "KIND.partial_image", "partial_image_index": 0, "b64_json": "iVBORw0KGgo...", "created_at": 1754000000, \
"size": "256x256", "quality": "auto", "background": "opaque", "output_format": "png", \
"retouch": {"number": 0, "step": 10}}

event: KIND.completed
data: {"type": "KIND.completed", "b64_json": "iVBORw0KGgo...", "created_at": 1754000001, "size": "256x256", \
"quality": "auto", "background": "opaque", "output_format": "png", "usage": {"input_tokens": 0, \
"input_tokens_details": {"image_tokens": 0, "text_tokens": 0}, "output_tokens": 0, "total_tokens": 0}, \
"retouch": {"number": 0, "image_id": "9c1e", "source_id": null, "image_url": "/images/9c1e", "receipt": {...}}}

"""
BINARY = {"type": "string", "format": "binary"}
PARTS = {
    "image": BINARY | {"description": "PNG of a picture that was drawn here"},
    "image[]": {"type": "array", "items": BINARY, "minItems": 1, "maxItems": 1, "description": "The same"},
    "mask": BINARY | {"description": "PNG of the same size; what is fully transparent in it changes"},
}


def documented(*statuses: int) -> Described:
    """These error answers, by the statuses that they have on native routes."""
    other = {"model": Failure, "description": "What else is refused"}  # FastAPI then adds no 422 of its own
    return {**{status_of(status): _described(status) for status in statuses}, "4XX": other}


def pictures(kind: str) -> Described:
    """All answers of a route that makes pictures."""
    described = {
        "description": "The pictures; with `stream` the events by which they come: `partial_image` (as many as were"
        " asked for), `completed`, and `error` where one fails. A comment keeps the line open every 15 s",
        "content": {EVENTS: {"schema": {"type": "string"}, "example": STREAM.replace("KIND", kind)}},
        "headers": {name: {"schema": {"type": "string"}, "description": "With `stream`"} for name in HEADERS},
    }
    return {200: described, **documented(*JOBS)}


def form() -> dict[str, Any]:
    """The body of an edit, as an operation's part."""
    schema = EditsRequest.model_json_schema()
    fields = {name: _without_null(field) for name, field in schema["properties"].items()}
    schema |= {"properties": PARTS | fields, "oneOf": [{"required": ["image"]}, {"required": ["image[]"]}]}
    return {"requestBody": {"required": True, "content": {FORM: {"schema": schema, "example": EDIT}}}}


def _described(status: int) -> dict[str, Any]:
    (told,) = description.documented(status).values()
    problem = Problem.model_validate(told["content"][PROBLEM]["example"])
    return told | {"model": Failure, "content": {JSON: {"example": failure_of(problem).model_dump()}}}


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """As a form has it: there what is not given is not there."""
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    rest = {name: value for name, value in field.items() if name not in {"anyOf", "default"}}
    return rest | kinds[0] if kinds else field
