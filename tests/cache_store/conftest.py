"""A store beside a plain dictionary of what it should hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from cache_store.layout import Layout, Plane
from cache_store.store import Draft, MemoryStore

LAYOUT = {
    "rows": Plane.of(6, {"a": 2, "b": 3}, torch.float16, num_steps=2),  # 20 bytes a row
    "norms": Plane.of(1, {"norm": 4}, torch.float32, num_steps=1),
}
NUM_BYTES = 6 * 20 + 16
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

    store: MemoryStore
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

    def check(self, name: str) -> None:
        """All rows of a recording are what they should be, in any order, whole and by column."""
        with self.store.open(name) as recording:
            assert recording.blob("image") == name.encode()
            for (step, plane), array in self.expected[name].items():
                positions = torch.randperm(len(array))
                assert recording.rows(step, plane, positions).equal(array[positions])
                for column, part in self.layout[plane].columns.items():
                    assert recording.rows(step, plane, positions, column).equal(array[positions, part])


@pytest.fixture(scope="session")
def archive_of() -> Any:
    """Makes an archive over a store of so many bytes, or recordings' worth of them."""

    def make(num_bytes: int = 1 << 20, **limits: int) -> Archive:
        return Archive(MemoryStore(num_bytes, **limits))

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
