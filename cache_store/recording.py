"""What a store hands out: a recording to read, and a draft to be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Protocol, Self

from torch import Tensor

from cache_store.activations import Activations
from cache_store.rows import Rows, Tier
from cache_store.tiers.stored import Blob, StoredBlobs


@dataclass(eq=False)
class Entry:
    """What a store knows of one recording."""

    blobs: Mapping[str, Blob]
    activations: Activations | None
    parent_id: str | None = None
    hits: int = 0  # times that its rows were asked for
    is_stored: bool = False  # its core is on the disk

    @cached_property
    def core_bytes(self) -> int:
        """Of all blobs."""
        if isinstance(self.blobs, StoredBlobs):
            return self.blobs.num_bytes
        return sum(blob.nbytes if isinstance(blob, Tensor) else len(blob) for blob in self.blobs.values())


class Keeper(Protocol):
    """What a recording and a draft ask of their store."""

    def check(self, entry: Entry, *, uses: bool) -> None:
        """Its rows are about to be read, or looked at: forgets them where they are not as they were written."""

    def release(self, recording: Recording, entry: Entry) -> None:
        """It is closed."""

    def add(self, recording_id: str, entry: Entry) -> None:
        """Makes it visible."""


class Recording:
    """An open recording: what it holds does not leave before `close`. A context manager, for one thread at a time."""

    def __init__(self, store: Keeper, recording_id: str, entry: Entry, *, uses: bool) -> None:
        self.id = recording_id
        self.entry: Entry | None = entry  # None: closed
        self._store = store
        self._uses = uses
        self._is_checked = False

    @property
    def activations(self) -> Activations | None:
        """Its rows. None: evicted, damaged or never kept, only the core is there; or it is closed."""
        if self.entry is not None and not self._is_checked:
            self._store.check(self.entry, uses=self._uses)
            self._is_checked = True
        return self.entry.activations if self.entry else None

    @property
    def holds(self) -> Sequence[Rows]:
        """Which rows stay where they are while it is open."""
        return self.entry.activations.read if self.entry and self.entry.activations else ()

    @property
    def depth(self) -> int:
        """Edits since a recording that computed all its rows; 0 without activations."""
        return self.activations.depth if self.activations else 0

    @property
    def tier(self) -> Tier | None:
        """The slowest that its rows, those of others included, are read from; None without activations."""
        return self.activations.tier if self.activations else None

    def blob(self, name: str) -> Blob | None:
        """A part of the core by name, not to be written to; None where it has none. ValueError when closed."""
        if self.entry is None:
            raise ValueError(f"the recording {self.id!r} is closed")
        return self.entry.blobs.get(name)

    def rows(self, step: int, plane: str, positions: Tensor, column: str | None = None) -> Tensor:
        """Recorded rows [N, width] of one step and plane, a copy; `positions` int64 [N]. See `Activations.rows`."""
        if self.activations is None:
            raise KeyError(f"the recording {self.id!r} is closed, or has no activations")
        return self.activations.rows(step, plane, positions, column)

    def close(self) -> None:
        """Unpins it; safe to call twice."""
        if self.entry is not None:
            entry, self.entry = self.entry, None
            self._store.release(self, entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Draft:
    """A recording being made, by one thread at a time. Nobody sees it before `commit`; `abort` leaves nothing."""

    def __init__(
        self, store: Keeper, recording_id: str, activations: Activations | None, parent_id: str | None = None
    ) -> None:
        self.id = recording_id
        self.activations = activations  # None: only the core will be kept
        self._parent_id = parent_id
        self._store = store
        self._written: set[tuple[int, str, str]] = set()
        self._blobs: dict[str, Blob] | None = {}  # None: committed or aborted

    @property
    def holds(self) -> Sequence[Rows]:
        """Its own rows, which nobody else has yet."""
        return (self.activations.own,) if self.activations else ()

    def write(self, step: int, plane: str, column: str | None, rows: Tensor) -> None:
        """Keeps a copy of one column of one step, or of all of them: [rows kept of the plane, width of the column].

        Does nothing where only the core is kept. KeyError and ValueError as `Rows.write`.
        """
        self._open_blobs()
        if self.activations is not None:
            self.activations.own.write(step, plane, column, rows)
            columns = self.activations.layout[plane].columns if column is None else (column,)
            self._written.update((step, plane, each) for each in columns)

    def put(self, name: str, blob: Blob) -> None:
        """Keeps a part of the core; of a tensor a copy."""
        self._open_blobs()[name] = blob.clone() if isinstance(blob, Tensor) else blob

    def commit(self) -> None:
        """Makes it visible, whole. ValueError where a column is missing: then nothing becomes visible.

        What is recorded under this id already stays: equal ids are equal images, and one may be open.
        """
        blobs = self._open_blobs()
        missing = set(self.activations.own.columns()) - self._written if self.activations else ()
        if missing:
            step, plane, column = min(missing)
            raise ValueError(f"{len(missing)} columns are missing, the first is {column!r} of {plane!r}, step {step}")
        if self.activations is not None:
            self.activations.own.settle()
        self._store.add(self.id, Entry(blobs, self.activations, self._parent_id))
        self.abort()

    def abort(self) -> None:
        """Forgets it; safe to call twice, and after `commit`. Waits for a GPU that is still writing."""
        if self.activations is not None:
            self.activations.own.settle()
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
