"""What the API's description says of answers: every status, header and media type that can come."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from service.api.problems import HTTP_KINDS, KINDS, MEDIA_TYPE, Problem
from service.api.request_ids import HEADER

Described = dict[int | str, dict[str, Any]]

GATED = (401, 403, 429, 500)  # of every route behind the gate
JOBS = (*GATED, 404, 408, 409, 413, 422, 503, 504)  # of those that run jobs
DETAILS = {  # examples
    401: "a key is needed: Authorization: Bearer KEY",
    403: "without keys this service takes nothing from pages of other sites",
    404: "no image has the id '6f1d0c2b9a'",
    408: "the body must come within 30 s",
    409: "the request with this Idempotency-Key still runs",
    413: "the body must be at most 8388608 bytes",
    422: "seed: Input should be greater than or equal to 0",
    429: "the queue is full; try again in 12 s",
    500: "the service met a defect; its log has the traceback",
    503: "the model is still loading",
    504: "the deadline of 5 s was over before the job was done",
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


def complete(app: FastAPI, *, needs_key: bool) -> None:
    """Every answer has the header that all have; a key may be left out where none is known."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            for path in described()["paths"].values():
                for operation in path.values():
                    for answer in operation["responses"].values():
                        answer.setdefault("headers", {})[HEADER] = REQUEST_ID
                    if "security" in operation and not needs_key:
                        operation["security"].append({})
        return described()

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way


def _error(status: int) -> dict[str, Any]:
    kinds = [*KINDS.values(), *HTTP_KINDS.values()]
    kind = next(kind for kind in kinds if kind.status == status)
    example = {"type": kind.urn, "title": kind.title, "status": status, "detail": DETAILS[status]}
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        example["field"] = "seed"
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema(), "example": example}}
    description = ", or: ".join(dict.fromkeys(kind.title for kind in kinds if kind.status == status))
    return {"description": description, "content": content, "headers": dict(HEADERS.get(status, {}))}
