"""Recordings in memory: the store's interface, and its first tier.

A recording is a *core* (named blobs: what identifies an image and can draw it again) and its *activations* (planes of
rows for every step). The core stays until it is deleted; activations leave when bytes are needed for newer ones.

A child keeps the rows that it computed and refers to its ancestors for the others (copy on write). Activations that a
child refers to stay as long as the child does, also when their own recording is deleted.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from torch import Tensor

from cache_store.activations import Activations, Positions
from cache_store.layout import Layout

Blob = bytes | Tensor


@dataclass(eq=False)
class _Entry:
    blobs: Mapping[str, Blob]
    activations: Activations | None
    num_pins: int = 0

    @property
    def core_bytes(self) -> int:
        return sum(blob.nbytes if isinstance(blob, Tensor) else len(blob) for blob in self.blobs.values())


class _Living:
    """Bytes of the activations that are alive. It knows no store: a finalizer must not keep alive what it waits for."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._lock = threading.RLock()  # re-entrant: a collection inside `add` may call `_release`

    def add(self, activations: Activations) -> None:
        """Counts them until they die."""
        with self._lock:
            self.num_bytes += activations.num_bytes
        weakref.finalize(activations, self._release, activations.num_bytes).atexit = False

    def _release(self, num_bytes: int) -> None:
        with self._lock:
            self.num_bytes -= num_bytes


class Recording:
    """An open recording: what it holds does not leave before `close`. A context manager, for one thread at a time."""

    def __init__(self, store: MemoryStore, recording_id: str, entry: _Entry) -> None:
        self.id = recording_id
        self.activations = entry.activations  # None: evicted or never kept, only the core is there
        self._store = store
        self._entry: _Entry | None = entry  # None: closed

    def blob(self, name: str) -> Blob | None:
        """A part of the core by name, not to be written to; None where it has none. ValueError when closed."""
        if self._entry is None:
            raise ValueError(f"the recording {self.id!r} is closed")
        return self._entry.blobs.get(name)

    def rows(self, step: int, plane: str, positions: Tensor, column: str | None = None) -> Tensor:
        """Recorded rows [N, width] of one step and plane, a copy; `positions` int64 [N]. See `Activations.rows`."""
        if self.activations is None:
            raise KeyError(f"the recording {self.id!r} is closed, or has no activations")
        return self.activations.rows(step, plane, positions, column)

    def close(self) -> None:
        """Unpins it; safe to call twice."""
        if self._entry is not None:
            self._store._unpin(self._entry)  # noqa: SLF001  # one module, two classes
        self._entry = self.activations = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Draft:
    """A recording being made, by one thread at a time. Nobody sees it before `commit`; `abort` leaves nothing."""

    def __init__(self, store: MemoryStore, recording_id: str, activations: Activations | None) -> None:
        self.id = recording_id
        self.activations = activations  # None: only the core will be kept
        self._store = store
        self._written: set[tuple[int, str, str]] = set()
        self._blobs: dict[str, Blob] | None = {}  # None: committed or aborted

    def write(self, step: int, plane: str, column: str, rows: Tensor) -> None:
        """Keeps a copy of one column of one step: [rows kept of the plane, width of the column].

        Does nothing where only the core is kept. KeyError and ValueError as `Activations.write`.
        """
        self._open_blobs()
        if self.activations is not None:
            self.activations.write(step, plane, column, rows)
            self._written.add((step, plane, column))

    def put(self, name: str, blob: Blob) -> None:
        """Keeps a part of the core; of a tensor a copy."""
        self._open_blobs()[name] = blob.clone() if isinstance(blob, Tensor) else blob

    def commit(self) -> None:
        """Makes it visible, whole. ValueError where a column is missing: then nothing becomes visible.

        What is recorded under this id already stays: equal ids are equal images, and one may be open.
        """
        blobs = self._open_blobs()
        missing = set(self.activations.columns()) - self._written if self.activations else ()
        if missing:
            step, plane, column = min(missing)
            raise ValueError(f"{len(missing)} columns are missing, the first is {column!r} of {plane!r}, step {step}")
        self._store._add(self.id, _Entry(blobs, self.activations))  # noqa: SLF001  # one module, two classes
        self.abort()

    def abort(self) -> None:
        """Forgets it; safe to call twice, and after `commit`."""
        self.activations = self._blobs = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What was not committed is forgotten."""
        self.abort()

    def _open_blobs(self) -> dict[str, Blob]:
        if self._blobs is None:
            raise ValueError(f"the draft of {self.id!r} was committed or aborted")
        return self._blobs


class MemoryStore:
    """All recordings of this process, within a budget of bytes for activations. Thread-safe.

    Activations leave in the order of their last use, who reads from others before those, and never while pinned.
    Cores are small (some MB), bounded by number and by bytes of their own: past either the least recently used
    recording is forgotten whole.
    """

    def __init__(self, budget_bytes: int, max_recordings: int = 1024, core_bytes: int = 1 << 30) -> None:
        if budget_bytes < 0:
            raise ValueError(f"budget_bytes must not be negative, got {budget_bytes}")
        if max_recordings < 1:
            raise ValueError(f"max_recordings must be at least 1, got {max_recordings}")
        self.budget_bytes = budget_bytes
        self.max_recordings = max_recordings
        self.core_bytes = core_bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # least recently used first
        self._lock = threading.RLock()
        self._living = _Living()

    @property
    def num_bytes(self) -> int:
        """Bytes of the rows of all living activations, those of drafts and of deleted ancestors included."""
        return self._living.num_bytes

    def ids(self) -> list[str]:
        """All recordings, least recently used first."""
        with self._lock:
            return list(self._entries)

    def create(
        self, recording_id: str, layout: Layout, parent: Recording | None = None, positions: Positions | None = None
    ) -> Draft:
        """A draft that keeps all rows, or of a parent's child those at `positions`.

        Where the layout is empty, or the bytes cannot be had, it keeps the core only: a full store sheds, it does not
        fail. KeyError or ValueError where the positions do not fit the layout, or have no parent to fill the others.
        """
        activations = Activations(layout, positions, parent.activations if parent else None)
        if not layout or not self._reserve(activations):
            return Draft(self, recording_id, None)
        return Draft(self, recording_id, activations)

    def open(self, recording_id: str) -> Recording | None:
        """The recording, pinned until it is closed; None where there is none."""
        with self._lock:
            entry = self._entries.get(recording_id)
            if entry is None:
                return None
            self._entries.move_to_end(recording_id)
            entry.num_pins += 1
            return Recording(self, recording_id, entry)

    def delete(self, recording_id: str) -> bool:
        """Forgets a recording; whether there was one. Who has it open, and its children, keep what they need."""
        with self._lock:
            return self._entries.pop(recording_id, None) is not None

    def evict(self, recording_id: str) -> bool:
        """Drops the activations of a recording, its core stays; whether there were any that nobody needs."""
        with self._lock:
            activations = self._unpinned().get(recording_id)
            if activations is None or activations.readers:
                return False
            self._entries[recording_id].activations = None
            return True

    def _reserve(self, activations: Activations) -> bool:
        """Counts their bytes until they die, evicting others for them; False, and nobody evicted, if that is futile."""
        num_bytes = activations.num_bytes
        with self._lock:
            for recording_id in self._who_leaves(self.num_bytes + num_bytes - self.budget_bytes):
                self._entries[recording_id].activations = None
            if self.num_bytes + num_bytes > self.budget_bytes:
                return False
            self._living.add(activations)
            return True

    def _who_leaves(self, missing_bytes: int) -> list[str]:
        """Whose activations to drop for so many bytes, readers before whom they read; nobody where it is not enough."""
        unpinned, leaving = self._unpinned(), []
        num_leaving_readers: Counter[Activations] = Counter()
        while missing_bytes > 0:
            free = (one for one, its in unpinned.items() if len(its.readers) == num_leaving_readers[its])
            recording_id = next(free, None)
            if recording_id is None:
                return []
            activations = unpinned.pop(recording_id)
            num_leaving_readers.update(activations.owners)
            missing_bytes -= activations.num_bytes
            leaving.append(recording_id)
        return leaving

    def _unpinned(self) -> dict[str, Activations]:
        """Activations by recording, least recently used first."""
        return {one: its.activations for one, its in self._entries.items() if its.activations and not its.num_pins}

    def _add(self, recording_id: str, entry: _Entry) -> None:
        with self._lock:
            present = self._entries.get(recording_id)
            if present is None or (present.activations is None and entry.activations is not None):
                self._entries[recording_id] = entry  # who has the present one open keeps it, whole
            self._entries.move_to_end(recording_id)
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        """Bounds the cores; the pinned stay, and the newest, which its maker may be about to open."""
        num_excess = len(self._entries) - self.max_recordings
        excess_bytes = sum(its.core_bytes for its in self._entries.values()) - self.core_bytes
        for one, its in list(self._entries.items())[:-1]:
            if num_excess <= 0 and excess_bytes <= 0:
                return
            if not its.num_pins:
                del self._entries[one]
                num_excess, excess_bytes = num_excess - 1, excess_bytes - its.core_bytes

    def _unpin(self, entry: _Entry) -> None:
        with self._lock:
            entry.num_pins -= 1
            self._forget_oldest()
