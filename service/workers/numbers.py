"""What a worker says of itself, for those who watch it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cache_store.counts import Labels
from cache_store.index import Counts
from service.batching.numbers import Numbers
from service.batching.states import State


@dataclass(frozen=True)
class WorkerNumbers:
    """A snapshot of everything that a worker counts."""

    state: State
    batching: Numbers
    store: Mapping[str, Mapping[Labels, int]]  # as `Store.counts`
    index: Counts | None  # None: it has no index of recordings
    index_up: bool | None
    device_bytes: int  # of a GPU's memory, allocated by torch; 0 on the CPU
