"""Jobs run in this process, on one device."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial

import torch

from cache_store.store import Store
from service.batching.batcher import STEP_SECONDS, Batcher
from service.batching.costs import Outlook
from service.batching.desk import Order
from service.batching.foresight import Foresight
from service.batching.meter import DeviceMeter
from service.batching.policy import Limits
from service.batching.runner import Runner
from service.batching.states import State
from service.batching.warm_up import warm_up
from service.engine import editor
from service.engine.catalog import Catalog
from service.engine.graphs import CudaRecorder, Graphs
from service.engine.predict import predict
from service.engine.sampling import resolve
from service.engine.weights import Model
from service.errors import DeadlineError
from service.jobs import Ending, Job, Numbered, SamplingRequest
from service.workers import Blob, Card, Lineage
from service.workers.mailbox import Mailbox
from service.workers.numbers import WorkerNumbers
from service.workers.pictures import Pictures
from service.workers.pools import Pool
from service.workers.stores import Budget, add_device

log = logging.getLogger(__name__)

NUM_READERS = 4  # of pictures, which they read from the disk and make into PNGs
NUM_TELLERS = 2  # of what recordings say in words, which is in memory
NUM_DELETERS = 2  # of pictures, also from the disk
NUM_CHECKERS = 2  # of rows on the disk, for jobs that will read them
NUM_SEERS = 2  # of jobs that ask nothing of the disk


class LocalWorker:
    """The `Worker` over one batcher, and the store that its jobs write to."""

    def __init__(
        self, batcher: Batcher, store: Store, catalog: Catalog | None = None, cards: Sequence[Card] = ()
    ) -> None:
        """`cards` is empty until the device thread has opened the model, and then has its card."""
        self._batcher = batcher
        self._store = store
        self._catalog = catalog
        self._cards = cards
        self._reading = Pool("reading", NUM_READERS)
        self._telling = Pool("telling", NUM_TELLERS)
        self._deleting = Pool("deleting", NUM_DELETERS)
        self._checking = Pool("checking", NUM_CHECKERS)
        self._foreseeing = Pool("foreseeing", NUM_SEERS)

    @property
    def card(self) -> Card | None:
        """As in `Worker`."""
        return self._cards[0] if self._cards else None

    @property
    def state(self) -> State:
        """As in `Worker`."""
        return self._batcher.state

    def check_ready(self) -> None:
        """As in `Worker`."""
        self._batcher.check_ready()

    async def submit(self, jobs: Sequence[Job]) -> AsyncGenerator[Numbered, None]:
        """As in `Worker`."""
        mailbox = Mailbox()
        self._batcher.check()  # before anything is waited for
        clock = asyncio.get_running_loop().time
        since = clock()
        outlooks = [await self._foresee(job, since) for job in jobs]
        waited = clock() - since
        orders = [
            Order(job, partial(mailbox.put, number), outlook, waited)
            for number, (job, outlook) in enumerate(zip(jobs, outlooks, strict=True))
        ]
        job_ids, num_left = self._batcher.submit(orders), len(jobs)
        try:
            while num_left:
                number, event = await mailbox.get()
                num_left -= isinstance(event, Ending)
                yield number, event
        finally:
            for job_id in job_ids:
                self._batcher.cancel(job_id)

    async def _foresee(self, job: Job, since: float) -> Outlook | None:
        """What a job will ask for. DeadlineError where its time is over before that is told.

        `since`, of the loop's time, it was submitted.
        """
        pool = self._checking if self._reads_disk(job) else self._foreseeing
        try:
            async with asyncio.timeout_at(None if job.deadline_seconds is None else since + job.deadline_seconds):
                return await pool.run(self._batcher.foresee, job)
        except TimeoutError as error:
            raise DeadlineError(job.deadline_seconds or 0.0) from error

    def _reads_disk(self, job: Job) -> bool:
        try:
            return self._batcher.reads_disk(job)
        except Exception:  # a defect here must not refuse a job
            log.exception("it could not be told whether a job reads the disk")
            return True

    def numbers(self) -> WorkerNumbers:
        """What was done so far, and how things are; waits for nothing."""
        index = self._catalog.index if self._catalog else None
        return WorkerNumbers(
            state=self.state,
            batching=self._batcher.numbers(),
            store=self._store.counts(),
            index=index.counts() if index else None,
            index_up=index.up if index else None,
            device_bytes=_allocated_bytes(),
        )

    async def read(self, image_id: str, name: Blob, tenant: str) -> bytes | None:
        """As in `Worker`."""
        return await self._reading.run(Pictures(self._store, tenant).read, image_id, name)

    async def lineage(self, image_id: str, tenant: str) -> Lineage:
        """As in `Worker`."""
        return await self._telling.run(Pictures(self._store, tenant).lineage, image_id)

    async def find(self, digest: str, tenant: str) -> str | None:
        """As in `Worker`."""
        return await self._telling.run(Pictures(self._store, tenant).find, digest)

    async def delete(self, image_id: str, tenant: str) -> None:
        """As in `Worker`."""
        await self._deleting.run(Pictures(self._store, tenant).delete, image_id)

    async def close(self) -> None:
        """As in `Worker`."""
        for pool in (self._reading, self._telling, self._deleting, self._checking, self._foreseeing):
            pool.close()
        await asyncio.to_thread(self._batcher.close)
        await asyncio.to_thread(self._store.close)
        if self._catalog is not None:
            await asyncio.to_thread(self._catalog.index.close)


def open_local(
    open_model: Callable[[], Model],
    store: Store,
    *,
    queue_jobs: int,
    limits: Limits,
    step_seconds: float = STEP_SECONDS,
    catalog: Catalog | None = None,
    graph_bytes: int = 0,
    device_cache_bytes: Budget = 0,
) -> LocalWorker:
    """A worker at once; the model is opened in the device thread, and `state` says when it is there.

    `catalog` finds sources for edits that name none. `graph_bytes` of a GPU's memory are for captured passes,
    `device_cache_bytes` for recordings that are read often.
    """
    cards: list[Card] = []

    def open_device() -> Runner:
        model = open_model()
        cards[:] = [card_of(model)]
        return open_runner(model, store, limits, catalog, graph_bytes, device_cache_bytes)

    batcher = Batcher(
        open_device,
        max_jobs=limits.running_jobs + queue_jobs,
        running_jobs=limits.running_jobs,
        step_seconds=step_seconds,
    )
    return LocalWorker(batcher, store, catalog, cards)


def card_of(model: Model) -> Card:
    """What clients should know of it."""
    return Card(model.name, resolve(model, SamplingRequest()), model.max_pixels, model.defaults.words)


def open_runner(
    model: Model,
    store: Store,
    limits: Limits,
    catalog: Catalog | None,
    graph_bytes: int,
    device_cache_bytes: Budget,
) -> Runner:
    """Jobs on the model's device; on a GPU by captured passes, and warm.

    What is on the disk is announced when there is nothing else to do, each when it has been checked elsewhere.
    """
    begin, foresight = partial(editor.start, catalog=catalog), Foresight(model, store)
    if model.device.type != "cuda" or model.without_kernels is not None:
        runner = Runner(model, store, limits, start=begin, foresight=foresight)
    else:
        torch.backends.cudnn.benchmark = True  # dense passes have few shapes
        graphs = Graphs(CudaRecorder(model.device), graph_bytes) if graph_bytes else None
        by_graphs = partial(predict, graphs=graphs)
        warm_up(model, by_graphs)
        add_device(store, model.device, device_cache_bytes)
        meter = DeviceMeter(torch.cuda.current_stream(model.device).record_event)
        runner = Runner(model, store, limits, start=begin, predict=by_graphs, foresight=foresight, meter=meter)
    if catalog is not None:
        store.watch(partial(_found, model, store, catalog, runner))
    return runner


def _found(model: Model, store: Store, catalog: Catalog, runner: Runner, recording_id: str) -> None:
    """A recording is here: the device's thread, which alone may ask the model for embeddings, announces it."""
    if catalog.is_source(model, store, recording_id):
        runner.do_later(partial(catalog.announce_kept, model, store, recording_id))


def _allocated_bytes() -> int:
    """Of all GPUs that this process uses; looking at none that it does not use."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's
        return 0
    return sum(torch.cuda.memory_allocated(device) for device in range(torch.cuda.device_count()))
