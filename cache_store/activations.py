"""Rows of one recording: those it computed, and where to find those that it took from others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import compress
from weakref import WeakSet

import torch
from torch import Tensor

from cache_store.layout import Layout

Positions = Mapping[str, Tensor | None]  # by plane: the rows kept, int64 in raster order; None, or no entry = all


@dataclass(frozen=True, eq=False)
class Places:
    """Where the rows of one plane lie, where not all are its recording's own."""

    owners: tuple[Activations, ...]  # others; the number len(owners) is the recording itself
    owner: Tensor  # int64 [num_rows]: a number of an owner
    slot: Tensor  # int64 [num_rows]: which of the owner's rows


class Activations:
    """Rows of every step and plane: own ones, and an edit's others by reference (copy on write).

    Each row has one owner, known from the beginning: however many edits lie between, a read asks the owners directly,
    and who owns nothing that is read lives no longer than its own recording.
    """

    def __init__(self, layout: Layout, positions: Positions | None = None, parent: Activations | None = None) -> None:
        self.layout = layout
        self._arrays: dict[tuple[int, str], Tensor] = {}  # [rows kept, width], made by the first write
        self._num_kept = {name: plane.num_rows for name, plane in layout.items()}
        self.places: dict[str, Places] = {}  # of planes whose rows are not all its own
        self.readers: WeakSet[Activations] = WeakSet()  # while there are any, forgetting these rows frees nothing
        for name, kept in (positions or {}).items():
            if kept is not None and not _is_all(name, layout, kept):
                self._num_kept[name] = len(kept)
                self.places[name] = self._inherit(name, kept, parent)
        self.num_bytes = sum(plane.num_bytes(self._num_kept[name]) for name, plane in layout.items())
        self.owners = frozenset(owner for places in self.places.values() for owner in places.owners)
        for owner in self.owners:
            owner.readers.add(self)

    def columns(self) -> Iterator[tuple[int, str, str]]:
        """Step, plane and column of all that must be written; nothing of planes of which no row is kept."""
        for name, plane in self.layout.items():
            if self._num_kept[name]:
                yield from ((step, name, column) for step in range(plane.num_steps) for column in plane.columns)

    def write(self, step: int, plane: str, column: str, rows: Tensor) -> None:
        """Keeps a copy of one column of one step, a row for each position kept, in their order.

        KeyError for an unknown plane or column, ValueError for a step or a shape that is not the layout's.
        """
        lies = self.layout.get(plane)
        if lies is None:
            raise KeyError(f"plane must be one of {sorted(self.layout)}, got {plane!r}")
        part = lies.columns.get(column)
        if part is None:
            raise KeyError(f"column must be one of plane {plane!r}, got {column!r}")
        if not 0 <= step < lies.num_steps:
            raise ValueError(f"step must be below {lies.num_steps} in plane {plane!r}, got {step}")
        if rows.shape != (shape := (self._num_kept[plane], lies.width_of(column))):
            raise ValueError(f"rows of column {column!r} of {plane!r} must be {shape}, got {tuple(rows.shape)}")
        if (step, plane) not in self._arrays:
            self._arrays[step, plane] = torch.empty(self._num_kept[plane], lies.width, dtype=lies.dtype)
        self._arrays[step, plane][:, part] = rows

    def rows(self, step: int, plane: str, positions: Tensor, column: str | None = None) -> Tensor:
        """[N, width], a copy: the columns of one name, or all of them; `positions` int64 [N] in any order.

        KeyError where the layout has no such step, plane or column, IndexError for a position out of range.
        """
        places = self.places.get(plane)
        if places is None:
            return self.gather(step, plane, positions, column)
        owner, slot = places.owner.index_select(0, positions), places.slot.index_select(0, positions)
        owners = (*places.owners, self)
        asked = [number for number, count in enumerate(owner.bincount().tolist()) if count]
        if len(asked) == 1:
            return owners[asked[0]].gather(step, plane, slot, column)
        lies = self.layout[plane]
        found = torch.empty(len(positions), lies.width_of(column), dtype=lies.dtype)
        for number in asked:
            here = (owner == number).nonzero().squeeze(1)
            _put(found, here, owners[number].gather(step, plane, slot.index_select(0, here), column))
        return found

    def gather(self, step: int, plane: str, slots: Tensor, column: str | None = None) -> Tensor:
        """Own rows [N, width] by their slot, which is their position where all rows are its own."""
        try:
            array = self._arrays[step, plane]
        except KeyError:
            raise KeyError(f"no rows are kept of step {step}, plane {plane!r}") from None
        if column is not None:
            array = array[:, self.layout[plane].columns[column]]
        return array.index_select(0, slots)

    def _inherit(self, name: str, kept: Tensor, parent: Activations | None) -> Places:
        """The parent's places, but for the rows kept here; owners that have none left drop out."""
        plane = self.layout[name]
        if parent is None:
            raise ValueError(f"positions of plane {name!r} are given, but no parent's activations have the others")
        if parent.layout.get(name) != plane:
            raise ValueError(f"plane {name!r} must be like its parent's, {parent.layout.get(name)}, got {plane}")
        theirs = parent.places.get(name)
        owners = (*theirs.owners, parent) if theirs else (parent,)
        owner = theirs.owner.clone() if theirs else torch.zeros(plane.num_rows, dtype=torch.int64)
        slot = theirs.slot.clone() if theirs else torch.arange(plane.num_rows)
        owner[kept] = len(owners)
        slot[kept] = torch.arange(len(kept))
        is_used = owner.bincount(minlength=len(owners) + 1) > 0
        return Places(tuple(compress(owners, is_used.tolist())), (is_used.cumsum(0) - 1)[owner], slot)


def _is_all(name: str, layout: Layout, kept: Tensor) -> bool:
    """Whether these are all rows of a plane; raises KeyError or ValueError where they cannot be rows of it."""
    if name not in layout:
        raise KeyError(f"positions must be of planes {sorted(layout)}, got {name!r}")
    if kept.dtype != torch.int64 or kept.ndim != 1:
        raise ValueError(f"positions of {name!r} must be int64 [N], got {kept.dtype} {list(kept.shape)}")
    num_rows = layout[name].num_rows
    if len(kept) and not (kept[0] >= 0 and kept[-1] < num_rows and (kept.diff() > 0).all()):
        raise ValueError(f"positions of {name!r} must rise within 0 .. {num_rows - 1}, got {kept.tolist()[:8]} ...")
    return len(kept) == num_rows


def _put(found: Tensor, here: Tensor, rows: Tensor) -> None:
    """`found[here] = rows`. As bytes, by NumPy: torch's index_copy_ moves element by element, 7 times slower."""
    found.view(torch.uint8).numpy()[here.numpy()] = rows.view(torch.uint8).numpy()
