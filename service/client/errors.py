"""Problems of the service, as the errors that they were there (`service.api.problems` is the other side's table)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

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
    later,
)

MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:retouch:problem:"
ERRORS: dict[str, type[RetouchError]] = {
    "input": InputError,
    "conflict": ConflictError,
    "unknown-image": UnknownImageError,
    "no-mask": NoMaskError,
    "unauthorized": UnauthorizedError,
    "repeated": RepeatedError,
    "busy": BusyError,
    "limit": LimitError,
    "deadline": DeadlineError,
    "not-ready": NotReadyError,
    "failed": JobFailedError,
}
SHOWN = 200  # characters of a strange answer: it may be a page
NOT_OURS = (ValueError, KeyError, TypeError, OSError)  # what reading an answer raises that is not the service's


class ServerError(RetouchError):
    """An answer that has no error of its own: a status that the client does not know, or what no Retouch sends."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"the server answered {status}: {text[:SHOWN]}{'...' if len(text) > SHOWN else ''}")
        self.status = status
        self.text = text


def failure(response: httpx.Response) -> RetouchError:
    """What a response says that went badly; its body has been read."""
    if response.headers.get("content-type", "").startswith(MEDIA_TYPE):
        with understood(response):
            return problem_error(response, response.json())
    return _noted(ServerError(response.status_code, response.text), response)


def problem_error(response: httpx.Response, problem: Mapping[str, Any]) -> RetouchError:
    """The error of a problem object, that of a stream included."""
    status, detail = problem["status"], problem["detail"]
    cls = ERRORS.get(problem["type"].removeprefix(PREFIX))
    error: RetouchError
    if cls is None:
        error = ServerError(status, detail)
    elif issubclass(cls, InputError):
        error = cls(problem["field"], detail.removeprefix(f"{problem['field']}: "))
    elif issubclass(cls, BusyError):
        seconds = problem["retry_after_seconds"]
        error = cls(seconds, detail.removesuffix(later(seconds)))
    elif issubclass(cls, NotReadyError):
        error = cls(detail, problem["retry_after_seconds"])
    elif issubclass(cls, UnknownImageError | NoMaskError):
        error = cls(problem["image_id"])
    elif issubclass(cls, DeadlineError):
        error = cls(problem["deadline_seconds"])
    else:
        error = cls(detail)
    return _noted(error, response)


def cut_off(response: httpx.Response) -> RetouchError:
    """A stream that ended without an end: someone between cut it."""
    return _noted(ServerError(response.status_code, "the stream ended before the job did"), response)


@contextmanager
def understood(response: httpx.Response) -> Iterator[None]:
    """ServerError where what is read inside is not what a Retouch says."""
    try:
        yield
    except NOT_OURS as error:
        raise _noted(ServerError(response.status_code, f"no answer of this service: {error!r}"), response) from error


def _noted(error: RetouchError, response: httpx.Response) -> RetouchError:
    """With what the service's log calls the request, for whoever reads the traceback."""
    if request_id := response.headers.get("x-request-id"):
        error.add_note(f"X-Request-Id: {request_id}")
    return error
