from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from cache_store.index.memory import MemoryIndex
from cache_store.store import Store
from cache_store.tiers.disk import Disk
from cache_store.tiers.files import StoredFile
from service.app import open_local_worker
from service.batching.batcher import Batcher
from service.batching.policy import Limits
from service.batching.runner import Runner
from service.engine.catalog import Catalog
from service.engine.weights import Defaults
from service.errors import NotReadyError
from service.jobs import Accepted, GenerateJob, Receipt, SamplingRequest
from service.settings import Settings
from service.workers.local import LocalWorker, open_local
from service.workers.models import open_model
from service.workers.stores import open_store

GUARD_SECONDS = 30  # a test that hangs fails


class Script:
    """A job of two network calls that says when it was ended early."""

    def __init__(self):
        self.begun = threading.Event()
        self.may_step = threading.Event()
        self.closed = threading.Event()
        self.names = []  # whose network calls were made

    def start(self, model, store, job):
        del model, store
        try:
            yield Accepted(job.prompt, None, 2)
            for _ in range(2):
                yield SimpleNamespace(name=job.prompt, shape_key=0, num_images=1, num_rows=1)
            yield Receipt(job.prompt, seconds={"total": 1.0})
        except GeneratorExit:
            self.closed.set()
            raise

    def predict(self, unet, calls):
        del unet
        self.names += [call.name for call in calls]
        self.begun.set()
        assert self.may_step.wait(GUARD_SECONDS)
        return calls


@pytest.fixture
def script():
    return Script()


@pytest.fixture
def worker(script):
    store = Store(budget_bytes=0)
    model = SimpleNamespace(unet=None)
    limits = Limits(running_jobs=1)
    batcher = Batcher(
        lambda: Runner(model, store, limits, start=script.start, predict=script.predict), max_jobs=3, running_jobs=1
    )
    batcher.wait_opened()
    yield LocalWorker(batcher, store)
    script.may_step.set()
    batcher.close()


async def events(worker, prompt="a"):
    async with aclosing(worker.submit([GenerateJob(prompt)])) as stream:
        return [type(event) async for _, event in stream]


def test_events_arrive_in_the_event_loop(worker, script):
    script.may_step.set()
    assert asyncio.run(events(worker)) == [Accepted, Receipt]


def test_leaving_early_cancels_the_job(worker, script):
    async def leave():
        async with aclosing(worker.submit([GenerateJob("a")])) as stream:
            async for _, event in stream:
                assert isinstance(event, Accepted)
                break
        script.may_step.set()
        assert await asyncio.to_thread(script.closed.wait, GUARD_SECONDS)

    asyncio.run(leave())


def test_a_stream_that_is_left_frees_its_place_within_one_network_call(script, worker):
    """There is one place. Who leaves during the first of two calls makes no second one; then the next job has it."""

    async def leave():
        first = worker.submit([GenerateJob("a")])
        assert isinstance((await anext(first))[1], Accepted)
        second = asyncio.create_task(events(worker, "b"))
        assert await asyncio.to_thread(script.begun.wait, GUARD_SECONDS)
        await first.aclose()
        script.may_step.set()
        assert await second == [Accepted, Receipt]

    asyncio.run(leave())
    assert script.names == ["a", "b", "b"]
    assert worker.numbers().batching.ended_jobs == {"cancelled": 1, "done": 1}


def test_the_jobs_of_a_request_are_told_by_their_numbers(worker, script):
    async def read():
        async with aclosing(worker.submit([GenerateJob("a"), GenerateJob("b")])) as stream:
            return [(number, type(event)) async for number, event in stream]

    script.may_step.set()
    assert asyncio.run(read()) == [(0, Accepted), (0, Receipt), (1, Accepted), (1, Receipt)]


def test_leaving_early_cancels_all_jobs_of_a_request(worker, script):
    async def leave():
        async with aclosing(worker.submit([GenerateJob("a"), GenerateJob("b")])) as stream:
            await anext(stream)
        script.may_step.set()
        assert await events(worker, "c") == [Accepted, Receipt]

    asyncio.run(leave())
    assert "b" not in script.names
    assert worker.numbers().batching.ended_jobs == {"cancelled": 2, "done": 1}


def test_numbers_are_those_of_the_batcher_and_the_store(script, worker):
    script.may_step.set()
    asyncio.run(events(worker))
    numbers = worker.numbers()
    assert (numbers.state, numbers.index, numbers.index_up, numbers.device_bytes) == ("ready", None, None, 0)
    assert numbers.batching.steps_by_images == {1: 2}
    assert numbers.store["recordings"] == {(): 0}
    index = MemoryIndex()
    numbers = LocalWorker(worker._batcher, Store(0), Catalog(index, "w", 1)).numbers()
    assert (numbers.index, numbers.index_up) == (index.counts(), True)


def test_an_event_loop_that_is_gone_disturbs_nobody(worker, script):
    async def begin():
        stream = worker.submit([GenerateJob("a")])
        assert isinstance((await anext(stream))[1], Accepted)
        await asyncio.to_thread(script.begun.wait, GUARD_SECONDS)

    asyncio.run(begin())
    script.may_step.set()
    assert asyncio.run(events(worker)) == [Accepted, Receipt]


def test_closing_does_not_block_the_loop(worker):
    asyncio.run(worker.close())
    assert worker.state == "dead"
    with pytest.raises(NotReadyError):
        asyncio.run(events(worker))


def test_a_worker_is_there_before_its_model():
    may_load = threading.Event()

    def load():
        assert may_load.wait(GUARD_SECONDS)
        defaults = Defaults(64, 64, words=("house",))
        return SimpleNamespace(
            name="tiny", unet=None, device=torch.device("cpu"), defaults=defaults, max_pixels=4096, latent_scale=8,
            sampler_config={"num_train_timesteps": 1000},
        )  # fmt: skip

    worker = open_local(load, Store(0), queue_jobs=1, limits=Limits())
    assert (worker.state, worker.card) == ("loading", None)
    may_load.set()
    assert worker._batcher.wait_opened() == "ready"
    assert (worker.card.name, worker.card.words, worker.card.max_pixels) == ("tiny", ("house",), 4096)
    assert (worker.card.defaults.width, worker.card.defaults.sampler) == (64, "ddim")
    asyncio.run(worker.close())


class Told(MemoryIndex):
    """An index that admits when a test says so, and says when it has."""

    def __init__(self):
        super().__init__()
        self.may_admit, self.admitted = threading.Event(), threading.Event()

    def admit(self, space, embedding, entry):
        assert self.may_admit.wait(GUARD_SECONDS)
        super().admit(space, embedding, entry)
        self.admitted.set()


def open_over(store, index):
    """A worker of the embedded model that announces what it has as `here`."""
    model = partial(open_model, "postcard", device="cpu", num_threads=1)
    return open_local(model, store, queue_jobs=1, limits=Limits(), catalog=Catalog(index, "here", 1))


async def draw(worker, seed=0):
    job = GenerateJob("a green hill under a clear sky", SamplingRequest(seed=seed, num_inference_steps=2))
    async with aclosing(worker.submit([job])) as stream:
        return [event async for _, event in stream][-1].image_id


def test_what_is_on_the_disk_is_announced_when_the_worker_is_ready(tmp_path):
    first = open_local_worker(Settings(device="cpu", threads=1, disk_path=str(tmp_path)))
    assert first._batcher.wait_opened() == "ready"
    image_id = asyncio.run(draw(first))
    asyncio.run(first.close())
    index = Told()
    again = open_over(open_store("cpu", "auto", str(tmp_path), "auto"), index)
    assert again._batcher.wait_opened() == "ready"
    assert index.holders("", image_id) == []
    index.may_admit.set()
    assert index.admitted.wait(GUARD_SECONDS)
    assert [entry.worker for entry in index.holders("", image_id)] == ["here"]
    asyncio.run(again.close())


def test_what_a_late_disk_brings_is_announced_while_nobody_asks(tmp_path):
    options = {"device": "cpu", "threads": 1, "disk_path": str(tmp_path)}
    first = open_local_worker(Settings(**options))
    assert first._batcher.wait_opened() == "ready"
    image_id = asyncio.run(draw(first))
    late, index = Store(1 << 28, disk=Disk(tmp_path, 1 << 28)), Told()  # the first one still has the directory
    index.may_admit.set()
    worker = open_over(late, index)
    assert worker._batcher.wait_opened() == "ready"
    asyncio.run(first.close())
    assert late.ids() == []
    late._movement.mover.hurry()
    assert index.admitted.wait(GUARD_SECONDS)
    assert [entry.worker for entry in index.holders("", image_id)] == ["here"]
    asyncio.run(worker.close())


def test_a_job_does_not_wait_for_rows_that_are_checked_to_be_announced(tmp_path, monkeypatch):
    first = open_local_worker(Settings(device="cpu", threads=1, disk_path=str(tmp_path)))
    assert first._batcher.wait_opened() == "ready"
    asyncio.run(draw(first))
    asyncio.run(first.close())
    begun, may_end, check = threading.Event(), threading.Event(), StoredFile.check
    store, index = Store(1 << 28, disk=Disk(tmp_path, 1 << 28)), Told()

    def slow(file):
        begun.set()
        assert may_end.wait(GUARD_SECONDS)
        check(file)

    monkeypatch.setattr(StoredFile, "check", slow)
    worker = open_over(store, index)
    assert begun.wait(GUARD_SECONDS)
    index.may_admit.set()
    asyncio.run(asyncio.wait_for(draw(worker, seed=1), GUARD_SECONDS / 2))
    may_end.set()
    asyncio.run(worker.close())


def test_what_a_worker_loses_its_index_does_not_have():
    worker = open_local_worker(Settings(device="cpu", threads=1, cache_bytes=1 << 28))
    assert worker._batcher.wait_opened() == "ready"
    index = worker._catalog.index
    for seed, lose in enumerate((worker._store.evict, lambda image_id: asyncio.run(worker.delete(image_id, "")))):
        image_id = asyncio.run(draw(worker, seed))
        assert index.holders("", image_id)
        lose(image_id)
        assert index.holders("", image_id) == []
    asyncio.run(worker.close())
