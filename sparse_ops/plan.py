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

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_ops.blocks import BlockCost, choose_blocks, pyramid, round_out, touched_blocks
from sparse_ops.tables import dilate, lookup, table, upsample

__all__ = [
    "BlockCost",
    "Downward",
    "Plan",
    "Positions",
    "active_positions",
    "choose_blocks",
    "dense_plans",
    "make_plans",
]


@dataclass(frozen=True, eq=False)
class Positions:
    """Sorted positions of a batch, ragged over its images."""

    index: Tensor  # int32 [N], flattened (image, y, x)
    offsets: tuple[int, ...]  # B + 1 host integers: where each image begins
    starts: Tensor  # int32 [B + 1], the same on the device of `index`
    per_image: int  # H * W

    @classmethod
    def where(cls, selected: Tensor) -> Positions:  # bool [B, H, W]
        """The positions at which `selected` is true."""
        flat = selected.flatten(1)
        starts = F.pad(flat.sum(1).cumsum(0), (1, 0)).int()
        return cls(flat.flatten().nonzero().squeeze(1).int(), tuple(starts.tolist()), starts, flat.shape[1])

    def __len__(self) -> int:
        return self.offsets[-1]

    def images(self) -> list[slice]:
        """One slice of `index` for each image."""
        return [slice(begin, end) for begin, end in pairwise(self.offsets)]

    @cached_property
    def locals(self) -> list[Tensor]:
        """The positions of each image, counted from its own first one: int32 [N_b] each."""
        return [self.index[part] - image * self.per_image for image, part in enumerate(self.images())]

    def local(self, image: int) -> Tensor:
        """The positions of one image, counted from its own first one: int32 [N_b]."""
        return self.locals[image]

    def to(self, device: torch.device | str) -> Positions:
        """The same positions on another device."""
        return replace(self, index=self.index.to(device), starts=self.starts.to(device))


@dataclass(frozen=True, eq=False)
class Downward:
    """A stride-2 convolution to the next lower resolution.

    Only low rows that an active row reaches are computed. The plan's other low rows (there are some when it is
    dense, or rounded out further) equal the recording: `fill`. `order` points into concat(computed, fill).
    """

    neighbors: Tensor  # int32 [computed, 9] into concat(rows, halo) of the higher resolution
    fill: Positions  # of the lower resolution
    order: Tensor  # int32 [rows of the lower resolution]

    def to(self, device: torch.device | str) -> Downward:
        """The same on another device."""
        return Downward(self.neighbors.to(device), self.fill.to(device), self.order.to(device))


@dataclass(frozen=True, eq=False)
class Plan:
    """The rows of one resolution. Dense is every position as a row, and no tables.

    Tables point into concat(rows, halo) of this resolution; -1 is zero: outside the image, or padding of the table.
    """

    batch: int
    height: int
    width: int
    rows: Positions  # computed now
    rest: Positions  # all others
    attended: Positions  # those of the rest whose recorded keys and values self-attention reads
    halo: Positions  # those of the rest that 3x3 convolutions read
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

    def complete(self, image: int) -> bool:
        """Whether all positions of one image are rows: it then reads nothing here but its own rows."""
        return self.rows.offsets[image + 1] - self.rows.offsets[image] == self.height * self.width

    @cached_property
    def key_offsets(self) -> tuple[int, ...]:
        """B + 1 host integers: where each image's self-attention keys begin, its fresh ones and then the attended."""
        return tuple(fresh + read for fresh, read in zip(self.rows.offsets, self.attended.offsets, strict=True))

    @cached_property
    def scatter(self) -> Tensor:
        """int32 [B * H * W]: where each position lies in concat(rows, rest)."""
        return lookup(self.batch * self.height * self.width, torch.cat([self.rows.index, self.rest.index]))

    def to(self, device: torch.device | str) -> Plan:
        """The same plan on another device."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: value.to(device) for name, value in held.items() if hasattr(value, "to")}
        return replace(self, **moved)


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
) -> list[Plan]:
    """Plans of all resolutions for one batch.

    Images are independent: a batch of jobs is their `active` concatenated along the first dimension, whatever each
    one's mask. An image that is all ones is complete: it computes everything and reads nothing. A resolution is dense
    (no tables) exactly when every image is complete there and at all lower resolutions.

    `attend_recorded` says for each image whether its rows attend to the recorded keys and values of the rest (exact
    but for their age) or to each other only (the paper's "Approximate Attention"). Raises ValueError.
    """
    _check_active(active)
    batch = len(active[0])
    attends = torch.tensor([attend_recorded] * batch if isinstance(attend_recorded, bool) else list(attend_recorded))
    if attends.shape != (batch,):
        raise ValueError(f"attend_recorded must be one bool, or one for each of {batch} images, got {attend_recorded}")
    complete = [bool(here.all()) for here in active]
    dense = [all(complete[level:]) for level in range(len(active))]
    return [_plan(active, level, dense, attends) for level in range(len(active))]


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


def _plan(active: Sequence[Tensor], level: int, dense: Sequence[bool], attends: Tensor) -> Plan:
    """One resolution, with its tables to itself and to its neighbours wherever one of the two is sparse."""
    here = active[level]
    rows, rest = Positions.where(here), Positions.where(~here)
    attended = rest if attends.all() else Positions.where(~here & attends[:, None, None])
    above = active[level - 1] if level > 0 and not dense[level - 1] else None
    below = active[level + 1] if level + 1 < len(active) and not dense[level] else None
    reached = None if below is None else dilate(here)[:, ::2, ::2] & below
    halo = Positions.where(_read(here, above, reached) & ~here)
    places = lookup(here.numel(), torch.cat([rows.index, halo.index])).view_as(here)
    same = None if dense[level] else table(here, places)
    up = None if above is None else table(above, upsample(places, above))
    down = None
    if below is not None and reached is not None:
        down = _downward(table(reached, places, stride=2), reached, below)
    batch, height, width = here.shape
    return Plan(batch, height, width, rows, rest, attended, halo, same, down, up)


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


def _downward(neighbors: Tensor, reached: Tensor, low: Tensor) -> Downward:
    computed, fill = Positions.where(reached), Positions.where(low & ~reached)
    order = lookup(low.numel(), torch.cat([computed.index, fill.index]))
    return Downward(neighbors, fill, order[Positions.where(low).index])
