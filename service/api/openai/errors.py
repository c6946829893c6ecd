"""Errors as OpenAI's clients read them: the same problems, in their object.

All statuses are ours but one: what is wrong with a request is a 400 here, by which their clients know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from pydantic import BaseModel, Field
from starlette.responses import Response

from service.api.problems import Problem

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
FINAL = {500, 504}  # their clients try every 5xx again: a defect would be met twice, a deadline missed twice
PARAMS = {"width": "size", "height": "size", "edit_mask": "mask", "image_id": "image"}  # what is called so there


class Error(BaseModel):
    """What went wrong."""

    message: str
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(description="Which argument is at fault")
    code: str = Field(description="Stable name of the kind of problem; on native routes the end of its `type`")


class Failure(BaseModel):
    """The body of an answer that is an error."""

    error: Error


def failure_of(problem: Problem) -> Failure:
    """A problem as OpenAI's clients are told."""
    param = PARAMS.get(problem.field, problem.field) if problem.field else None
    return Failure(error=Error(message=problem.detail, type=_type(problem.status), param=param, code=problem.name))


def answer_of(problem: Problem, headers: Mapping[str, str]) -> Response:
    """The answer that a problem is."""
    content = failure_of(problem).model_dump_json()
    if problem.status in FINAL:
        headers = {**headers, "x-should-retry": "false"}
    return Response(content, status_of(problem.status), headers, "application/json")


def status_of(status: int) -> int:
    """The status there, of one that it is on native routes."""
    return int(HTTPStatus.BAD_REQUEST) if status == HTTPStatus.UNPROCESSABLE_ENTITY else status


def _type(status: int) -> str:
    return TYPES.get(status, "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error")
