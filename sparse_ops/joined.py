"""Plans of a batch from those of its parts: jobs join a batch and leave it, and their own plans stay as they are.

Images know nothing of each other, so the integers of a batch are its parts' own, moved: a position by the positions of
the parts before, a place in concat(rows, halo) by their rows, and by more where it is in the halo, for that lies behind
the rows of all parts and their padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import accumulate, chain
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparse_ops.plan import Downward, Keys, Plan
from sparse_ops.positions import Capacity, Positions, check_room, exact
from sparse_ops.segments import Segments
from sparse_ops.tables import table, upsample

Part = TypeVar("Part")
Integers = NDArray[np.int32]


def join(parts: Sequence[Sequence[Plan]], capacity: Capacity = exact) -> list[Plan]:
    """What `make_plans` makes of the parts' images one after another, integer for integer, in a third of the time.

    A part is the plans of some images without padding, as `make_plans` or `join` made them, on the host. A resolution
    may be dense in some parts only. ValueError where parts are padded, their resolutions differ, or `capacity` is too
    short for a list.
    """
    _check(parts)
    dense = [all(plan.dense for plan in plans) for plans in zip(*parts, strict=True)]
    levels = list(zip(*(_with_tables(part, dense) for part in parts), strict=True))
    capacities = [exact if each else capacity for each in dense]
    rows = [_joined([plan.rows for plan in plans], partial(capacities[i], "rows", i)) for i, plans in enumerate(levels)]
    return [_plan(plans, rows, level, capacities[level]) for level, plans in enumerate(levels)]


def _check(parts: Sequence[Sequence[Plan]]) -> None:
    sizes = {tuple((plan.height, plan.width) for plan in part) for part in parts}
    if len(sizes) != 1:
        raise ValueError(f"parts must be plans of the same resolutions, got {sorted(sizes)}")
    if any(_is_padded(plan) for part in parts for plan in part):
        raise ValueError("parts must be plans without padding, got plans made with a capacity")


def _is_padded(plan: Plan) -> bool:
    lists = plan.rows, plan.rest, plan.attended, plan.halo, plan.keys
    return any(each.index.shape[0] != each.offsets[-1] for each in lists)


def _plan(plans: Sequence[Plan], rows: Sequence[Positions], level: int, capacity: Capacity) -> Plan:
    """One resolution of all parts, which have the same tables."""
    own, num_rows = rows[level], [plan.rows.offsets[-1] for plan in plans]
    halo = _joined([plan.halo for plan in plans], partial(capacity, "halo", level))
    rest = _joined([plan.rest for plan in plans], partial(capacity, "rest", level))
    attended = rest
    if any(plan.attended is not plan.rest for plan in plans):
        attended = _joined([plan.attended for plan in plans], partial(capacity, "attended", level))
    sources = _Places.of(num_rows, len(own), [plan.halo.offsets[-1] for plan in plans])
    positions = _Places.of(num_rows, len(own), [plan.rest.offsets[-1] for plan in plans])
    same, up, down = (_present(getattr(plan, name) for plan in plans) for name in ("same", "up", "down"))
    return Plan(
        batch=own.num_images,
        height=plans[0].height,
        width=plans[0].width,
        complete=tuple(chain.from_iterable(plan.complete for plan in plans)),
        rows=own,
        rest=rest,
        attended=attended,
        halo=halo,
        keys=_keys(plans, own, partial(capacity, "keys", level)),
        scatter=positions.moved([plan.scatter for plan in plans], own.num_images * own.per_image),
        same=sources.moved(same, len(own)) if same else None,
        down=_downward(down, sources, rows, level, capacity) if down else None,
        up=sources.moved(up, len(rows[level - 1])) if up else None,
    )


def _joined(lists: Sequence[Positions], length: Callable[[int], int]) -> Positions:
    """Positions of all parts, in a list that `length` makes so long."""
    offsets = _offsets(lists)
    index = _shifted([each.index for each in lists], _positions_before(lists), length(offsets[-1]), 0)
    return Positions(offsets, Segments.of(offsets).starts, index, lists[0].per_image)


def _keys(plans: Sequence[Plan], rows: Positions, length: Callable[[int], int]) -> Keys:
    """Padded rows have a place of their own behind all keys, as in plans that are made."""
    keys = [plan.keys for plan in plans]
    offsets = _offsets(keys)
    num_keys = length(offsets[-1]) + (len(rows) > rows.offsets[-1])
    fresh = _shifted([each.fresh for each in keys], _before(each.offsets[-1] for each in keys), len(rows), num_keys - 1)
    index = _shifted([each.index for each in keys], _positions_before([plan.rows for plan in plans]), num_keys, -1)
    for begin, own in zip(offsets, rows.counts(), strict=False):
        index[begin : begin + own] = -1
    return Keys(offsets, Segments.of(offsets).starts, fresh, index)


def _downward(
    downs: Sequence[Downward], sources: _Places, rows: Sequence[Positions], level: int, capacity: Capacity
) -> Downward:
    num_computed, low = [down.neighbors.shape[0] for down in downs], rows[level + 1]
    length = capacity("reached", level, sum(num_computed))
    fill = _joined([down.fill for down in downs], partial(capacity, "fill", level))
    order = _Places.of(num_computed, length, [down.fill.offsets[-1] for down in downs])
    moved = order.moved([down.order for down in downs], len(low))
    num_low = low.offsets[-1]
    moved[num_low:] = moved[0] if num_low and not low.index[0] else 0  # padded rows are position 0
    return Downward(sources.moved([down.neighbors for down in downs], length), fill, moved)


@dataclass(frozen=True)
class _Places:
    """How far places in concat(first, second) of each part move, to be places in that of all parts."""

    num_first: Sequence[int]  # in the first list of each part
    firsts: Sequence[int]  # how far those move
    seconds: Sequence[int]  # and those in the second list

    @classmethod
    def of(cls, num_first: Sequence[int], length: int, num_second: Sequence[int]) -> _Places:
        """So many in each part's lists; `length` is that of all parts' first list, with its padding."""
        begins = _before(num_second, length)
        return cls(num_first, _before(num_first), [begin - own for begin, own in zip(begins, num_first, strict=True)])

    def moved(self, tables: Sequence[Tensor], length: int) -> Tensor:
        """Tables [N, ...] of all parts, one after another, -1 as it is; behind them -1."""
        joined, parts = _room(tables, length, -1)
        for (places, moved), own, first, second in zip(parts, self.num_first, self.firsts, self.seconds, strict=True):
            _move(places, own, first, second, moved)
        return joined


def _move(places: Integers, num_first: int, first: int, second: int, moved: Integers) -> None:
    """Those below `num_first` by `first`, others by `second`; -1 stays. In place: np.where takes twice as long."""
    np.subtract(places, num_first, out=moved)
    moved >>= 31  # all ones in the first list, else 0
    moved &= first - second
    moved += second
    moved += places
    moved |= places >> 31


def _shifted(lists: Sequence[Tensor], by: Sequence[int], length: int, padding: int) -> Tensor:
    """Integers [N] of all parts, one after another, each part's moved by so much; behind them padding."""
    joined, parts = _room(lists, length, padding)
    for (given, shifted), shift in zip(parts, by, strict=True):
        np.add(given, shift, out=shifted)
    return joined


def _room(parts: Sequence[Tensor], length: int, padding: int) -> tuple[Tensor, list[tuple[Integers, Integers]]]:
    """Room for all parts' integers [N, ...] with padding behind them; those of each part, and its room."""
    check_room(sum(map(len, parts)), length)
    room = np.empty((length, *parts[0].shape[1:]), np.int32)
    pairs, end = [], 0
    for given in (part.numpy() for part in parts):
        begin, end = end, end + len(given)
        pairs.append((given, room[begin:end]))
    room[end:] = padding
    return torch.from_numpy(room), pairs


def _offsets(parts: Sequence[Segments]) -> tuple[int, ...]:
    before = _before(part.offsets[-1] for part in parts)
    ends = (begin + end for begin, part in zip(before, parts, strict=True) for end in part.offsets[1:])
    return (0, *ends)


def _positions_before(lists: Sequence[Positions]) -> list[int]:
    return _before(each.num_images * each.per_image for each in lists)


def _before(lengths: Iterable[int], first: int = 0) -> list[int]:
    """Where each of so many begins."""
    return list(accumulate(lengths, initial=first))[:-1]


def _present(parts: Iterable[Part | None]) -> list[Part]:
    return [part for part in parts if part is not None]


def _with_tables(part: Sequence[Plan], dense: Sequence[bool]) -> Sequence[Plan]:
    """A part with tables wherever the batch has them, though it is dense there itself."""
    tabled = list(part)
    for level, (plan, both) in enumerate(zip(part, dense, strict=True)):
        if plan.dense and not both:
            low = part[level + 1].size if level + 1 < len(part) else None
            same, down, up = _tables_of_everything(plan.size, low)
            tabled[level] = replace(tabled[level], same=same, down=down)
            if low:
                tabled[level + 1] = replace(tabled[level + 1], up=up)
    return tabled


@lru_cache(maxsize=16)
def _tables_of_everything(
    size: tuple[int, int, int], low: tuple[int, int, int] | None
) -> tuple[Tensor, Downward | None, Tensor | None]:
    """`same` and `down` of a resolution (B, H, W) all of whose positions are rows, and `up` of the one below it."""
    everything, places = _everything(size)
    same = table(everything, places)
    if low is None:
        return same, None, None
    everything_below, places_below = _everything(low)
    nothing = Positions.where(~everything_below)
    down = Downward(table(everything_below, places, stride=2), nothing, places_below.flatten())
    return same, down, table(everything, upsample(places_below, everything))


def _everything(size: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """All positions (B, H, W), and the places that they have as rows."""
    everything = torch.ones(size, dtype=torch.bool)
    return everything, torch.arange(everything.numel(), dtype=torch.int32).view(size)
