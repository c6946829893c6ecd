"""The operators on rows by our CUDA kernels: the same signatures and meaning as in `reference.py`, fp16 and bf16.

What is computed here on the host is a grid, a number of splits and some small tables; the tables are made once for the
offsets that they depend on, so a step launches without waiting for the device. Each kernel's essay says what it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import ceil, e, log2

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sparse_ops.launch import DTYPES, Kernel, address, current_stream, launch, num_multiprocessors

Offsets = Sequence[int]

HEAD_SIZES = (40, 64, 80, 160)
CHUNK = 8  # elements of 16 bytes, the unit of every copy
MOST_TILES = 1 << 16  # counters of arriving blocks
KEYS_A_STEP = 64
STATISTICS_CHANNELS = 160  # of a block of group_norm_statistics, at least where there are so many
STATISTICS_THREADS = 256


@dataclass(frozen=True)
class ConvTile:
    """A line of the table at the end of conv_rows.cu."""

    rows: int
    channels: int
    kernel: Kernel

    @classmethod
    def of(cls, rows: int, channels: int, depth: int, warps: int, stages: int) -> ConvTile:
        """`depth` channels of one tap are a step."""
        shared_bytes = stages * (rows * depth + depth * channels) * 2 + rows * 9 * 4 + 16
        entry = f"conv_rows_{rows}x{channels}x{depth}"
        return cls(rows, channels, Kernel("conv_rows.cu", entry, 32 * warps, shared_bytes))


FEW, SOME, MANY = ConvTile.of(64, 64, 32, 4, 4), ConvTile.of(128, 64, 32, 4, 4), ConvTile.of(256, 64, 32, 4, 4)


def serves_conv3x3(sources: Tensor, weight: Tensor) -> bool:
    """Whether `conv3x3` takes these types and widths; the U-Net's first and last convolutions are narrower."""
    out_channels, channels = weight.shape[:2]
    return sources.dtype in DTYPES and channels % CHUNK == 0 and out_channels % CHUNK == 0


def conv3x3(
    sources: Tensor,  # [1 + S, C]: zero, then what the table points into
    neighbors: Tensor,  # int32 [K, 9] into the S sources; -1 = zero
    weight: Tensor,  # [O, C, 3, 3]
    bias: Tensor,  # [O]
) -> Tensor:  # [K, O]
    """3x3 convolution of K output rows by one gather-GEMM. Exact: fp32 sums, one rounding."""
    neighbors = neighbors.contiguous()
    (num_rows, _), channels, out_channels = neighbors.shape, sources.shape[1], len(weight)
    out = sources.new_empty(num_rows, out_channels)
    if not num_rows:
        return out
    device = sources.device
    tile, splits = choose_conv(num_rows, channels, out_channels, num_multiprocessors(device))
    grid = ceil(num_rows / tile.rows), ceil(out_channels / tile.channels), splits
    num_tiles, none = grid[0] * grid[1], address(None)
    partial, arrived = (
        _parts(num_tiles * tile.rows * tile.channels, splits, device),
        _arrived(num_tiles, splits, device),
    )
    launch(
        tile.kernel,
        grid,
        (
            address(sources[1:]), address(neighbors), none, none, none, address(_matrix(weight)), address(bias),
            none, none, none, none, address(out), address(partial), address(arrived),
            np.int32(num_rows), np.int32(channels), np.int32(out_channels),
        ),
        sources.dtype,
        device,
    )  # fmt: skip
    return out


def choose_conv(num_rows: int, channels: int, out_channels: int, multiprocessors: int) -> tuple[ConvTile, int]:
    """A tile and a number of splits of K: fill the device about once, six steps a split or more. To be measured."""
    many_products = num_rows > FEW.rows and num_rows * channels >= SOME.rows * 1280
    tile = MANY if num_rows >= 16 * MANY.rows else SOME if many_products else FEW
    blocks = ceil(num_rows / tile.rows) * ceil(out_channels / tile.channels)
    steps = ceil(channels / 32) * 9
    return tile, max(1, min(multiprocessors // blocks, steps // 6, 16))


def serves_attention(queries: Tensor, num_heads: int) -> bool:
    """Whether `attention` takes this type and head size."""
    return queries.dtype in DTYPES and queries.shape[1] // num_heads in HEAD_SIZES


def attention(
    queries: Tensor,  # [N, C]
    offsets: Offsets,
    keys: Tensor,  # [L, C], rows any multiple of 8 elements apart
    values: Tensor,  # [L, C], as far apart
    key_offsets: Offsets,
    *,
    num_heads: int,
) -> Tensor:  # [N, C]
    """Each image's queries over its own keys and values, flash style. Exact: fp32 softmax and sums, one rounding."""
    queries, out = queries.contiguous(), torch.empty_like(queries, memory_format=torch.contiguous_format)
    if not len(queries):
        return out
    if keys.stride() != values.stride() or keys.stride(1) != 1 or keys.stride(0) % CHUNK:
        keys, values = keys.contiguous(), values.contiguous()
    device, size = queries.device, queries.shape[1] // num_heads
    warps = 8 if max(stop - start for start, stop in pairwise(offsets)) > 64 else 4
    tiles = attention_tiles(tuple(offsets), 16 * warps, device)
    splits = choose_splits(len(tiles) * num_heads, tuple(key_offsets), num_multiprocessors(device))
    padded, threads = ceil(size / 16) * 16, 32 * warps
    kernel = Kernel(
        "attention_rows.cu", f"attention_rows_{size}_{warps}", threads,
        2 * 2 * KEYS_A_STEP * padded * 2 + 2 * KEYS_A_STEP * 4 + 16,
    )  # fmt: skip
    num_tiles, none = len(tiles) * num_heads, address(None)
    partial = _parts(num_tiles * (padded // 8 + 1) * 4 * threads, splits, device)
    arrived = _arrived(num_tiles, splits, device)
    launch(
        kernel,
        (len(tiles), num_heads, splits),
        (
            address(queries), address(keys), address(values), none, none, none,
            address(on_device(tuple(key_offsets), device)), address(tiles), address(out), address(partial),
            address(arrived), np.int32(queries.stride(0)), np.int32(keys.stride(0)), np.int32(0),
            np.int32(out.stride(0)), np.float32(log2(e) / size**0.5),
        ),
        queries.dtype,
        device,
    )  # fmt: skip
    return out


def choose_splits(num_blocks: int, key_offsets: tuple[int, ...], multiprocessors: int) -> int:
    """Of the keys: fill the device about once, two steps a split or more. To be measured."""
    steps = ceil(max(stop - start for start, stop in pairwise(key_offsets)) / KEYS_A_STEP)
    return max(1, min(multiprocessors // num_blocks, steps // 2, 16))


@lru_cache(maxsize=256)
def attention_tiles(offsets: tuple[int, ...], num_queries: int, device: torch.device) -> Tensor:
    """int32 [tiles, 3]: image, its first row, the last one + 1, of at most so many queries each."""
    tiles = [
        (image, first, min(first + num_queries, stop))
        for image, (start, stop) in enumerate(pairwise(offsets))
        for first in range(start, stop, num_queries)
    ]
    return torch.tensor(tiles, dtype=torch.int32).view(-1, 3).to(device)


@lru_cache(maxsize=256)
def on_device(offsets: tuple[int, ...], device: torch.device) -> Tensor:
    """Host integers as int32 on the device."""
    return torch.tensor(offsets, dtype=torch.int32).to(device)


def serves_statistics(rows: Tensor) -> bool:
    """Whether `group_norm_statistics` takes this type and width."""
    return rows.dtype in DTYPES and rows.shape[2] % CHUNK == 0


def group_norm_statistics(rows: Tensor, num_groups: int) -> Tensor:  # [B, H * W, C] -> float32 [B, 2, G]
    """Mean and variance of the groups of complete images. Exact: no square is taken from another."""
    batch, num_rows, channels = rows.shape
    rows, device = rows.contiguous(), rows.device
    out = torch.zeros(batch, 2, num_groups, dtype=torch.float32, device=device)
    if not rows.numel():
        return out
    groups = min(num_groups, ceil(STATISTICS_CHANNELS * num_groups / channels))
    chunks = (groups * (channels // num_groups) + 6) // CHUNK + 1
    threads = max(STATISTICS_THREADS, ceil(chunks / 32) * 32)
    ranges = ceil(num_groups / groups)
    most_splits = ceil(num_rows / (CHUNK * (threads // chunks)))
    splits = max(1, min(num_multiprocessors(device) // (ranges * batch), most_splits))
    moments, arrived = _parts(batch * num_groups * 2, splits, device), _arrived(batch * ranges, splits, device)
    launch(
        Kernel("group_norm_statistics.cu", "group_norm_statistics", threads, threads * 64 + 16),
        (ranges, splits, batch),
        (
            address(rows), address(on_device(tuple(range(0, (batch + 1) * num_rows, num_rows)), device)), address(out),
            address(moments), address(arrived), np.int32(channels), np.int32(num_groups), np.int32(groups),
        ),
        rows.dtype,
        device,
    )  # fmt: skip
    return out


_matrices: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # weights as conv_rows reads them, while they live


def _matrix(weight: Tensor) -> Tensor:  # [O, C, 3, 3] -> [9 * C, O], made once
    if weight not in _matrices:
        _matrices[weight] = weight.detach().permute(2, 3, 1, 0).reshape(-1, len(weight)).contiguous()
    matrix: Tensor = _matrices[weight]
    return matrix


def _parts(num_values: int, splits: int, device: torch.device) -> Tensor | None:
    """Where the splits leave their parts; nothing for a single split."""
    return torch.empty(num_values * splits, dtype=torch.float32, device=device) if splits > 1 else None


def _arrived(num_tiles: int, splits: int, device: torch.device) -> Tensor | None:
    """A counter for each tile, of the splits that have arrived; nothing for a single split."""
    if splits == 1:
        return None
    if num_tiles > MOST_TILES:
        raise ValueError(f"num_tiles must be at most {MOST_TILES} where work is split, is {num_tiles}")
    return _counters(device, current_stream(device))


@lru_cache(maxsize=64)
def _counters(device: torch.device, stream: int) -> Tensor:
    """Zeros; kernels leave zeros behind. Each stream its own: two launches in flight must not share them."""
    del stream
    return torch.zeros(MOST_TILES, dtype=torch.int32, device=device)
