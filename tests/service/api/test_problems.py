from __future__ import annotations

import pytest

from service import errors
from service.api.problems import KINDS
from service.errors import BusyError, ConflictError, JobFailedError, NotReadyError, RetouchError, UnknownImageError

pytestmark = pytest.mark.anyio


def test_every_named_error_has_its_own_status():
    named = {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, RetouchError)}
    assert named == set(KINDS)


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [
        (ConflictError("seed", "is the source's, 1; 2 was given"), 422, "conflict"),
        (UnknownImageError("x"), 404, "unknown-image"),
        (BusyError(12.3), 429, "busy"),
        (NotReadyError("draining"), 503, "not-ready"),
        (JobFailedError("the device failed"), 500, "failed"),
        (ZeroDivisionError("secret"), 500, "failed"),
    ],
)
async def test_what_ends_a_job_is_a_problem(client, scripts, error, status, name):
    scripts.error = error
    response = await client.post("/generate", json={"prompt": "a house"})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == f"urn:retouch:problem:{name}"
    assert problem["status"] == status
    assert "secret" not in response.text
    assert problem.get("field") == getattr(error, "field", None)
    assert ("retry-after" in response.headers) == (status in {429, 503})


async def test_retry_after_is_whole_seconds_rounded_up(client, scripts):
    scripts.error = BusyError(12.3)
    response = await client.post("/generate", json={"prompt": "a house"})
    assert response.headers["retry-after"] == "13"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/edit", 405)])
async def test_the_frameworks_own_errors_are_problems_too(client, method, path, status):
    response = await client.request(method, path)
    assert response.status_code == response.json()["status"] == status
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_defect_of_the_api_is_a_problem_without_details(client, monkeypatch):
    monkeypatch.setattr(client.app.state.worker, "read", None)
    response = await client.get("/images/x")
    assert response.status_code == 500
    assert response.json()["type"] == "urn:retouch:problem:failed"
    assert "NoneType" not in response.text
