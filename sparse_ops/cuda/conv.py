"""3x3 convolutions of rows: kernels/activate_rows.cu, then kernels/conv_rows.cu."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from sparse_ops import launch
from sparse_ops.cuda.norms import join
from sparse_ops.cuda.splits import choose_splits, shared_work
from sparse_ops.launch import CHUNK, DTYPES, Kernel, addresses, integers
from sparse_ops.reference import Norm
from sparse_ops.segments import Segments

TAPS = 9
STEPS_A_SPLIT = 6
LEAST_LARGE_CHANNELS = 960  # below, a medium tile is as quick or quicker


@dataclass(frozen=True)
class ConvTile:
    """A line of the table at the end of conv_rows.cu."""

    rows: int
    channels: int
    depth: int  # channels of one tap that are a step
    kernel: Kernel

    @classmethod
    def of(cls, rows: int, channels: int, depth: int, warps: tuple[int, int], stages: int) -> ConvTile:
        """`warps` along the rows and along the channels."""
        shared_bytes = stages * (rows + channels) * depth * 2 + rows * TAPS * 4 + 16
        name = f"{rows}x{channels}x{depth}"
        line = f"{name}, {rows}, {channels}, {depth}, {warps[0]}, {warps[1]}, {stages}"
        threads, only = 32 * warps[0] * warps[1], f"CONV_ROWS_TILES(X)=X({line})"
        return cls(rows, channels, depth, Kernel("conv_rows.cu", f"conv_rows_{name}", threads, shared_bytes, only))


SMALL = ConvTile.of(64, 64, 64, (2, 2), 3)
MEDIUM = ConvTile.of(128, 64, 64, (4, 2), 3)
LARGE = ConvTile.of(128, 128, 32, (2, 4), 4)


def serves_conv3x3(rows: Tensor, weight: Tensor) -> bool:
    """Whether `conv3x3` takes these types and widths; the U-Net's first and last convolutions are narrower."""
    out_channels, channels = weight.shape[:2]
    return rows.dtype in DTYPES and channels % CHUNK == 0 and out_channels % CHUNK == 0


def conv3x3(
    rows: Tensor,  # [N, C]
    halo: Sequence[Tensor],  # [M, C'] each, side by side: C channels in all
    neighbors: Tensor,  # int32 [K, 9] into concat(rows, halo); -1 = zero
    weight: Tensor,  # [O, C, 3, 3], channels last
    bias: Tensor,  # [O]
    *,
    norm: Norm | None = None,  # of rows and halo, and SiLU after it; needs `images`
    images: tuple[Segments, Segments] | None = None,  # of the rows, and of the halo
    embedding: Tensor | None = None,  # [B, O], added to all outputs of an image; outputs are then the N rows
    residual: Tensor | None = None,  # [K, O], added
) -> Tensor:  # [K, O]
    """See `reference.conv3x3`: one launch, two with a halo or a norm. Exact: fp32 sums, one rounding each."""
    num_rows, (out_channels, channels) = len(neighbors), weight.shape[:2]
    out = rows.new_empty(num_rows, out_channels)
    if not num_rows:
        return out
    sources, neighbors = join(rows, halo, norm, images), neighbors.contiguous()
    matrix = weight.permute(0, 2, 3, 1).reshape(out_channels, TAPS * channels)  # a view
    num_images, starts = (1, None) if images is None else (images[0].num_images, images[0].starts)
    embedding = None if embedding is None or images is None else embedding.contiguous()
    residual = None if residual is None else residual.contiguous()
    tile, splits = choose_conv(num_rows, channels, out_channels, rows.device)
    grid = ceil(num_rows / tile.rows), ceil(out_channels / tile.channels), splits
    partial, arrived = shared_work(grid[0] * grid[1], tile.rows * tile.channels, splits, rows.device)
    launch.launch(
        tile.kernel,
        grid,
        (
            *addresses(sources, neighbors, matrix, bias, embedding, starts, residual, out),
            *addresses(partial, arrived), *integers(num_rows, channels, out_channels, num_images),
        ),
        rows.dtype,
        rows.device,
    )  # fmt: skip
    return out


def choose_conv(num_rows: int, channels: int, out_channels: int, device: torch.device) -> tuple[ConvTile, int]:
    """A tile, and a number of splits of K.

    Measured on an H200, shape by shape (`python -m loadtests.kernels --sweep`): the best is rarely over 5 % quicker.
    """
    tile = SMALL if num_rows <= SMALL.rows else MEDIUM
    if channels >= LEAST_LARGE_CHANNELS and out_channels % LARGE.channels == 0 and num_rows > 2 * LARGE.rows:
        tile = LARGE
    num_blocks = ceil(num_rows / tile.rows) * ceil(out_channels / tile.channels)
    return tile, choose_splits(num_blocks, ceil(channels / tile.depth) * TAPS, STEPS_A_SPLIT, device)
