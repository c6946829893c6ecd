"""Entries in memory with their embeddings: a matrix for each space, searched whole."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cache_store.index import SIMILARITY_ERROR, Array, Entry, Hit, Space


class Key(NamedTuple):
    """What an entry is known by."""

    space: Space
    recording_id: str
    worker: str


def unit(embedding: Array) -> Array:
    """The same direction, of length 1. ValueError where it has none."""
    if embedding.ndim != 1 or embedding.dtype != np.float32:
        raise ValueError(f"embedding must be float32 [D], got {embedding.dtype} {list(embedding.shape)}")
    length = float(np.linalg.norm(embedding.astype(np.float64)))
    if not 0 < length < np.inf:
        raise ValueError(f"embedding must be finite and not all zero, its length is {length}")
    return (embedding.astype(np.float64) / length).astype(np.float32)


class _Table:
    """Unit embeddings of one space, a row for each key. The last row moves into the gap of one that leaves."""

    def __init__(self, num_dimensions: int) -> None:
        self._rows: Array = np.empty((16, num_dimensions), np.float32)
        self._keys: list[Key] = []
        self._row_of: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, key: Key) -> Array:
        row: Array = self._rows[self._row_of[key]]
        return row.copy()

    def check(self, embedding: Array) -> None:
        if len(embedding) != self._rows.shape[1]:
            raise ValueError(f"embedding must have {self._rows.shape[1]} dimensions here, got {len(embedding)}")

    def put(self, key: Key, embedding: Array) -> None:
        if key not in self._row_of:
            if len(self) == len(self._rows):
                self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
            self._row_of[key] = len(self)
            self._keys.append(key)
        self._rows[self._row_of[key]] = embedding

    def drop(self, key: Key) -> None:
        row, last = self._row_of.pop(key), self._keys.pop()
        if last != key:
            self._rows[row] = self._rows[len(self)]
            self._keys[row], self._row_of[last] = last, row

    def nearest(self, embedding: Array, min_similarity: float) -> Iterator[tuple[Key, float]]:
        """All that are near enough, best first, of equal ones the newest."""
        similarities = self._rows[: len(self)] @ embedding
        near = np.flatnonzero(similarities >= min_similarity - SIMILARITY_ERROR)
        for row in near[np.argsort(similarities[near], kind="stable")[::-1]]:
            yield self._keys[row], float(np.clip(similarities[row], -1, 1))


class Shelf:
    """At most `max_entries`, the one admitted longest ago leaving first. Thread-safe."""

    def __init__(self, max_entries: int) -> None:
        if max_entries < 1:
            raise ValueError(f"max_entries must be at least 1, got {max_entries}")
        self.max_entries = max_entries
        self._entries: OrderedDict[Key, Entry] = OrderedDict()  # admitted longest ago first
        self._tables: dict[Space, _Table] = {}
        self._places: defaultdict[str, set[Key]] = defaultdict(set)  # by recording
        self._epochs: dict[str, int] = {}  # the latest of each worker
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def keys(self) -> list[Key]:
        """Of all entries."""
        with self._lock:
            return list(self._entries)

    def get(self, key: Key) -> tuple[Entry, Array] | None:
        """An entry and its unit embedding."""
        with self._lock:
            entry = self._entries.get(key)
            return None if entry is None else (entry, self._tables[key.space][key])

    def put(self, space: Space, embedding: Array, entry: Entry) -> list[Key]:
        """Keeps an entry; who had to leave for it, all of earlier epochs among them. ValueError as `Index.admit`.

        One of an earlier epoch than is known of its worker is not kept.
        """
        key, embedding = Key(space, entry.recording_id, entry.worker), unit(embedding)
        with self._lock:
            if space in self._tables:
                self._tables[space].check(embedding)
            if entry.epoch < self._epochs.get(entry.worker, entry.epoch):
                return []
            left = self._begin(entry.worker, entry.epoch)
            self._place(key, embedding, entry)
            left += [self._drop(next(iter(self._entries))) for _ in range(len(self._entries) - self.max_entries)]
            return left

    def drop(self, recording_id: str, worker: str) -> list[Key]:
        """Forgets a worker's entries of a recording; which there were."""
        with self._lock:
            return [self._drop(key) for key in list(self._places.get(recording_id, ())) if key.worker == worker]

    def discard(self, hit: Hit) -> list[Key]:
        """Forgets the entry of a hit, unless another has taken its place; which there was."""
        key = Key(hit.space, hit.entry.recording_id, hit.entry.worker)
        with self._lock:
            return [self._drop(key)] if self._entries.get(key) == hit.entry else []

    def nearest(
        self, space: Space, embedding: Array, count: int, min_similarity: float, worker: str | None = None
    ) -> list[Hit]:
        """As `Index.nearest`; exact."""
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        hits: dict[str, Hit] = {}
        embedding = unit(embedding)
        with self._lock:
            if space in self._tables:
                self._tables[space].check(embedding)
                for key, similarity in self._tables[space].nearest(embedding, min_similarity):
                    if worker in {None, key.worker}:
                        hits.setdefault(key.recording_id, Hit(space, self._entries[key], similarity))
                    if len(hits) == count:
                        break
        return list(hits.values())

    def holders(self, tenant: str, recording_id: str) -> list[Entry]:
        """As `Index.holders`."""
        with self._lock:
            keys = (key for key in self._places.get(recording_id, ()) if key.space.tenant == tenant)
            return list({key.worker: self._entries[key] for key in keys}.values())

    def _begin(self, worker: str, epoch: int) -> list[Key]:
        """Notes a worker's epoch; its entries of earlier ones are dropped."""
        if self._epochs.get(worker) == epoch:
            return []
        self._epochs[worker] = epoch
        return [self._drop(key) for key in list(self._entries) if key.worker == worker]

    def _place(self, key: Key, embedding: Array, entry: Entry) -> None:
        if key.space not in self._tables:
            self._tables[key.space] = _Table(len(embedding))
        self._tables[key.space].put(key, embedding)
        self._entries[key] = entry
        self._entries.move_to_end(key)
        self._places[key.recording_id].add(key)

    def _drop(self, key: Key) -> Key:
        del self._entries[key]
        self._places[key.recording_id].remove(key)
        if not self._places[key.recording_id]:
            del self._places[key.recording_id]
        self._tables[key.space].drop(key)
        if not len(self._tables[key.space]):
            del self._tables[key.space]
        return key
