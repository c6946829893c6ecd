"""Which rows of each resolution a sparse pass computes, and where its operators find what they read.

A position is (image, y, x), flattened; a row is one position's channels. A plan holds, for each resolution, the
rows computed now and the halo: positions that some 3x3 operator reads but nobody computes. The three operators
reach differently far. For one active position `#` of 6 x 6, and 3 x 3 below it:

    same: the ring       down: rows 2i-1 .. 2i+1    up: the low rows under each tap of `#`
    . . . . . .          . . . . . .                                  . . .
    . . . . . .          . h h h . .                                  . # h
    . . h h h .          . h h h . .                                  . h h
    . . h # h .          . h h # . .
    . . h h h .          . . . . . .
    . . . . . .          . . . . . .

`down` reads (1, 1), two away: the one-pixel ring is not enough. The halo is the union of the three.
Everything here is integers; it runs once per edit, on the CPU, and is then moved to the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from sparse_ops.blocks import pyramid, round_out, touched_blocks
from sparse_ops.positions import Capacity, Positions, exact, padded
from sparse_ops.segments import Segments
from sparse_ops.tables import dilate, lookup, table, upsample
from sparse_ops.tree import each


@dataclass(frozen=True, eq=False)
class Downward:
    """A stride-2 convolution to the next lower resolution.

    Only low rows that an active row reaches are computed. The plan's other low rows (there are some when it is
    dense, or rounded out further) equal the recording: `fill`. `order` points into concat(computed, fill).
    """

    neighbors: Tensor  # int32 [computed, 9] into concat(rows, halo) of the higher resolution
    fill: Positions  # of the lower resolution
    order: Tensor  # int32 [rows of the lower resolution]


@dataclass(frozen=True, eq=False)
class Keys(Segments):
    """What the rows of each image attend to: its own rows first, and then the attended ones, which are read."""

    fresh: Tensor  # int32 [rows]: where each row lies among the keys
    index: Tensor  # int32 [L]: the position whose recorded row is a key; -1 of fresh ones and of padding

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, eq=False)
class Plan:
    """The rows of one resolution. Dense is every position as a row, and no tables.

    Tables point into concat(rows, halo) of this resolution; -1 is zero: outside the image, or padding of the table.
    """

    batch: int
    height: int
    width: int
    complete: tuple[bool, ...]  # whether all positions of an image are rows: it then reads nothing but its own rows
    rows: Positions  # computed now
    rest: Positions  # all others
    attended: Positions  # those of the rest whose recorded keys and values self-attention reads
    halo: Positions  # those of the rest that 3x3 convolutions read
    keys: Keys  # of self-attention
    scatter: Tensor  # int32 [B * H * W]: where each position lies in concat(rows, rest)
    same: Tensor | None = None  # int32 [rows, 9]; None: dense
    down: Downward | None = None  # None: the next lower resolution is dense, and so is this
    up: Tensor | None = None  # int32 [rows of the next higher resolution, 9]; None: that one is dense, and so is this

    @property
    def size(self) -> tuple[int, int, int]:
        """B, H, W."""
        return self.batch, self.height, self.width

    @property
    def dense(self) -> bool:
        """Whether every position is computed, and every position of all lower resolutions."""
        return self.same is None

    def to(self, device: torch.device | str) -> Plan:
        """The same plan on another device."""
        return each(self, Tensor, lambda tensor: tensor.to(device))


def active_positions(
    edit_mask: Tensor,  # bool [B, H, W], True = changes
    num_levels: int,
    blocks: Sequence[int | None] | None = None,  # for each resolution, highest first; None = dense. Default: all 1
) -> list[Tensor]:
    """What to compute at each resolution, highest first: bool [B, H_l, W_l], H_l = ceil(H / 2^l).

    A lower position is active where its 2 x 2 cell is (max-pooled from the unrounded mask); each resolution is then
    rounded out to b x b blocks. Dense resolutions must be the lowest ones: a dense one above a sparse one would need
    low rows that nobody computes. Raises ValueError.
    """
    blocks = (1,) * num_levels if blocks is None else tuple(blocks)
    if edit_mask.dtype != torch.bool or edit_mask.ndim != 3:
        raise ValueError(f"edit_mask must be bool [B, H, W], got {edit_mask.dtype} {list(edit_mask.shape)}")
    if len(blocks) != num_levels:
        raise ValueError(f"blocks must have one entry for each of {num_levels} resolutions, got {blocks}")
    num_sparse = sum(block is not None for block in blocks)
    if None in blocks[:num_sparse]:
        raise ValueError(f"blocks must be dense (None) only at the lowest resolutions, got {blocks}")
    return [round_out(mask, block) for mask, block in zip(pyramid(edit_mask, num_levels), blocks, strict=True)]


def make_plans(
    active: Sequence[Tensor],  # bool [B, H_l, W_l] for each resolution, highest first, as of `active_positions`
    attend_recorded: bool | Sequence[bool] = True,  # noqa: FBT001, FBT002  # of the batch, or of each image
    capacity: Capacity = exact,
) -> list[Plan]:
    """Plans of all resolutions for one batch.

    Images are independent: a batch of jobs is their `active` concatenated along the first dimension, whatever each
    one's mask. An image that is all ones is complete: it computes everything and reads nothing. A resolution is dense
    (no tables) exactly when every image is complete there and at all lower resolutions.

    `attend_recorded` says for each image whether its rows attend to the recorded keys and values of the rest (exact
    but for their age) or to each other only (the paper's "Approximate Attention"). `capacity` pads the lists of sparse
    resolutions, so that the plans of many masks have the same shapes (`buckets.py`). Raises ValueError.
    """
    _check_active(active)
    batch = len(active[0])
    attends = torch.tensor([attend_recorded] * batch if isinstance(attend_recorded, bool) else list(attend_recorded))
    if attends.shape != (batch,):
        raise ValueError(f"attend_recorded must be one bool, or one for each of {batch} images, got {attend_recorded}")
    complete = [bool(here.all()) for here in active]
    dense = [all(complete[level:]) for level in range(len(active))]
    capacities = [exact if each else capacity for each in dense]
    rows = [Positions.where(here, partial(capacities[level], "rows", level)) for level, here in enumerate(active)]
    return [_plan(active, rows, level, dense, attends, capacities[level]) for level in range(len(active))]


def dense_plans(batch: int, height: int, width: int, num_levels: int) -> list[Plan]:
    """Every position of every resolution, highest first."""
    return make_plans(active_positions(torch.ones(batch, height, width, dtype=torch.bool), num_levels))


def _check_active(active: Sequence[Tensor]) -> None:
    for level, here in enumerate(active):
        if here.dtype != torch.bool or here.ndim != 3:
            raise ValueError(f"active[{level}] must be bool [B, H, W], got {here.dtype} {list(here.shape)}")
    for level, (high, low) in enumerate(pairwise(active), 1):
        expected = [len(high), -(-high.shape[1] // 2), -(-high.shape[2] // 2)]
        if list(low.shape) != expected:
            raise ValueError(f"active[{level}] must be {expected}, half of active[{level - 1}], got {list(low.shape)}")


def _plan(
    active: Sequence[Tensor],
    rows: Sequence[Positions],
    level: int,
    dense: Sequence[bool],
    attends: Tensor,
    capacity: Capacity,
) -> Plan:
    """One resolution, with its tables to itself and to its neighbours wherever one of the two is sparse."""
    here, own = active[level], rows[level]
    rest = Positions.where(~here, partial(capacity, "rest", level))
    others = ~here & attends[:, None, None]
    attended = rest if attends.all() else Positions.where(others, partial(capacity, "attended", level))
    above = active[level - 1] if level > 0 and not dense[level - 1] else None
    below = active[level + 1] if level + 1 < len(active) and not dense[level] else None
    reached = None if below is None else dilate(here)[:, ::2, ::2] & below
    halo = Positions.where(_read(here, above, reached) & ~here, partial(capacity, "halo", level))
    places = _places(own, halo).view_as(here)
    same = None if dense[level] else padded(table(here, places), len(own), -1)
    up = None if above is None else padded(table(above, upsample(places, above)), len(rows[level - 1]), -1)
    down = None
    if reached is not None:
        down = _downward(table(reached, places, stride=2), reached, active, rows, level, capacity)
    keys = _keys(own, attended, partial(capacity, "keys", level))
    batch, height, width = here.shape
    complete = tuple(count == height * width for count in own.counts())
    return Plan(batch, height, width, complete, own, rest, attended, halo, keys, _places(own, rest), same, down, up)


def _read(here: Tensor, above: Tensor | None, reached: Tensor | None) -> Tensor:  # bool [B, H, W] each
    """What the three operators read."""
    read = dilate(here)
    if above is not None:
        read |= touched_blocks(dilate(above), 2)
    if reached is not None:
        centres = torch.zeros_like(here)
        centres[:, ::2, ::2] = reached
        read |= dilate(centres)
    return read


def _downward(
    neighbors: Tensor,
    reached: Tensor,
    active: Sequence[Tensor],
    rows: Sequence[Positions],
    level: int,
    capacity: Capacity,
) -> Downward:
    computed = Positions.where(reached, partial(capacity, "reached", level))
    fill = Positions.where(active[level + 1] & ~reached, partial(capacity, "fill", level))
    order = _places(computed, fill)[rows[level + 1].index]
    return Downward(padded(neighbors, len(computed), -1), fill, order.clamp_(min=0))  # what padding reads is not used


def _keys(rows: Positions, attended: Positions, length: Callable[[int], int]) -> Keys:
    """Padded rows have a place of their own behind all keys: they must not be anybody's."""
    offsets = tuple(fresh + read for fresh, read in zip(rows.offsets, attended.offsets, strict=True))
    index = torch.full((length(offsets[-1]) + (len(rows) > rows.offsets[-1]),), -1, dtype=torch.int32)
    fresh = []
    for begin, own, others in zip(offsets[:-1], rows.counts(), attended.images(), strict=True):
        fresh.append(torch.arange(begin, begin + own, dtype=torch.int32))
        index[begin + own : begin + own + others.stop - others.start] = attended.index[others]
    places = padded(torch.cat(fresh), len(rows), len(index) - 1)
    return Keys(offsets, rows.starts + attended.starts, places, index)


def _places(first: Positions, second: Positions) -> Tensor:  # int32 [B * H * W]
    """Where each position lies in the concatenation of two lists; -1 where in neither."""
    places = lookup(len(first.counts()) * first.per_image, first.own)
    places[second.own] = torch.arange(len(first), len(first) + len(second.own), dtype=torch.int32)
    return places
