"""Attention of rows to rows: kernels/attention_rows.cu."""

from __future__ import annotations

from math import ceil, e, log2

import numpy as np
import torch
from torch import Tensor

from sparse_ops import launch
from sparse_ops.cuda.splits import choose_splits, shared_work
from sparse_ops.launch import CHUNK, DTYPES, Kernel, addresses, in_chunks, integers
from sparse_ops.segments import Segments

LEAST_HEAD, MOST_HEAD = 32, 160
KEYS_A_STEP = 64
STEPS_A_SPLIT = 2
MANY_QUERIES = 256  # of an image: below, tiles of half as many are quicker


def serves_attention(queries: Tensor, num_heads: int) -> bool:
    """Whether `attention` takes this type and head size."""
    size = queries.shape[1] // num_heads
    return queries.dtype in DTYPES and size % CHUNK == 0 and LEAST_HEAD <= size <= MOST_HEAD


def attention(
    queries: Tensor,  # [N, C]
    of_queries: Segments,
    keys: Tensor,  # [L, C], rows any multiple of 8 elements apart
    values: Tensor,  # [L, C], as far apart
    of_keys: Segments,
    *,
    num_heads: int,
) -> Tensor:  # [N, C]
    """See `reference.attention`; flash style. Exact: fp32 softmax and sums, one rounding. Padding gets zeros."""
    num_queries, size, images = len(queries), queries.shape[1] // num_heads, of_queries.num_images
    out = torch.empty_like(queries, memory_format=torch.contiguous_format)
    if not num_queries:
        return out
    queries, keys, values = in_chunks(queries), in_chunks(keys), in_chunks(values)
    if keys.stride() != values.stride():
        keys, values = keys.contiguous(), values.contiguous()
    kernel = attention_kernel(size, warps=8 if num_queries > MANY_QUERIES * images else 4)
    tiles = ceil(num_queries / (kernel.threads // 2))  # 16 queries a warp
    steps = ceil(len(keys) / images / KEYS_A_STEP)
    splits = choose_splits(tiles * num_heads, steps, STEPS_A_SPLIT, queries.device)
    grid = tiles + images, num_heads, splits
    part_values = (ceil(size / 16) * 2 + 1) * 4 * kernel.threads
    partial, arrived = shared_work(grid[0] * num_heads, part_values, splits, queries.device)
    launch.launch(
        kernel,
        grid,
        (
            *addresses(queries, keys, values, of_queries.starts, of_keys.starts, out, partial, arrived),
            *integers(num_queries, images, size, queries.stride(0), keys.stride(0)), np.float32(log2(e) / size**0.5),
        ),
        queries.dtype,
        queries.device,
    )  # fmt: skip
    return out


def attention_kernel(
    size: int,  # of a head
    warps: int,  # of 16 queries
) -> Kernel:
    """An entry of attention_rows.cu: head sizes are padded to 16."""
    padded = ceil(size / 16) * 16
    shared_bytes = 2 * 2 * KEYS_A_STEP * padded * 2 + 16
    only = f"ATTENTION_ROWS_ENTRIES(X)=X({padded}, {warps})"
    return Kernel("attention_rows.cu", f"attention_rows_{padded}_{warps}", 32 * warps, shared_bytes, only)
