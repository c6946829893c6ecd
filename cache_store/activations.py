"""What a reader of one recording sees: all rows, those it computed and those that it took from others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import compress

import torch
from torch import Tensor

from cache_store.layout import Layout, Slabs
from cache_store.rows import FASTEST_FIRST, Rows, Tier

Positions = Mapping[str, Tensor | None]  # by plane: the rows kept, int64 in raster order; None, or no entry = all


@dataclass(frozen=True, eq=False)
class Places:
    """Where the rows of one plane lie, where not all are its recording's own."""

    owners: tuple[Rows, ...]  # others'; the number len(owners) is the recording's own
    owner: Tensor  # int64 [num_rows]: a number of an owner
    slot: Tensor  # int64 [num_rows]: which of the owner's rows


@dataclass(frozen=True, eq=False)
class Share:
    """Some of the rows that are asked for, of one owner."""

    owner: Rows
    slots: Tensor  # int64 [n]: which of the owner's rows
    here: Tensor | None  # int64 [n]: where they go among those asked for; None: everywhere, in order


class Activations:
    """Rows of every step and plane: own ones, and an edit's others by reference (copy on write).

    Each row has one owner, known from the beginning: however many edits lie between, a read asks the owners directly,
    and who owns nothing that is read lives no longer than its own recording.
    """

    def __init__(self, own: Rows, places: Mapping[str, Places], owners: tuple[Rows, ...], depth: int) -> None:
        self.own = own
        self.places = places  # of planes whose rows are not all its own
        self.owners = owners  # of other rows
        self.depth = depth  # edits since a recording that computed everything

    @classmethod
    def of(cls, layout: Layout, positions: Positions | None = None, parent: Activations | None = None) -> Activations:
        """New ones that keep all rows, or of a parent's child those at `positions`; nothing has bytes yet.

        KeyError or ValueError where the positions do not fit the layout, or have no parent to fill the others.
        """
        num_kept = {name: plane.num_rows for name, plane in layout.items()}
        places = {}
        for name, kept in (positions or {}).items():
            if kept is not None and not _is_all(name, layout, kept):
                num_kept[name] = len(kept)
                places[name] = _inherit(name, layout, kept, parent)
        owners = tuple(dict.fromkeys(owner for one in places.values() for owner in one.owners))
        return cls(Rows(Slabs(layout, num_kept)), places, owners, parent.depth + 1 if owners and parent else 0)

    @property
    def layout(self) -> Layout:
        """Of all rows."""
        return self.own.lie.layout

    @property
    def read(self) -> tuple[Rows, ...]:
        """Whose rows it needs: its own, and those of others."""
        return (self.own, *self.owners)

    @property
    def in_reach(self) -> bool:
        """Whether kernels can read all rows directly, those of others included."""
        return all(rows.in_reach for rows in self.read)

    @property
    def tier(self) -> Tier | None:
        """The slowest that a read may ask; None where some rows are nowhere."""
        tiers = [rows.tier for rows in self.read]
        return None if None in tiers else max(tiers, key=FASTEST_FIRST.index)

    def replaced_ratio(self, plane: str) -> float:
        """Part of a plane's rows that edits computed since one recording computed all. KeyError without the plane."""
        num_rows, places = self.layout[plane].num_rows, self.places.get(plane)
        if places is None:
            return 0.0
        is_whole = torch.tensor([rows.lie.num_kept[plane] == num_rows for rows in (*places.owners, self.own)])
        return 1 - is_whole[places.owner].sum().item() / num_rows

    def columns(self) -> Iterator[tuple[int, str, str]]:
        """Step, plane and column of all that must be written."""
        return self.own.columns()

    def array(self, step: int, plane: str) -> Tensor:
        """Own rows as they lie; see `Rows.array`."""
        return self.own.array(step, plane)

    def rows(self, step: int, plane: str, positions: Tensor, column: str | None = None) -> Tensor:
        """[N, width], a copy: the columns of one name, or all of them; `positions` int64 [N] in any order.

        KeyError where the layout has no such step, plane or column, IndexError for a position out of range.
        """
        shares = self.shares(plane, positions)
        if len(shares) == 1:
            return shares[0].owner.gather(step, plane, shares[0].slots, column)
        lies = self.layout[plane]
        found = torch.empty(len(positions), lies.width_of(column), dtype=lies.dtype)
        for share in shares:
            _put(found, share.here, share.owner.gather(step, plane, share.slots, column))  # type: ignore[arg-type]  # not one
        return found

    def shares(self, plane: str, positions: Tensor) -> list[Share]:
        """Who owns the rows at int64 [N]; -1 is nobody's, and is a slot -1 of whoever owns all others."""
        places = self.places.get(plane)
        if places is None:
            return [Share(self.own, positions, None)]
        present = positions >= 0
        known = positions.clamp(min=0)
        owner, slot = places.owner.index_select(0, known), places.slot.index_select(0, known)
        owners = (*places.owners, self.own)
        asked = [number for number, count in enumerate(owner[present].bincount().tolist()) if count]
        if len(asked) <= 1:
            return [Share(owners[(asked or [0])[0]], torch.where(present, slot, -1), None)]
        shares = []
        for number in asked:
            here = ((owner == number) & present).nonzero().squeeze(1)
            shares.append(Share(owners[number], slot.index_select(0, here), here))
        return shares


def _inherit(name: str, layout: Layout, kept: Tensor, parent: Activations | None) -> Places:
    """The parent's places, but for the rows kept here; owners that have none left drop out."""
    plane = layout[name]
    if parent is None:
        raise ValueError(f"positions of plane {name!r} are given, but no parent's activations have the others")
    if parent.layout.get(name) != plane:
        raise ValueError(f"plane {name!r} must be like its parent's, {parent.layout.get(name)}, got {plane}")
    theirs = parent.places.get(name)
    owners = (*theirs.owners, parent.own) if theirs else (parent.own,)
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
