"""Errors as HTTP says them: RFC 9457 problem details. The one table from our errors to status codes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from service.api.schemas import first_error
from service.errors import (
    BusyError,
    ConflictError,
    DeadlineError,
    InputError,
    JobFailedError,
    LimitError,
    NotReadyError,
    RepeatedError,
    RetouchError,
    UnauthorizedError,
    UnknownImageError,
)

MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:retouch:problem:"
NOT_READY_SECONDS = 5.0  # a model is loaded, or a service replaced, in about this time


class Problem(BaseModel):
    """What went wrong."""

    type: str = Field(description="Stable name of the kind of problem, `urn:retouch:problem:...`")
    title: str
    status: int
    detail: str
    field: str | None = Field(None, description="Which argument is at fault")

    @property
    def name(self) -> str:
        """The kind, in short."""
        return self.type.removeprefix(PREFIX)


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
HTTP_KINDS = {413: Kind(413, "too-large", "The body is too large")}
KINDS: dict[type[RetouchError], Kind] = {
    RetouchError: Kind(500, "failed", "The job failed"),
    InputError: INPUT,
    ConflictError: Kind(422, "conflict", "A value differs from the source's"),
    UnknownImageError: Kind(404, "unknown-image", "There is no such image"),
    UnauthorizedError: Kind(401, "unauthorized", "A key is needed"),
    RepeatedError: Kind(409, "repeated", "The same request still runs"),
    BusyError: Kind(429, "busy", "The service has too much to do"),
    LimitError: Kind(429, "limit", "This key's limit is reached"),
    DeadlineError: Kind(504, "deadline", "The deadline is over"),
    NotReadyError: Kind(503, "not-ready", "The service takes no jobs at present"),
    JobFailedError: Kind(500, "failed", "The job failed"),
}


def install(app: FastAPI) -> None:
    """Make every error of this app a problem, those of the framework included."""
    app.add_exception_handler(RetouchError, _named)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _defect)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These error answers, for the API's description."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def problem_of(error: Exception) -> Problem:
    """What went wrong, as clients are told; of a defect only that it was one."""
    if not isinstance(error, RetouchError):
        return _problem(KINDS[RetouchError], "the service met a defect; its log has the traceback")
    kind = KINDS[next(cls for cls in type(error).__mro__ if cls in KINDS)]
    return _problem(kind, str(error), getattr(error, "field", None))


def _problem(kind: Kind, detail: str, field: str | None = None) -> Problem:
    return Problem(type=kind.urn, title=kind.title, status=kind.status, detail=detail, field=field)


def _answer(request: Request, problem: Problem, retry: float | None = None) -> Response:
    headers = {} if retry is None else {"Retry-After": str(math.ceil(retry))}
    request.state.log["problem"] = problem.name
    return Response(problem.model_dump_json(exclude_none=True), problem.status, headers, MEDIA_TYPE)


async def _named(request: Request, error: Exception) -> Response:
    return _answer(request, problem_of(error), _retry_seconds(error))


def _retry_seconds(error: Exception) -> float | None:
    if isinstance(error, BusyError):
        return error.retry_after_seconds
    return NOT_READY_SECONDS if isinstance(error, NotReadyError) else None


async def _invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    found = first_error(error.errors())
    media_type = request.headers.get("content-type", "")
    if found.field == "body" and "json" not in media_type:
        found = InputError("content-type", f"must be application/json, the header came as {media_type!r}")
    return _answer(request, problem_of(found))


async def _http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == HTTPStatus.BAD_REQUEST:  # FastAPI's own: the body is no JSON at all
        return _answer(request, _problem(INPUT, f"body: {error.detail}", "body"))
    phrase = HTTPStatus(error.status_code).phrase
    kind = HTTP_KINDS.get(error.status_code) or Kind(error.status_code, phrase.lower().replace(" ", "-"), phrase)
    response = _answer(request, _problem(kind, error.detail))
    response.headers.update(error.headers or {})
    return response


async def _defect(request: Request, error: Exception) -> Response:
    """The server logs it."""
    return _answer(request, problem_of(error))
