"""Statistics of a map cell by cell: squares of equal sides, so that what is computed anew has a share of its own.

A group norm's mean and variance are those of the whole map. Of a map of which only some rows are computed, cells all of
whose rows are there take the place of the recorded ones, and the rest stays. Cells of side 2:

    computed rows     complete cells     held             then
    . . . . . .       . . .              a b c            a b c
    . # # # # .       . . .              d e f            d e f
    . # # # # .       . # .              g h i            g H i
    . # # # # .
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Cells:
    """The complete cells of a map."""

    index: Tensor  # int64 [K]: their numbers, in raster order
    rows: Tensor  # int64 [K, side * side]: the places of their rows


def complete_cells(
    places: Tensor,  # integers [H, W]: of the row at each position, -1 where there is none
    side: int,  # positions; divides H and W
) -> Cells:
    """The cells without a position that has no row."""
    height, width = places.shape
    cells = places.view(height // side, side, width // side, side).transpose(1, 2).reshape(-1, side * side)
    index = (cells >= 0).all(1).nonzero().squeeze(1)
    return Cells(index, cells[index].long())


@lru_cache(maxsize=16)  # a device is waited for where cells are looked for; here it is known which they are
def all_cells(height: int, width: int, side: int, device: torch.device) -> Cells:
    """Every cell of a map whose rows lie in raster order."""
    places = torch.arange(height * width, device=device)
    cells = places.view(height // side, side, width // side, side).transpose(1, 2).reshape(-1, side * side)
    return Cells(torch.arange(len(cells), device=device), cells)


def of_all(
    statistics: Tensor,  # float32 [cells, 2, G]: mean and variance of each cell of a map
) -> Tensor:  # [2, G]
    """Mean and variance of the whole map. Exact: means within cells and between them, no square taken from another."""
    mean, variance = statistics.unbind(1)
    return torch.stack([mean.mean(0), variance.mean(0) + mean.var(0, correction=0)])
