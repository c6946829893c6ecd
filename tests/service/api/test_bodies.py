from __future__ import annotations

import asyncio
import base64
import json

import pytest
from fastapi import HTTPException
from PIL import Image

from service.api.bodies import FREE_BYTES, Bodies
from service.api.images import encode_png
from service.app import create_app
from service.errors import InputError
from service.settings import Settings

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 30  # a test that hangs fails
JSON = {"content-type": "application/json"}
LAST = {"type": "http.request", "body": b"last", "more_body": False}
MORE = {"type": "http.request", "body": b"more", "more_body": True}
GONE = {"type": "http.disconnect"}


async def read(messages, *, max_bytes=100, seconds=30.0, announced=None, num_reads=None, room_bytes=100):
    """What an application reads; after the messages nothing comes any more."""
    left, found = list(messages), []

    async def receive():
        return left.pop(0) if left else await asyncio.Event().wait()

    async def app(scope, receive, send):
        del scope, send
        found.extend([await receive() for _ in range(num_reads or len(messages))])

    headers = [] if announced is None else [(b"content-length", announced)]
    await Bodies(app, max_bytes, seconds, room_bytes)({"type": "http", "headers": headers}, receive, None)
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
        await Bodies(app, 100, 0.01, 100)({"type": "http", "headers": []}, receive, None)
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

    await Bodies(app, 0, 0.0, 0)({"type": "lifespan"}, receive, None)


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


LARGE_BYTES = 100_000
LARGE = {
    "prompt": "a house",
    "source_prompt": "a hut",
    "edit_mask": "A" * LARGE_BYTES,
}  # no picture: it is refused when it was read
DRAW = {"prompt": "a house"}
ROOM = {"body_bytes": 150_000, "bodies_bytes": 150_000, "queue_jobs": 9}


class Sending:
    """A request whose body is sent for as long as a test wants."""

    def __init__(self, client):
        self._has_begun = asyncio.Event()
        self._ends = asyncio.Event()
        self.task = asyncio.create_task(client.post("/edit", content=self._body(), headers=JSON))

    async def begin(self):
        await asyncio.wait_for(self._has_begun.wait(), GUARD_SECONDS)
        return self

    async def end(self):
        self._ends.set()
        return await asyncio.wait_for(self.task, GUARD_SECONDS)

    async def _body(self):
        whole = json.dumps(LARGE).encode()
        yield whole[:-1]
        self._has_begun.set()
        await self._ends.wait()
        yield whole[-1:]


async def test_bodies_have_room_in_common_while_they_are_read(open_client):
    async with open_client(**ROOM) as client:
        first = await Sending(client).begin()
        refused = await client.post("/edit", json=LARGE)
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:retouch:problem:not-ready")
        assert refused.headers["retry-after"] == "5"
        assert (await first.end()).json()["field"] == "edit_mask"
        assert (await client.post("/edit", json=LARGE)).json()["field"] == "edit_mask"


async def test_who_asks_in_words_is_not_refused_for_what_others_send(open_client):
    async with open_client(**ROOM) as client:
        others = [await Sending(client).begin()]
        for _ in range(3):  # take what is left
            others.append(Sending(client))
            assert (await asyncio.wait_for(others[-1].task, GUARD_SECONDS)).status_code == 503
        assert (await client.post("/generate", json=DRAW)).status_code == 200
        await others[0].end()


async def test_a_body_has_its_room_until_its_request_is_answered(open_client, scripts):
    """It is held by the job: an Idempotency-Key and a log of prompts read it again."""
    async with open_client(**ROOM) as client:
        scripts.may_step.clear()
        mask = base64.b64encode(encode_png(Image.effect_noise((300, 300), 99))).decode()
        assert len(mask) > ROOM["bodies_bytes"] / 2 + FREE_BYTES
        first = asyncio.create_task(client.post("/edit", json=DRAW | {"source_prompt": "a hut", "edit_mask": mask}))
        await asyncio.to_thread(scripts.begun.wait, GUARD_SECONDS)
        assert (await client.post("/edit", json=LARGE)).status_code == 503
        scripts.may_step.set()
        assert (await first).status_code == 200
        assert (await client.post("/edit", json=LARGE)).status_code == 422


async def test_who_sends_no_more_gives_its_room_back_when_its_time_is_over(serve, scripts):
    async with serve(Settings(**ROOM, body_seconds=0.05), open_worker=scripts.open_worker) as client:
        assert (await Sending(client).task).status_code == 408
        assert (await client.post("/edit", json=LARGE)).status_code == 422


async def test_who_goes_away_gives_its_room_back(open_client):
    async with open_client(**ROOM) as client:
        gone = await Sending(client).begin()
        gone.task.cancel()
        await asyncio.gather(gone.task, return_exceptions=True)
        assert (await client.post("/edit", json=LARGE)).status_code == 422


def test_the_largest_body_must_have_room():
    with pytest.raises(InputError, match=r"^RETOUCH_BODIES_BYTES: must be at least RETOUCH_BODY_BYTES"):
        create_app(Settings(body_bytes=2, bodies_bytes=1))
