"""Jobs run in this process, on one device."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import transformers

from cache_store.index import Index
from cache_store.index.memory import MemoryIndex
from cache_store.index.redis import RedisIndex
from cache_store.inspection import Description
from cache_store.store import Store, ignore
from cache_store.tiers.arena import Arena
from cache_store.tiers.budgets import device_budget, disk_budget, host_budget
from cache_store.tiers.disk import Disk
from service.batching.batcher import Batcher, State
from service.batching.foresight import Foresight
from service.batching.policy import Limits
from service.batching.runner import Runner
from service.batching.warm_up import warm_up
from service.engine import editor
from service.engine.catalog import Catalog, Nearness
from service.engine.embedder import open_embedder
from service.engine.graphs import CudaRecorder, Graphs
from service.engine.predict import predict
from service.engine.recording import Format, Storage
from service.engine.sampling import resolve
from service.engine.weights import EMBEDDED, Model, find_model, load_model
from service.errors import InputError
from service.jobs import Ending, Event, Job, SamplingRequest
from service.workers import Blob, Card, Lineage
from service.workers.mailbox import Mailbox
from service.workers.numbers import WorkerNumbers
from service.workers.pictures import Pictures

log = logging.getLogger(__name__)

Budget = int | Literal["auto"]  # bytes

MAX_DEFAULT_THREADS = 8  # more do not pay for small networks, and disturb the neighbours


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

    @property
    def card(self) -> Card | None:
        """As in `Worker`."""
        return self._cards[0] if self._cards else None

    @property
    def state(self) -> State:
        """As in `Worker`."""
        return self._batcher.state

    async def submit(self, job: Job) -> AsyncGenerator[Event, None]:
        """As in `Worker`."""
        mailbox = Mailbox()
        outlook = await asyncio.to_thread(self._batcher.foresee, job)
        job_id = self._batcher.submit(job, mailbox.put, outlook)
        try:
            while True:
                event = await mailbox.get()
                yield event
                if isinstance(event, Ending):
                    return
        finally:
            self._batcher.cancel(job_id)

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
        return await asyncio.to_thread(Pictures(self._store, tenant).read, image_id, name)

    async def lineage(self, image_id: str, tenant: str) -> Lineage:
        """As in `Worker`."""
        return await asyncio.to_thread(Pictures(self._store, tenant).lineage, image_id)

    async def find(self, digest: str, tenant: str) -> str | None:
        """As in `Worker`."""
        return await asyncio.to_thread(Pictures(self._store, tenant).find, digest)

    async def delete(self, image_id: str, tenant: str) -> None:
        """As in `Worker`."""
        await asyncio.to_thread(Pictures(self._store, tenant).delete, image_id)

    async def close(self) -> None:
        """As in `Worker`."""
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

    What is on the disk is announced when there is nothing else to do.
    """
    begin, foresight = partial(editor.start, catalog=catalog), Foresight(model, store)
    chores = catalog.announcements(model, store) if catalog else ()
    if model.device.type != "cuda" or model.without_kernels is not None:
        return Runner(model, store, limits, start=begin, chores=chores, foresight=foresight)
    torch.backends.cudnn.benchmark = True  # dense passes have few shapes
    graphs = Graphs(CudaRecorder(model.device), graph_bytes) if graph_bytes else None
    by_graphs = partial(predict, graphs=graphs)
    warm_up(model, by_graphs)
    add_device(store, model.device, device_cache_bytes)
    return Runner(model, store, limits, start=begin, predict=by_graphs, chores=chores, foresight=foresight)


def open_store(
    device: str,
    cache_bytes: Budget,
    disk_path: str = "",
    disk_bytes: Budget = 0,
    on_lost: Callable[[str], None] = ignore,
) -> Store:
    """Recordings in memory that the device reads directly, and on the disk where there is a path.

    `auto` is a part of what is free now; `on_lost` as in `Store`.
    """
    pinned = find_device(device).type == "cuda"
    if cache_bytes == "auto":
        cache_bytes = host_budget(pinned=pinned)
    if disk_bytes == "auto":
        disk_bytes = disk_budget(Path(disk_path)) if disk_path else 0
    log.info("recordings may take %.1f GiB of memory and %.1f of the disk", cache_bytes / 2**30, disk_bytes / 2**30)
    disk = Disk(Path(disk_path), disk_bytes) if disk_path else None
    return Store(cache_bytes, pinned=pinned, disk=disk, on_lost=on_lost)


def add_device(store: Store, device: torch.device, num_bytes: Budget) -> None:
    """Recordings that are read often are in a GPU's memory, too; `auto` is a part of what all else has left free."""
    if num_bytes == "auto":
        num_bytes = device_budget(device)
    if num_bytes:
        store.add_device(Arena(num_bytes, device))
        log.info("recordings may take %.1f GiB of %s", num_bytes / 2**30, device)


def look_into(directory: Path) -> list[Description]:
    """The recordings in a directory. InputError where there is none, or another process has it."""
    if not directory.is_dir():
        raise InputError("disk", f"there is no directory {str(directory)!r}")
    disk = Disk(directory, 1 << 62)
    with closing(Store(0, disk=disk)) as store:
        if not disk.is_on:
            raise InputError("disk", f"{str(directory)!r} is in use by another process, or cannot be read")
        return store.describe()


def open_catalog(worker: str, nearness: Nearness, redis_url: str = "", embedding_model: str = "") -> Catalog:
    """What this worker knows of recordings; with a Redis, what others have, too. InputError as `open_embedder`."""
    epoch = time.time_ns()
    index: Index = RedisIndex.open(redis_url, worker, epoch) if redis_url else MemoryIndex()
    return Catalog(index, worker, epoch, nearness, open_embedder(embedding_model))


def open_model(
    source: str,
    *,
    device: str = "auto",
    num_threads: int | None = None,
    dtype: str = "auto",
    storage_dtype: Storage = "float16",
    record: Literal["inputs", "keys_values", "none"] = "inputs",
    attention_every: int = 1,
    rows_every: int = 1,
    max_pixels: int | None = None,
) -> Model:
    """Load a model onto a device. InputError where there is no such device, or the model is not whole.

    `source` is a diffusers directory, a hub id, or `postcard`, the embedded model. `device` is torch's name or `auto`
    (CUDA if there is one). `num_threads` None is torch's own number, the physical cores or OMP_NUM_THREADS, but at
    most 8. `dtype`, torch's name, is what the model computes in; `auto` is float16 on CUDA, else float32.
    `storage_dtype` is what recordings are kept in, `record` what they keep of self-attention, `attention_every` and
    `rows_every` of how many steps one keeps it and the rows. `max_pixels` bounds the pictures that may be asked for.
    """
    place = find_device(device)
    if dtype == "auto":
        dtype = "float16" if place.type == "cuda" else "float32"
    form = Format(storage_dtype, record != "keys_values", record != "none", attention_every, rows_every)
    transformers.utils.logging.disable_progress_bar()  # weights load in a second, and logs stay
    torch.set_num_threads(num_threads or min(MAX_DEFAULT_THREADS, torch.get_num_threads()))
    model = load_model(_source(source), place, getattr(torch, dtype), form, max_pixels)
    if place.type == "cuda" and model.without_kernels:
        log.warning("%s computes with plain torch operators: %s", place, model.without_kernels)
    return model


def check_model(source: str, device: str) -> None:
    """InputError where there is no such model, or no such device; a hub repository is fetched."""
    find_device(device)
    find_model(_source(source))


def find_device(name: str) -> torch.device:
    """The device of this name; `auto` is CUDA if there is one. InputError where there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in {"cpu", "cuda"}:
        raise InputError("device", f"must be auto, cpu, cuda or cuda:NUMBER, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError("device", f"there is no {name!r} here: torch sees {torch.cuda.device_count()} CUDA devices")
    return device if device.type == "cpu" else torch.device("cuda", device.index or 0)  # one name for one device


def _source(source: str) -> str | Path:
    return EMBEDDED if source == "postcard" else source


def _allocated_bytes() -> int:
    """Of all GPUs that this process uses; looking at none that it does not use."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's
        return 0
    return sum(torch.cuda.memory_allocated(device) for device in range(torch.cuda.device_count()))
