"""A disk that does not answer keeps waiting who needs it, and nobody else."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import aclosing, suppress
from dataclasses import replace

import httpx
import pytest

from cache_store.store import Store
from cache_store.tiers.disk import Disk
from cache_store.tiers.files import StoredFile
from cache_store.tiers.stored import StoredBlobs
from service.app import create_app
from service.batching.batcher import Batcher
from service.batching.foresight import Foresight
from service.batching.policy import Limits
from service.batching.runner import Runner
from service.engine.predict import predict
from service.engine.weights import load_model
from service.errors import BusyError, DeadlineError
from service.jobs import Accepted, EditJob, GenerateJob, Receipt, SamplingRequest
from service.settings import Settings
from service.workers.local import LocalWorker

GUARD_SECONDS = 60  # a test that hangs fails
MANY = 100  # more than there are threads of any kind
SMALL = SamplingRequest(num_inference_steps=2, width=64, height=64)
OLD, NEW = "a green hill under a clear sky", "a green hill under a clear sky with a tree"


@pytest.fixture(scope="module")
def model():
    return load_model()


def open_worker(model, store, may_step, clock=time.perf_counter):
    """There are places for two jobs, and the device steps when it may."""

    def stepping(unet, calls):
        assert may_step.wait(GUARD_SECONDS)
        return predict(unet, calls)

    def open_runner():
        return Runner(model, store, Limits(running_jobs=2), predict=stepping, foresight=Foresight(model, store))

    worker = LocalWorker(Batcher(open_runner, max_jobs=2, running_jobs=2, clock=clock), store)
    assert worker._batcher.wait_opened() == "ready"
    return worker


async def last(worker, job):
    async with aclosing(worker.submit([job])) as stream:
        return [event async for _, event in stream][-1]


@pytest.fixture
def may_step():
    made = threading.Event()
    made.set()
    return made


@pytest.fixture
def stored(model, tmp_path, may_step):
    """A worker over a picture whose rows are on the disk alone, and its id; the disk does not answer any more."""
    first = open_worker(model, Store(1 << 28, disk=Disk(tmp_path, 1 << 28)), may_step)
    image_id = asyncio.run(last(first, GenerateJob(OLD, SMALL))).image_id
    asyncio.run(first.close())
    worker, may_answer = open_worker(model, Store(1 << 28, disk=Disk(tmp_path, 1 << 28)), may_step), threading.Event()

    def slow(call):
        def function(*given):
            assert may_answer.wait(GUARD_SECONDS)
            return call(*given)

        return function

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(StoredFile, "check", slow(StoredFile.check))
        patched.setattr(StoredBlobs, "_read", slow(StoredBlobs._read))
        yield worker, image_id, may_answer


async def waiting(worker, image_id):
    """Many who wait for the disk: with pictures, lineages, lists of all that is kept, and jobs."""
    asks = (
        lambda: worker.read(image_id, "image", ""),
        lambda: last(worker, EditJob(NEW, image_id)),
        lambda: last(worker, EditJob(NEW, source_prompt=OLD, sampling=SMALL)),
    )
    tasks = [asyncio.create_task(ask()) for ask in asks for _ in range(MANY)]
    await asyncio.sleep(0)
    return tasks


def test_a_disk_that_does_not_answer_delays_no_other_job_and_no_refusal(stored, may_step):
    worker, image_id, may_answer = stored

    async def work():
        tasks = await waiting(worker, image_id)
        drawn = await last(worker, GenerateJob("a red house", SMALL))
        edited = await last(worker, EditJob("a blue house", drawn.image_id))
        assert [type(one) for one in (drawn, edited)] == [Receipt, Receipt]
        may_step.clear()
        running = worker.submit([GenerateJob(prompt, SMALL) for prompt in ("a tent", "a tree")])
        await anext(running)
        with pytest.raises(BusyError):
            await last(worker, EditJob(NEW, image_id))
        lineage = await worker.lineage(edited.image_id, "")
        assert [one.image_id for one in lineage.ancestors] == [drawn.image_id]
        assert await worker.find("pixels of none", "") is None
        await worker.delete(edited.image_id, "")
        app = create_app(Settings(), open_worker=lambda _: worker)
        app.state.worker = worker
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            assert (await client.get("/readyz")).json() == {"state": "ready"}
        assert not any(task.done() for task in tasks)
        may_step.set()
        assert [type(event) async for _, event in running].count(Receipt) == 2
        may_answer.set()
        for task in tasks:
            with suppress(BusyError):
                assert await task
        await worker.close()

    asyncio.run(asyncio.wait_for(work(), GUARD_SECONDS))


def test_pictures_that_cannot_be_deleted_yet_delay_nobody_who_asks_for_words(stored, monkeypatch):
    worker, image_id, may_answer = stored
    remove = Disk.remove

    def slow(disk, name):
        assert may_answer.wait(GUARD_SECONDS)
        return remove(disk, name)

    monkeypatch.setattr(Disk, "remove", slow)

    async def work():
        drawn = [await last(worker, GenerateJob(OLD, replace(SMALL, seed=seed))) for seed in range(1, 6)]
        deletes = [asyncio.create_task(worker.delete(one.image_id, "")) for one in drawn]
        assert (await worker.lineage(image_id, "")).picture.prompt == OLD
        assert await worker.find("pixels of none", "") is None
        assert not any(task.done() for task in deletes)
        may_answer.set()
        await asyncio.gather(*deletes)
        await worker.close()

    asyncio.run(asyncio.wait_for(work(), GUARD_SECONDS))


def test_who_waits_for_the_disk_hears_when_the_deadline_is_over(stored):
    worker, image_id, may_answer = stored
    with pytest.raises(DeadlineError, match=r"0\.05 s"):
        asyncio.run(asyncio.wait_for(last(worker, EditJob(NEW, image_id, deadline_seconds=0.05)), GUARD_SECONDS))
    may_answer.set()
    asyncio.run(worker.close())


def test_the_time_for_which_a_job_waits_for_the_disk_is_of_its_deadline(model, may_step, monkeypatch):
    """Of 1000 s the disk takes 600, the device the others."""
    foresee, may_answer, passed = Foresight.__call__, threading.Event(), [0.0]

    def slow(foresight, job):
        assert may_answer.wait(GUARD_SECONDS)
        return foresee(foresight, job)

    monkeypatch.setattr(Foresight, "reads_disk", lambda *_: True)
    monkeypatch.setattr(Foresight, "__call__", slow)
    worker = open_worker(model, Store(0), may_step, clock=lambda: passed[0])

    async def work():
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: passed[0])
        may_step.clear()
        events = worker.submit([GenerateJob(OLD, SMALL, deadline_seconds=1000)])
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        passed[0] = 600
        may_answer.set()
        assert isinstance((await first)[1], Accepted)
        passed[0] = 1000
        worker._batcher.look()
        may_step.set()
        (ending,) = [event async for _, event in events]
        assert ending.error.deadline_seconds == 1000
        await worker.close()

    asyncio.run(work())


def test_what_is_kept_is_told_without_the_disk(stored):
    worker, image_id, may_answer = stored
    lineage = asyncio.run(asyncio.wait_for(worker.lineage(image_id, ""), GUARD_SECONDS))
    assert lineage.picture.prompt == OLD
    may_answer.set()
    asyncio.run(worker.close())


def test_a_defect_in_telling_what_reads_the_disk_refuses_no_job(model, may_step, monkeypatch, caplog):
    foresee, threads = Foresight.__call__, []

    def noting(foresight, job):
        threads.append(threading.current_thread().name)
        return foresee(foresight, job)

    monkeypatch.setattr(Foresight, "reads_disk", lambda *_: 1 / 0)
    monkeypatch.setattr(Foresight, "__call__", noting)
    worker = open_worker(model, Store(0), may_step)
    assert isinstance(asyncio.run(last(worker, GenerateJob(OLD, SMALL))), Receipt)
    assert ["checking" in name for name in threads] == [True]  # where waiting for the disk delays nobody else
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]
    asyncio.run(worker.close())
