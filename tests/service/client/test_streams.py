"""A stream that is left, and one that is cut."""

from __future__ import annotations

import asyncio

import pytest

from service.client import AsyncClient
from service.jobs import Accepted

GUARD_SECONDS = 30  # a test that hangs fails


def test_leaving_a_stream_early_cancels_the_job(client, worker):
    worker.is_held = True
    with client.stream_generate("a house") as events:
        assert isinstance(next(events), Accepted)
        assert not worker.ended.is_set()
    assert worker.ended.wait(GUARD_SECONDS)


def test_an_error_in_a_stream_leaves_it(client, worker):
    worker.is_held = True

    def leave():
        with client.stream_generate("a house") as events:
            for _ in events:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert worker.ended.wait(GUARD_SECONDS)


def test_a_client_serves_on_after_a_stream_was_left(client, worker):
    with client.stream_edit("a house", image_id="source") as events:
        next(events)
    assert client.generate("a house").image_id == "id"
    assert len(worker.jobs) == 2


def test_events_of_a_stream_that_was_left_are_gone(client):
    with client.stream_generate("a house") as events:
        pass
    with pytest.raises((RuntimeError, StopIteration, StopAsyncIteration)):
        next(events)


@pytest.mark.parametrize("streams", [False, True])
def test_a_cancelled_task_cancels_its_job(scripted_server, worker, streams):
    worker.is_held = True

    async def ask(client):
        if not streams:
            return await client.generate("a house")
        async with client.stream_generate("a house") as events:
            return [event async for event in events]

    async def cancelled():
        async with AsyncClient(scripted_server[0]) as client:
            task = asyncio.create_task(ask(client))
            assert await asyncio.to_thread(worker.begun.wait, GUARD_SECONDS)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(worker.ended.wait, GUARD_SECONDS)

    asyncio.run(cancelled())
