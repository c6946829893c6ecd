"""Attention of rows to the text of their image, with maps that may be changed and kept: cross_attention_rows.cu."""

from __future__ import annotations

from math import ceil, e, log2

import numpy as np
import torch
from torch import Tensor

from sparse_ops import launch
from sparse_ops.launch import CHUNK, DTYPES, Kernel, addresses, integers
from sparse_ops.segments import Segments

MOST_TOKENS, MOST_HEAD = 256, 160
ROWS, TOKENS_A_STEP = 16, 64  # of a block


def serves_cross_attention(queries: Tensor, keys: Tensor, num_heads: int) -> bool:
    """Whether `cross_attention` takes this type, head size and number of tokens."""
    size = queries.shape[1] // num_heads
    return queries.dtype in DTYPES and size % CHUNK == 0 and size <= MOST_HEAD and keys.shape[1] <= MOST_TOKENS


def cross_attention(
    queries: Tensor,  # [N, C]
    of_queries: Segments,
    keys: Tensor,  # [B, T, C]
    values: Tensor,  # [B, T, C]
    *,
    num_heads: int,
    moved: Tensor | None = None,  # [N, heads, T] maps of another pass; needs `alpha`
    alpha: Tensor | None = None,  # float32 [B, T]: how much of each token's map is the moved one
    keep_maps: bool = False,
) -> tuple[Tensor, Tensor | None]:  # [N, C], and [N, heads, T] if kept
    """See `reference.cross_attention`. Exact: fp32, one rounding. Padding gets zeros."""
    (num_queries, channels), (images, num_tokens, _) = queries.shape, keys.shape
    size = channels // num_heads
    out = torch.empty_like(queries, memory_format=torch.contiguous_format)
    maps = queries.new_empty(num_queries, num_heads, num_tokens) if keep_maps else None
    if not num_queries:
        return out, maps
    queries, keys, values = (x.contiguous() for x in (queries, keys, values))
    moved = None if moved is None else moved.to(queries.dtype).contiguous()
    alpha = None if alpha is None else alpha.float().contiguous()
    launch.launch(
        _kernel(size, num_tokens),
        (ceil(num_queries / ROWS) + images, num_heads, 1),
        (
            *addresses(queries, keys, values, of_queries.starts, moved, alpha, out, maps),
            *integers(num_queries, images, num_tokens, size), np.float32(log2(e) / size**0.5),
        ),
        queries.dtype,
        queries.device,
    )  # fmt: skip
    return out, maps


def _kernel(size: int, num_tokens: int) -> Kernel:
    chunks = size // CHUNK | 1  # of a row in shared memory: odd, so that banks differ
    shared_bytes = (ROWS + TOKENS_A_STEP) * chunks * 16 + ROWS * num_tokens * 4
    return Kernel("cross_attention_rows.cu", "cross_attention_rows", 256, shared_bytes)
