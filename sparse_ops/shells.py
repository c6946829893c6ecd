"""Rows of a stack of 3x3 convolutions that reads no recording: what each layer computes is what the next one reads.

A sparse pass of the U-Net reads recorded rows around its own. A decoder keeps nothing to read: its rows shrink, layer
by layer, to the positions that are needed. For one needed `#` after two convolutions with an upsampling between:

    needed      before the last      before the upsampling      before the first
    . . . .     o o o .              . .                        o o o
    . # . .     o # o .              o o                        o o o
    . . . .     o o o .              o o                        o o o

Exact: a needed position gets what the whole map would give it. The first layer reads a complete map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparse_ops.blocks import touched_blocks
from sparse_ops.tables import dilate, lookup, table, upsample

Layer = Literal["same", "up"]  # stride 1; or nearest upsampling, and then the convolution


@dataclass(frozen=True, eq=False)
class Shell:
    """The rows after one convolution, and where they read the rows before it."""

    neighbors: Tensor  # int32 [N, 9], -1 outside of the image
    centers: Tensor  # int64 [N]: of each row, its own place among the rows before; above an upsampling the low row's
    places: Tensor  # int32 [H, W]: of the row at each position of the map, -1 where there is none

    def __len__(self) -> int:
        return len(self.neighbors)


def make_shells(
    needed: Tensor,  # bool [H, W], after the last layer
    layers: Sequence[Layer],  # in the order of the data
) -> list[Shell]:
    """The shell of each layer; the first one reads a complete map in raster order.

    Every "up" halves the size before it, rounded up. ValueError for a mask that is no map.
    """
    if needed.dtype != torch.bool or needed.ndim != 2:
        raise ValueError(f"needed must be bool [H, W], got {needed.dtype} {list(needed.shape)}")
    masks = [needed[None]]
    for layer in reversed(layers):
        wide = dilate(masks[0])
        masks.insert(0, touched_blocks(wide, 2) if layer == "up" else wide)
    masks[0] = torch.ones_like(masks[0])
    places = [lookup(mask.numel(), mask.flatten().nonzero().squeeze(1)).view_as(mask) for mask in masks]
    return [_shell(layer, before, after) for layer, before, after in zip(layers, places[:-1], places[1:], strict=True)]


def _shell(layer: Layer, before: Tensor, after: Tensor) -> Shell:  # int32 [1, h, w], [1, H, W]: places
    here = upsample(before, after) if layer == "up" else before
    neighbors = table(after >= 0, here)
    return Shell(neighbors, neighbors[:, 4].long(), after[0])
