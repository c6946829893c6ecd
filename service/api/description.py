"""What the API's description says of answers: every status, header and media type that can come."""

from __future__ import annotations

import json
from threading import Lock
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from service.api.problems import HTTP_KINDS, KINDS, MEDIA_TYPE, Problem, problem_of
from service.api.request_ids import HEADER
from service.errors import (
    BusyError,
    DeadlineError,
    InputError,
    NotReadyError,
    RepeatedError,
    UnauthorizedError,
    UnknownImageError,
)

JSON = "application/json"
Described = dict[int | str, dict[str, Any]]

GATED = (401, 403, 429, 500)  # of every route behind the gate
JOBS = (*GATED, 404, 408, 409, 413, 422, 503, 504)  # of those that run jobs
EXAMPLES: dict[int, Exception] = {
    401: UnauthorizedError("a key is needed: Authorization: Bearer KEY"),
    403: HTTPException(403, "without keys this service answers no pages of other sites"),
    404: UnknownImageError("6f1d0c2b9a"),
    408: HTTPException(408, "the body must come within 30 s"),
    409: RepeatedError("the request with this Idempotency-Key still runs"),
    413: HTTPException(413, "the body must be at most 8388608 bytes"),
    422: InputError("seed", "Input should be greater than or equal to 0"),
    429: BusyError(12.3),
    500: Exception("a defect"),
    503: NotReadyError("the model is still loading"),
    504: DeadlineError(5.0),
}
SECONDS: dict[str, Any] = {"schema": {"type": "integer", "minimum": 0}, "description": "Seconds: when to come again"}
HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    429: {"Retry-After": SECONDS},
    503: {"Retry-After": SECONDS},
}
REQUEST_ID = {"schema": {"type": "string"}, "description": "The request's own, if it came with one; logs have it"}


def documented(*statuses: int) -> Described:
    """These error answers."""
    return {status: _error(status) for status in statuses}


def example_of(answer: BaseModel) -> dict[str, Any]:
    """The content of an answer such as this one; as text until `complete`, for FastAPI drops what is null in it."""
    return {JSON: {"example": answer.model_dump_json()}}


def complete(app: FastAPI, *, needs_key: bool) -> None:
    """Every answer has the header that all have, examples their nulls; a key may be left out where none is known.

    The first description takes a third of a second to make: threads may ask for it.
    """
    described, making = app.openapi, Lock()

    def openapi() -> dict[str, Any]:
        with making:
            if app.openapi_schema is None:
                for path in described()["paths"].values():
                    for operation in path.values():
                        _complete(operation, needs_key=needs_key)
            return described()

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way


def _complete(operation: dict[str, Any], *, needs_key: bool) -> None:
    for answer in operation["responses"].values():
        answer.setdefault("headers", {})[HEADER] = REQUEST_ID
        shown = answer.get("content", {}).get(JSON, {})
        if isinstance(shown.get("example"), str):
            shown["example"] = json.loads(shown["example"])
    if "security" in operation and not needs_key:
        operation["security"].append({})


def _error(status: int) -> dict[str, Any]:
    titles = [kind.title for kind in (*KINDS.values(), *HTTP_KINDS.values()) if kind.status == status]
    example = problem_of(EXAMPLES[status]).model_dump(exclude_none=True)
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema(), "example": example}}
    description = ", or: ".join(dict.fromkeys(titles))
    return {"description": description, "content": content, "headers": dict(HEADERS.get(status, {}))}
