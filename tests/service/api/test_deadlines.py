from __future__ import annotations

import pytest

pytestmark = pytest.mark.anyio

ROUTES = [
    ("/generate", {"prompt": "a house"}, 422),
    ("/edit", {"prompt": "a blue house", "source_prompt": "a house"}, 422),
    ("/v1/images/generations", {"prompt": "a house"}, 400),
]


@pytest.fixture
async def bounded(open_client):
    async with open_client(max_deadline_seconds=60) as client:
        yield client


@pytest.mark.parametrize(("path", "body", "status"), ROUTES)
async def test_a_deadline_that_is_longer_than_the_longest_is_refused_by_name(bounded, scripts, path, body, status):
    for more in ({}, {"stream": True}):
        response = await bounded.post(path, json=body | {"deadline_seconds": 60.5} | more)
        assert response.status_code == status
        problem = response.json()
        told = problem["error"]["message"] if "error" in problem else problem["detail"]
        assert told == "deadline_seconds: must be at most 60 here, got 60.5"
        assert (problem["error"]["param"] if "error" in problem else problem["field"]) == "deadline_seconds"
    assert scripts.jobs == []


@pytest.mark.parametrize(("path", "body", "status"), ROUTES)
async def test_a_job_has_its_own_deadline_or_the_longest(bounded, scripts, path, body, status):
    del status
    for own in ({}, {"deadline_seconds": 60}, {"deadline_seconds": 30}):
        assert (await bounded.post(path, json=body | own)).status_code == 200
    assert [job.deadline_seconds for job in scripts.jobs] == [60, 60, 30]


async def test_by_default_there_is_none(client, scripts):
    for own in ({}, {"deadline_seconds": 86400}):
        assert (await client.post("/generate", json={"prompt": "a house"} | own)).status_code == 200
    assert [job.deadline_seconds for job in scripts.jobs] == [None, 86400]
