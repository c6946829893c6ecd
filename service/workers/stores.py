"""Where a worker keeps recordings, and where it looks for them."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Literal

import torch

from cache_store.index import Index
from cache_store.index.memory import MemoryIndex
from cache_store.index.redis import RedisIndex
from cache_store.inspection import Description
from cache_store.store import CORE_BYTES, Store, ignore
from cache_store.tiers.arena import Arena
from cache_store.tiers.budgets import device_budget, disk_budget, host_budget
from cache_store.tiers.disk import Disk
from service.engine.catalog import Catalog, Nearness
from service.engine.embedder import open_embedder
from service.errors import InputError
from service.workers.models import find_device

log = logging.getLogger(__name__)

Budget = int | Literal["auto"]  # bytes


def open_store(
    device: str,
    cache_bytes: Budget,
    disk_path: str = "",
    disk_bytes: Budget = 0,
    *,
    core_bytes: int = CORE_BYTES,
    on_lost: Callable[[str], None] = ignore,
) -> Store:
    """Recordings in memory that the device reads directly, and on the disk where there is a path.

    `auto` is a part of what is free now; `core_bytes` and `on_lost` as in `Store`.
    """
    pinned = find_device(device).type == "cuda"
    if cache_bytes == "auto":
        cache_bytes = host_budget(pinned=pinned)
    if disk_bytes == "auto":
        disk_bytes = disk_budget(Path(disk_path)) if disk_path else 0
    log.info("recordings may take %.1f GiB of memory and %.1f of the disk", cache_bytes / 2**30, disk_bytes / 2**30)
    disk = Disk(Path(disk_path), disk_bytes) if disk_path else None
    return Store(cache_bytes, core_bytes=core_bytes, pinned=pinned, disk=disk, on_lost=on_lost)


def add_device(store: Store, device: torch.device, num_bytes: Budget) -> None:
    """Recordings that are read often are in a GPU's memory, too; `auto` is a part of what all else has left free."""
    if num_bytes == "auto":
        num_bytes = device_budget(device)
    if num_bytes:
        store.add_device(Arena(num_bytes, device))
        log.info("recordings may take %.1f GiB of %s", num_bytes / 2**30, device)


def look_into(directory: Path) -> list[Description]:
    """The recordings in a directory, however many. InputError where there is none, or another process has it."""
    if not directory.is_dir():
        raise InputError("disk", f"there is no directory {str(directory)!r}")
    disk = Disk(directory, 1 << 62)
    with closing(Store(0, sys.maxsize, sys.maxsize, disk=disk)) as store:
        if not disk.is_on:
            raise InputError("disk", f"{str(directory)!r} is in use by another process, or cannot be read")
        return store.describe()


def open_catalog(worker: str, nearness: Nearness, redis_url: str = "", embedding_model: str = "") -> Catalog:
    """What this worker knows of recordings; with a Redis, what others have, too. InputError as `open_embedder`."""
    epoch = time.time_ns()
    index: Index = RedisIndex.open(redis_url, worker, epoch) if redis_url else MemoryIndex()
    return Catalog(index, worker, epoch, nearness, open_embedder(embedding_model))
