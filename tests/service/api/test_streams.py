from __future__ import annotations

import asyncio
import base64
import io
import json

import pytest
from PIL import Image
from structlog.testing import capture_logs

from service.api.streams import PING_SECONDS, EventStream, frame
from service.errors import JobFailedError
from service.exchange import Exchange

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 30  # a test that hangs fails
DRAW = {"prompt": "a zebra", "stream": True}
EDIT = {"prompt": "a blue zebra", "source_prompt": "a red zebra", "stream": True}


def picture(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


async def test_an_edit_is_told_as_it_comes(call):
    edit = call("/edit", EDIT | {"preview_every": 1})
    status, headers = await edit.start()
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-store"
    assert "content-length" not in headers
    assert await edit.event() == ("accepted", {"image_id": "id", "source_id": "source", "num_inference_steps": 1})
    name, mask = await edit.event()
    assert (name, set(mask), mask["edited_ratio"]) == ("mask", {"mask", "edited_ratio"}, 0.125)
    assert picture(mask["mask"]).size == (64, 64)
    name, preview = await edit.event()
    assert (name, preview["step"], preview["box"]) == ("preview", 1, [8, 16, 32, 32])
    assert picture(preview["image"]).size == (24, 16)
    name, image = await edit.event()
    assert (name, image["image_id"], image["image_url"]) == ("image", "id", "/images/id")
    assert picture(image["image"]).size == (64, 64)
    name, receipt = await edit.event()
    assert (name, receipt["image_id"], receipt["unknown_words"]) == ("receipt", "id", ["zebra"])
    assert await edit.event() is None


async def test_a_stream_tells_what_the_json_answer_tells(client, call):
    stream = call("/generate", DRAW)
    await stream.start()
    told = await stream.events()
    answer = (await client.post("/generate", json=DRAW | {"stream": False})).json()
    assert set(told) == {"accepted", "image", "receipt"}
    assert told["image"] == {name: answer[name] for name in ("image_id", "image", "image_url")}
    assert set(told["receipt"]) == set(answer["receipt"])


async def test_previews_need_a_stream(client, scripts):
    response = await client.post("/edit", json=EDIT | {"stream": False, "preview_every": 2})
    assert (response.status_code, response.json()["field"]) == (422, "preview_every")
    assert scripts.jobs == []


async def test_what_fails_before_the_first_event_has_its_own_status(call, client):
    await client.app.state.worker.close()
    stream = call("/generate", DRAW)
    status, headers = await stream.start()
    assert (status, headers["content-type"]) == (503, "application/problem+json")


async def test_what_fails_later_is_the_last_event(call, scripts):
    scripts.error = JobFailedError("the device failed")
    with capture_logs() as lines:
        stream = call("/generate", DRAW)
        assert (await stream.start())[0] == 200
        told = await stream.events()
        await stream.task
    assert list(told) == ["accepted", "error"]
    assert told["error"] == {
        "type": "urn:retouch:problem:failed", "title": "The job failed", "status": 500, "detail": "the device failed",
    }  # fmt: skip
    assert (lines[-1]["status"], lines[-1]["problem"]) == (200, "failed")


async def test_a_client_that_leaves_a_stream_cancels_its_job(client, call, scripts):
    scripts.may_step.clear()
    with capture_logs() as lines:
        stream = call("/generate", DRAW)
        await stream.start()
        assert (await stream.event())[0] == "accepted"
        stream.gone.set()
        await stream.task
        scripts.may_step.set()
        assert await asyncio.to_thread(scripts.closed.wait, GUARD_SECONDS)
    assert (lines[-1]["status"], lines[-1]["problem"]) == (499, "client-gone")
    assert (await client.post("/generate", json={"prompt": "the next"})).status_code == 200


class Answered:
    """A stream's answer, taken by a client that may stop to read."""

    def __init__(self, frames, **times):
        self.sent = []
        self.came = asyncio.Queue()
        self.reads = asyncio.Event()
        self.reads.set()
        self.exchange = Exchange({"type": "http"}, 0.0)
        self.scope = {"type": "http", "state": {"exchange": self.exchange}}
        stream = EventStream(frames, lambda error: frame("error", json.dumps(str(error))), **times)
        self.task = asyncio.create_task(stream(self.scope, asyncio.Event().wait, self._send))

    async def _send(self, message):
        await self.reads.wait()
        self.sent.append(message)
        self.came.put_nowait(message)

    async def wait(self, num_messages):
        for _ in range(num_messages):
            await asyncio.wait_for(self.came.get(), GUARD_SECONDS)


async def test_a_job_that_waits_for_its_turn_begins_its_stream_all_the_same(open_client, call_of, scripts):
    scripts.may_step.clear()
    async with open_client(queue_jobs=1) as client:
        first, second = (call_of(client, "/generate", DRAW) for _ in range(2))
        await first.start()
        assert (await asyncio.wait_for(second.start(), PING_SECONDS / 2))[0] == 200
        assert (await second.event())[0] == ""
        scripts.may_step.set()
        assert set(await second.events()) == {"accepted", "image", "receipt"}


async def test_only_the_first_comment_comes_sooner_than_the_others():
    async def frames():
        for name in ("first", "second"):
            for _ in range(100):  # turns of the loop, in which nothing comes
                await asyncio.sleep(0)
            yield frame(name, "1")

    answered = Answered(frames(), begin_seconds=0.0, ping_seconds=GUARD_SECONDS)
    await answered.task
    told = [message["body"].split(b"\n")[0] for message in answered.sent[1:]]
    assert told == [b": ping", b"event: first", b"event: second", b""]


async def test_comments_are_sent_while_nothing_comes():
    pinged = asyncio.Event()

    async def frames():
        await pinged.wait()
        yield frame("done", "1")

    answered = Answered(frames(), begin_seconds=0.001, ping_seconds=0.001)
    await answered.wait(3)
    pinged.set()
    await answered.task
    start, *bodies = answered.sent
    assert start["status"] == 200
    assert bodies[0]["body"] == bodies[1]["body"] == b": ping\n\n"
    assert bodies[-2]["body"] == b"event: done\ndata: 1\n\n"
    assert not bodies[-1]["more_body"]


async def test_a_failure_after_the_first_comment_is_an_event():
    pinged = asyncio.Event()

    async def frames():
        await pinged.wait()
        raise JobFailedError("late")
        yield

    answered = Answered(frames(), begin_seconds=0.001, ping_seconds=0.001)
    await answered.wait(2)
    pinged.set()
    await answered.task
    assert answered.sent[-1]["body"] == b'event: error\ndata: "late"\n\n'


async def test_a_client_that_takes_nothing_any_more_ends_the_frames():
    closed = asyncio.Event()

    async def frames():
        try:
            yield frame("first", "1")
            answered.reads.clear()
            yield frame("second", "2")
            yield frame("third", "3")
        finally:
            closed.set()

    answered = Answered(frames(), send_seconds=0.001)
    await answered.task
    assert closed.is_set()
    assert [message.get("body") for message in answered.sent] == [None, b"event: first\ndata: 1\n\n"]
    assert answered.exchange.is_gone


async def test_a_stream_that_the_server_ends_says_so():
    async def frames():
        yield frame("first", "1")
        await asyncio.Event().wait()

    answered = Answered(frames())
    await answered.wait(2)
    answered.task.cancel()
    await answered.task
    assert b"shut down" in answered.sent[-1]["body"]
