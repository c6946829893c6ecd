from __future__ import annotations

import asyncio

import pytest
from fastapi import HTTPException

from service.api.bodies import Bodies
from service.settings import Settings

pytestmark = pytest.mark.anyio

LAST = {"type": "http.request", "body": b"last", "more_body": False}
MORE = {"type": "http.request", "body": b"more", "more_body": True}
GONE = {"type": "http.disconnect"}


async def read(messages, *, max_bytes=100, seconds=30.0, announced=None, num_reads=None):
    """What an application reads; after the messages nothing comes any more."""
    left, found = list(messages), []

    async def receive():
        return left.pop(0) if left else await asyncio.Event().wait()

    async def app(scope, receive, send):
        del scope, send
        found.extend([await receive() for _ in range(num_reads or len(messages))])

    headers = [] if announced is None else [(b"content-length", announced)]
    await Bodies(app, max_bytes, seconds)({"type": "http", "headers": headers}, receive, None)
    return found


async def test_a_body_of_the_right_size_is_read_as_it_comes():
    assert await read([MORE, LAST, GONE], max_bytes=8, announced=b"8") == [MORE, LAST, GONE]


@pytest.mark.parametrize("announced", [None, b"4", b"nonsense", b"-9", "²".encode()])
async def test_a_body_that_becomes_too_large_is_refused_when_it_is(announced):
    with pytest.raises(HTTPException) as refused:
        await read([MORE, LAST], max_bytes=7, announced=announced)
    assert refused.value.status_code == 413
    assert refused.value.headers == {"Connection": "close"}


@pytest.mark.parametrize("announced", [b"8", b"9" * 5000])
async def test_a_body_that_is_announced_too_large_is_not_read(announced):
    with pytest.raises(HTTPException) as refused:
        await read([MORE], max_bytes=7, announced=announced)
    assert refused.value.status_code == 413


async def test_a_body_that_comes_too_slowly_is_refused():
    with pytest.raises(HTTPException) as refused:
        await read([MORE], seconds=0.001, num_reads=2)
    assert refused.value.status_code == 408
    assert refused.value.headers == {"Connection": "close"}


async def test_more_of_a_body_gives_it_no_more_time():
    async def app(scope, receive, send):
        del scope, send
        while True:
            await receive()

    async def receive():
        await asyncio.sleep(0)
        return MORE | {"body": b""}

    with pytest.raises(HTTPException) as refused:
        await Bodies(app, 100, 0.01)({"type": "http", "headers": []}, receive, None)
    assert refused.value.status_code == 408


async def test_after_the_body_a_client_may_be_as_quiet_as_it_likes():
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read([LAST], seconds=0.001, num_reads=2), 0.05)


async def test_what_is_no_request_has_no_body():
    async def app(scope, receive, send):
        del scope, send
        assert await receive() is None

    async def receive():
        return None

    await Bodies(app, 0, 0.0)({"type": "lifespan"}, receive, None)


async def test_a_slow_body_is_a_problem(serve, scripts):
    async def never():
        yield b"{"
        await asyncio.Event().wait()

    async with serve(Settings(body_seconds=0.01), open_worker=scripts.open_worker) as client:
        response = await client.post("/generate", content=never(), headers={"content-type": "application/json"})
    assert response.status_code == 408
    assert response.json()["type"] == "urn:retouch:problem:slow"
    assert scripts.jobs == []


async def test_a_refused_body_is_a_problem_and_ends_the_connection(client):
    response = await client.post("/edit", content=b" " * (8 * 2**20 + 1))
    assert response.status_code == 413
    assert response.headers["connection"] == "close"
    assert response.json()["type"] == "urn:retouch:problem:too-large"
