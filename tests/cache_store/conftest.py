"""A store beside a plain dictionary of what it should hold."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cache_store.layout import Layout, Plane
from cache_store.store import Draft, Store
from cache_store.tiers.disk import LOCK, Disk

LAYOUT = {
    "rows": Plane.of(6, {"a": 24, "b": 40}, torch.float16, num_steps=2),  # 256 bytes a row, both steps
    "norms": Plane.of(1, {"norm": 32}, torch.float32, num_steps=1),
}
ROW_BYTES, NORM_BYTES = 256, 128
NUM_BYTES = 6 * ROW_BYTES + NORM_BYTES
GUARD_SECONDS = 60  # for what comes in milliseconds
Arrays = dict[tuple[int, str], Tensor]  # by step and plane, [num_rows, width]


def random_arrays(layout: Layout) -> Arrays:
    """Whole numbers, exact in 16 bits."""
    return {
        (step, name): torch.randint(-2000, 2000, (plane.num_rows, plane.width)).to(plane.dtype)
        for name, plane in layout.items()
        for step in range(plane.num_steps)
    }


def fill(draft: Draft, arrays: Arrays, positions: dict[str, Tensor | None] | None = None) -> None:
    """Writes all columns at the positions."""
    if draft.activations is None:
        return
    for (step, name), array in arrays.items():
        kept = (positions or {}).get(name)
        rows = array if kept is None else array[kept]
        for column, part in draft.activations.layout[name].columns.items():
            draft.write(step, name, column, rows[:, part])


@dataclass(eq=False)
class Archive:
    """A store, and what all rows of its recordings are."""

    store: Store
    layout: Layout = field(default_factory=lambda: LAYOUT)
    expected: dict[str, Arrays] = field(default_factory=dict)

    def draft(self, name: str, parent: str | None = None, positions: list[int] | None = None) -> Draft:
        """A written draft; of a child the rows at some positions, and fresh norms."""
        kept = None if positions is None else {"rows": torch.tensor(positions, dtype=torch.int64)}
        arrays = random_arrays(self.layout)
        if parent is None:
            draft = self.store.create(name, self.layout)
        else:
            with self.store.open(parent) as recording:
                draft = self.store.create(name, self.layout, recording, kept)
        fill(draft, arrays, kept)
        self.expected[name] = dict(arrays)
        for key, array in arrays.items():
            if parent and key[1] == "rows" and kept is not None:
                self.expected[name][key] = self.expected[parent][key].index_copy(0, kept["rows"], array[kept["rows"]])
        return draft

    def record(self, name: str, parent: str | None = None, positions: list[int] | None = None) -> None:
        """A committed recording, its image a blob."""
        draft = self.draft(name, parent, positions)
        draft.put("image", name.encode())
        draft.commit()

    def has_rows(self, name: str) -> bool:
        """Whether its activations are there."""
        with self.store.open(name) as recording:
            return recording.activations is not None

    def rows_name(self, name: str) -> str:
        """What the file of its rows is called."""
        return f"{self.store._entries[name].activations.own.name}.rows"

    def settle(self) -> Store:
        """Nothing moves any more."""
        assert self.store.settle(GUARD_SECONDS)
        return self.store

    def tiers(self) -> dict[str, set[str]]:
        """Where the rows of each recording are, when nothing moves any more."""
        return {one.id: set(one.bytes_by_tier) for one in self.settle().describe()}

    def hurry(self) -> Store:
        """What is to be tried again later is tried now."""
        self.store._movement.mover.hurry()
        return self.settle()

    def check(self, name: str) -> None:
        """All rows of a recording are what they should be, in any order, whole and by column."""
        with self.store.open(name) as recording:
            assert recording.blob("image") == name.encode()
            for (step, plane), array in self.expected[name].items():
                positions = torch.randperm(len(array))
                assert recording.rows(step, plane, positions).equal(array[positions])
                for column, part in self.layout[plane].columns.items():
                    assert recording.rows(step, plane, positions, column).equal(array[positions, part])


class FailingSystem:
    """The operating system, but for calls that fail as long as they are told to."""

    def __init__(self, most: int | None = None) -> None:
        self.most = most  # bytes of one write
        self.number = 0
        self.calls: Collection[str] = ()

    def fail(self, number: int, *calls: str) -> None:
        """From now on, with this error."""
        self.number, self.calls = number, calls

    def recover(self) -> None:
        """It is well again."""
        self.calls = ()

    def write(self, fd: int, data: memoryview) -> int:
        """As os.write."""
        self.check("write")
        return os.write(fd, data[: self.most])

    def check(self, call: str) -> None:
        """Fails."""
        if call in self.calls:
            raise OSError(self.number, os.strerror(self.number))

    def __getattr__(self, call: str) -> Any:
        def function(*arguments: Any) -> Any:
            self.check(call)
            return getattr(os, call)(*arguments)

        return function


@pytest.fixture(scope="session")
def failing() -> Any:
    """Makes a system that can fail."""
    return FailingSystem


@pytest.fixture(scope="session")
def archive_of() -> Any:
    """Makes an archive over a store of so many bytes, or recordings' worth of them."""

    def make(num_bytes: int = 1 << 20, **limits: Any) -> Archive:
        return Archive(Store(num_bytes, **limits))

    return make


@pytest.fixture
def archive(archive_of: Any) -> Archive:
    """Room for everything."""
    return archive_of()


@pytest.fixture
def full(archive_of: Any) -> Archive:
    """Three recordings, room for no other."""
    archive = archive_of(3 * NUM_BYTES)
    for name in "abc":
        archive.record(name)
    return archive


@pytest.fixture
def num_bytes() -> int:
    """Of one recording that keeps all its rows."""
    return NUM_BYTES


@pytest.fixture
def disk_of(tmp_path: Path) -> Any:
    """A disk; each has the same directory."""

    def make(budget_bytes: int = 1 << 30, **options: Any) -> Disk:
        return Disk(tmp_path / "cache", budget_bytes, **options)

    return make


@pytest.fixture
def files(tmp_path: Path) -> Any:
    """What lies in that directory."""

    def names() -> list[str]:
        return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.name != LOCK)

    return names


@pytest.fixture
def stored(archive_of: Any, disk_of: Any) -> Archive:
    """Room for everything, on the disk, too."""
    return archive_of(disk=disk_of())


@pytest.fixture
def restart(disk_of: Any) -> Any:
    """The same recordings in a store of a new process."""

    def make(archive: Archive, num_bytes: int = 1 << 20, disk_bytes: int = 1 << 30) -> None:
        assert archive.store.close(GUARD_SECONDS)
        archive.store = Store(num_bytes, disk=disk_of(disk_bytes))

    return make
