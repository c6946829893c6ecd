"""Errors as HTTP says them: RFC 9457 problem details. The one table from our errors to status codes.

400            what is no HTTP request at all (`service.connections`); what is wrong with one has a name, and is a 422
401            UnauthorizedError
403 404 405    the gate's and the framework's
404            UnknownImageError, NoMaskError
408 413        of bodies
409            RepeatedError
422            InputError, ConflictError, and what pydantic finds
429            BusyError, LimitError
499            nobody reads it: the client has gone (logs only)
500            JobFailedError, defects
503            NotReadyError
504            DeadlineError
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from service.api import browsers
from service.api.request_ids import HEADER
from service.api.schemas import first_error
from service.errors import (
    BusyError,
    ConflictError,
    DeadlineError,
    InputError,
    JobFailedError,
    LimitError,
    NoMaskError,
    NotReadyError,
    RepeatedError,
    RetouchError,
    UnauthorizedError,
    UnknownImageError,
)

MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:retouch:problem:"
MOST_DETAIL, MOST_FIELD = 1000, 100  # characters: what came may be told again, and may be as long as a body


class Problem(BaseModel):
    """What went wrong."""

    type: str = Field(description="Stable name of the kind of problem, `urn:retouch:problem:...`")
    title: str
    status: int
    detail: str
    field: str | None = Field(None, description="Which argument is at fault", examples=["seed"])
    retry_after_seconds: float | None = Field(
        None, ge=0, description="When to come again; `Retry-After` is the same, rounded up", examples=[12.3]
    )
    image_id: str | None = Field(
        None, description="Of the image that is not there, or has no edit mask", examples=["6f1d0c2b9a"]
    )
    deadline_seconds: float | None = Field(None, description="What the request had given", examples=[5.0])

    @property
    def name(self) -> str:
        """The kind, in short."""
        return self.type.removeprefix(PREFIX)


MEMBERS = ("field", "retry_after_seconds", "image_id", "deadline_seconds")  # of an error, for machines to read
Write = Callable[[Problem, Mapping[str, str]], Response]  # a problem and its headers as an answer


@dataclass(frozen=True)
class Kind:
    """A kind of problem: how HTTP names it."""

    status: int
    name: str
    title: str

    @property
    def urn(self) -> str:
        """The stable `type`."""
        return PREFIX + self.name


INPUT = Kind(422, "input", "The request cannot be done as it is")
KINDS: dict[type[RetouchError], Kind] = {
    RetouchError: Kind(500, "failed", "The job failed"),
    InputError: INPUT,
    ConflictError: Kind(422, "conflict", "A value differs from the source's"),
    UnknownImageError: Kind(404, "unknown-image", "There is no such image"),
    NoMaskError: Kind(404, "no-mask", "The image was not edited"),
    UnauthorizedError: Kind(401, "unauthorized", "A key is needed"),
    RepeatedError: Kind(409, "repeated", "The same request still runs"),
    BusyError: Kind(429, "busy", "The service has too much to do"),
    LimitError: Kind(429, "limit", "This key's limit is reached"),
    DeadlineError: Kind(504, "deadline", "The deadline is over"),
    NotReadyError: Kind(503, "not-ready", "The service takes no jobs at present"),
    JobFailedError: Kind(500, "failed", "The job failed"),
}
HTTP_KINDS = {  # what has no error of ours
    403: Kind(403, "forbidden", "Not from there"),
    404: Kind(404, "not-found", "There is nothing here"),
    405: Kind(405, "method-not-allowed", "Not by this method"),
    408: Kind(408, "slow", "The body comes too slowly"),
    413: Kind(413, "too-large", "The body is too large"),
}


def install(app: FastAPI, others: Mapping[str, Write] = MappingProxyType({})) -> None:
    """Make every error of this app a problem, those of the framework included.

    `others` write them as other clients read them, for the paths that begin with their names.
    """
    for error in (RetouchError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(error, partial(_answer, others))


def problem_of(error: Exception) -> Problem:
    """What went wrong, as clients are told; of a defect only that it was one."""
    match error:
        case RetouchError():
            kind = KINDS[next(cls for cls in type(error).__mro__ if cls in KINDS)]
            return _problem(kind, str(error), **{name: getattr(error, name, None) for name in MEMBERS})
        case RequestValidationError():
            return problem_of(first_error(error.errors()))
        case HTTPException(status_code=HTTPStatus.BAD_REQUEST):  # FastAPI's own: the body cannot be parsed
            return problem_of(InputError("body", error.detail))
        case HTTPException(status_code=HTTPStatus.NOT_FOUND, detail=HTTPStatus.NOT_FOUND.phrase):  # the framework's own
            return _problem(HTTP_KINDS[404], "no route has this path; GET /docs shows those that there are")
        case HTTPException():
            phrase = HTTPStatus(error.status_code).phrase
            other = Kind(error.status_code, phrase.lower().replace(" ", "-"), phrase)
            return _problem(HTTP_KINDS.get(error.status_code, other), error.detail)
    return _problem(KINDS[RetouchError], "the service met a defect; its log has the traceback")


def headers_of(error: Exception) -> dict[str, str]:
    """What an error says in headers: when to come again, how to be let in."""
    match error:
        case BusyError() | NotReadyError():
            return {"Retry-After": str(math.ceil(error.retry_after_seconds))}
        case UnauthorizedError():
            return {"WWW-Authenticate": 'Bearer realm="retouch"'}
        case HTTPException():
            return dict(error.headers or {})
    return {}


async def _answer(others: Mapping[str, Write], request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        error = _with_media_type(request, first_error(error.errors()))
    if isinstance(error, HTTPException) and isinstance(error.__cause__, RetouchError):  # FastAPI's, of a body's read
        error = error.__cause__
    problem = problem_of(error)
    request.state.log["problem"] = problem.name
    own = {HEADER: request.state.request_id, **browsers.HEADERS}  # a defect's answer passes no middleware
    headers = headers_of(error) | own
    if "Allow" in headers:
        headers["Allow"] = await asyncio.to_thread(_allowed, request) or headers["Allow"]
    write = next((one for prefix, one in others.items() if request.url.path.startswith(prefix)), _written)
    return write(problem, headers)


def _written(problem: Problem, headers: Mapping[str, str]) -> Response:
    return Response(problem.model_dump_json(exclude_none=True), problem.status, headers, MEDIA_TYPE)


def _allowed(request: Request) -> str:
    """All methods of a path that is described; the framework tells those of its first route only."""
    path = getattr(request.scope.get("route"), "path", None)
    return ", ".join(sorted(method.upper() for method in request.app.openapi()["paths"].get(path, {})))


def _with_media_type(request: Request, error: InputError) -> InputError:
    """A body that was not read as JSON, for its header does not say that it is: that is what is wrong."""
    media_type = request.headers.get("content-type", "")
    if error.field == "body" and "json" not in media_type:
        return InputError("content-type", f"must be application/json, the header came as {media_type!r}")
    return error


def _problem(kind: Kind, detail: str, field: str | None = None, **members: Any) -> Problem:
    if len(detail) > MOST_DETAIL:
        detail = f"{detail[:MOST_DETAIL]}..."
    field = field and field[:MOST_FIELD]
    return Problem(type=kind.urn, title=kind.title, status=kind.status, detail=detail, field=field, **members)


NO_HTTP = _problem(Kind(400, "no-http", "This is no HTTP request"), "what came could not be read as HTTP/1.1")
