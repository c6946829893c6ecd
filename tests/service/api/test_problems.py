from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from service import errors
from service.api.problems import HTTP_KINDS, KINDS
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

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 30  # a test that hangs fails
MEMBERS = {"field", "retry_after_seconds", "image_id", "deadline_seconds"}
PROBLEMS = [
    (RetouchError("some error"), 500, "failed"),
    (InputError("width", "is too much"), 422, "input"),
    (ConflictError("seed", "is the source's, 1; 2 was given"), 422, "conflict"),
    (UnknownImageError("x"), 404, "unknown-image"),
    (NoMaskError("x"), 404, "no-mask"),
    (UnauthorizedError("who?"), 401, "unauthorized"),
    (RepeatedError("it runs"), 409, "repeated"),
    (BusyError(12.3), 429, "busy"),
    (LimitError(12.3, "this key's"), 429, "limit"),
    (DeadlineError(5), 504, "deadline"),
    (NotReadyError("draining"), 503, "not-ready"),
    (JobFailedError("the device failed"), 500, "failed"),
]
DEFECT = (ZeroDivisionError("secret"), 500, "failed")


def test_every_named_error_has_its_own_row_and_its_own_test():
    named = {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, RetouchError)}
    assert named == set(KINDS) == {type(error) for error, _, _ in PROBLEMS}


@pytest.mark.parametrize(("error", "status", "name"), [*PROBLEMS, DEFECT])
async def test_what_ends_a_job_is_a_problem(client, scripts, error, status, name):
    scripts.error = error
    with capture_logs() as lines:
        response = await client.post("/generate", json={"prompt": "a house"})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == f"urn:retouch:problem:{name}"
    assert problem["status"] == status
    assert problem["title"]
    assert "secret" not in response.text
    assert {name: problem.get(name) for name in MEMBERS} == {name: getattr(error, name, None) for name in MEMBERS}
    assert ("retry-after" in response.headers) == (status in {429, 503})
    assert ("www-authenticate" in response.headers) == (status == 401)
    line = lines[-1]
    assert (line["event"], line["status"], line["problem"]) == ("request", status, name)


@pytest.mark.parametrize(("error", "status", "name"), [*PROBLEMS, DEFECT])
async def test_what_ends_a_stream_is_the_same_problem(call, scripts, error, status, name):
    scripts.error = error
    stream = call("/generate", {"prompt": "a house", "stream": True})
    await stream.start()
    problem = (await stream.events())["error"]
    assert (problem["type"], problem["status"]) == (f"urn:retouch:problem:{name}", status)
    assert {name: problem.get(name) for name in MEMBERS} == {name: getattr(error, name, None) for name in MEMBERS}
    assert "secret" not in str(problem)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (BusyError(12.3), "13"),
        (LimitError(0.2, "this key's"), "1"),
        (NotReadyError("the thread is started again", 60.5), "61"),
        (NotReadyError("draining"), "5"),
    ],
)
async def test_retry_after_is_the_errors_own_in_whole_seconds_rounded_up(client, scripts, error, seconds):
    scripts.error = error
    response = await client.post("/generate", json={"prompt": "a house"})
    assert response.headers["retry-after"] == seconds
    assert not isinstance(error, BusyError) or response.json()["detail"].endswith(f"try again in {seconds} s")


def test_what_the_framework_and_the_gate_refuse_has_rows():
    assert set(HTTP_KINDS) == {403, 404, 405, 408, 413}  # 403, 408 and 413: see the tests of gates and bodies


@pytest.mark.parametrize(
    ("method", "path", "status", "name"),
    [
        ("GET", "/nowhere", 404, "not-found"),
        ("GET", "/edit", 405, "method-not-allowed"),
        ("PUT", "/images/x", 405, "method-not-allowed"),
    ],
)
async def test_the_frameworks_own_errors_are_problems_too(client, method, path, status, name):
    response = await client.request(method, path)
    assert response.status_code == response.json()["status"] == status
    assert response.json()["type"] == f"urn:retouch:problem:{name}"
    assert response.headers["content-type"] == "application/problem+json"
    assert ("allow" in response.headers) == (status == 405)


@pytest.mark.parametrize("path", ["/edit/", "/images/x/", "/v1/images/edits/", "/docs/", "/nowhere"])
async def test_who_asks_for_a_path_that_is_none_is_told_where_paths_are_and_sent_nowhere(client, path):
    response = await client.get(path, headers={"host": "evil.example"})
    assert response.status_code == 404
    assert "location" not in response.headers
    assert "/docs" in response.text


async def test_a_method_that_is_not_allowed_is_told_which_are(client):
    response = await client.put("/images/x")
    assert set(response.headers["allow"].split(", ")) == {"GET", "DELETE"}


async def test_a_defect_of_the_api_is_a_problem_without_details(client, monkeypatch):
    monkeypatch.setattr(client.app.state.worker, "read", None)
    response = await client.get("/images/x")
    assert response.status_code == 500
    assert response.json()["type"] == "urn:retouch:problem:failed"
    assert "NoneType" not in response.text


async def test_a_client_that_has_gone_is_499_in_the_log(call, scripts):
    scripts.may_step.clear()
    with capture_logs() as lines:
        request = call("/generate", {"prompt": "a house"})
        await asyncio.to_thread(scripts.begun.wait, GUARD_SECONDS)
        request.gone.set()
        await request.task
    assert (lines[-1]["status"], lines[-1]["problem"]) == (499, "client-gone")
