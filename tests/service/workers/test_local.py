from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from types import SimpleNamespace

import pytest
import torch

from cache_store.store import MemoryStore
from service.batching.batcher import Batcher
from service.batching.policy import Limits
from service.batching.runner import Runner
from service.engine.weights import EMBEDDED
from service.errors import NotReadyError, UnknownImageError
from service.jobs import Accepted, GenerateJob, Receipt
from service.workers import local
from service.workers.local import LocalWorker, open_local, open_model

GUARD_SECONDS = 30  # a test that hangs fails


class Script:
    """A job of two network calls that says when it was ended early."""

    def __init__(self):
        self.begun = threading.Event()
        self.may_step = threading.Event()
        self.closed = threading.Event()

    def start(self, model, store, job):
        del model, store
        try:
            yield Accepted(job.prompt, None, 2)
            yield SimpleNamespace(shape_key=0, num_images=1)
            yield SimpleNamespace(shape_key=0, num_images=1)
            yield Receipt(job.prompt, seconds={"total": 1.0})
        except GeneratorExit:
            self.closed.set()
            raise

    def predict(self, unet, calls):
        del unet
        self.begun.set()
        assert self.may_step.wait(GUARD_SECONDS)
        return calls


@pytest.fixture
def script():
    return Script()


@pytest.fixture
def worker(script):
    store = MemoryStore(budget_bytes=0)
    model = SimpleNamespace(unet=None)
    batcher = Batcher(
        lambda: Runner(model, store, Limits(), start=script.start, predict=script.predict), max_jobs=2, running_jobs=2
    )
    batcher.wait_opened()
    yield LocalWorker(batcher, store)
    script.may_step.set()
    batcher.close()


async def events(worker):
    async with aclosing(worker.submit(GenerateJob("a"))) as stream:
        return [type(event) async for event in stream]


def test_events_arrive_in_the_event_loop(worker, script):
    script.may_step.set()
    assert asyncio.run(events(worker)) == [Accepted, Receipt]


def test_leaving_early_cancels_the_job(worker, script):
    async def leave():
        async with aclosing(worker.submit(GenerateJob("a"))) as stream:
            async for event in stream:
                assert isinstance(event, Accepted)
                break
        script.may_step.set()
        assert await asyncio.to_thread(script.closed.wait, GUARD_SECONDS)

    asyncio.run(leave())


def test_an_event_loop_that_is_gone_disturbs_nobody(worker, script):
    async def begin():
        stream = worker.submit(GenerateJob("a"))
        assert isinstance(await anext(stream), Accepted)
        await asyncio.to_thread(script.begun.wait, GUARD_SECONDS)

    asyncio.run(begin())
    script.may_step.set()
    assert asyncio.run(events(worker)) == [Accepted, Receipt]


def test_closing_does_not_block_the_loop(worker):
    asyncio.run(worker.close())
    assert worker.state == "dead"
    with pytest.raises(NotReadyError):
        asyncio.run(events(worker))


def test_pictures_come_from_the_store(worker):
    draft = worker._store.create("a", {})
    draft.put("image", b"png")
    draft.commit()
    assert asyncio.run(worker.read("a", "image")) == b"png"
    assert asyncio.run(worker.read("a", "edit_mask")) is None
    asyncio.run(worker.delete("a"))
    for missing in (worker.read("a", "image"), worker.delete("a")):
        with pytest.raises(UnknownImageError):
            asyncio.run(missing)


def test_a_worker_is_there_before_its_model():
    may_load = threading.Event()

    def load():
        assert may_load.wait(GUARD_SECONDS)
        return SimpleNamespace(unet=None)

    worker = open_local(load, cache_bytes=0, queue_jobs=1, limits=Limits(), drain_seconds=0)
    assert worker.state == "loading"
    may_load.set()
    assert worker._batcher.wait_opened() == "ready"
    asyncio.run(worker.close())


@pytest.mark.parametrize(("source", "path"), [("postcard", EMBEDDED), ("some/model", "some/model")])
def test_postcard_is_the_embedded_model(monkeypatch, source, path):
    monkeypatch.setattr(local, "load_model", lambda *given: given)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert open_model(source, device="auto", num_threads=1) == (path, device)
