"""The operators on rows: our kernels where they serve, plain torch everywhere else.

`reference.py` says what each means; what has no kernel is taken from there as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor

from sparse_ops import cuda, reference
from sparse_ops import quantise as quantised
from sparse_ops.launch import why_not
from sparse_ops.reference import (
    Norm,
    conv3x3_dense,
    geglu,
    side_by_side,
    sinusoid,
)
from sparse_ops.segments import Segments

__all__ = [
    "Norm", "attention", "conv3x3", "conv3x3_dense", "cross_attention", "geglu", "group_norm_statistics", "normalise",
    "quantise", "side_by_side", "sinusoid",
]  # fmt: skip


def conv3x3(
    rows: Tensor,
    halo: Sequence[Tensor],
    neighbors: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    norm: Norm | None = None,
    images: tuple[Segments, Segments] | None = None,
    embedding: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """See `reference.conv3x3`. A network's first and last convolutions are too narrow for the kernel, not its norms."""
    conv = reference.conv3x3
    if why_not(rows.device) is None and cuda.serves_conv3x3(rows, weight):
        conv = cuda.conv3x3
    elif why_not(rows.device) is None and cuda.serves_norm(rows):
        rows, halo, norm = cuda.join(rows, halo, norm, images), (), None
    return conv(rows, halo, neighbors, weight, bias, norm=norm, images=images, embedding=embedding, residual=residual)


def normalise(rows: Tensor, norm: Norm, images: Segments) -> Tensor:
    """See `reference.normalise`."""
    if why_not(rows.device) is None and cuda.serves_norm(rows):
        return cuda.normalise(rows, norm, images)
    return reference.normalise(rows, norm, images)


def attention(
    queries: Tensor, of_queries: Segments, keys: Tensor, values: Tensor, of_keys: Segments, *, num_heads: int
) -> Tensor:
    """See `reference.attention`."""
    served = why_not(queries.device) is None and cuda.serves_attention(queries, num_heads)
    attend = cuda.attention if served else reference.attention
    return attend(queries, of_queries, keys, values, of_keys, num_heads=num_heads)


def cross_attention(
    queries: Tensor,
    of_queries: Segments,
    keys: Tensor,
    values: Tensor,
    *,
    num_heads: int,
    moved: Tensor | None = None,
    alpha: Tensor | None = None,
    keep_maps: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """See `reference.cross_attention`."""
    served = why_not(queries.device) is None and cuda.serves_cross_attention(queries, keys, num_heads)
    attend = cuda.cross_attention if served else reference.cross_attention
    return attend(
        queries, of_queries, keys, values, num_heads=num_heads, moved=moved, alpha=alpha, keep_maps=keep_maps
    )  # fmt: skip


def quantise(rows: Tensor, kind: quantised.Kind) -> tuple[Tensor, Tensor]:
    """See `quantise.quantise`: the same bits."""
    if why_not(rows.device) is not None or not cuda.serves_norm(rows):
        return quantised.quantise(rows, kind)
    values = torch.empty(rows.shape, dtype=quantised.VALUES[kind], device=rows.device)
    scales = torch.empty(len(rows), ceil(rows.shape[1] / quantised.BLOCK), dtype=torch.float16, device=rows.device)
    cuda.quantise_rows(rows, values, scales)
    return values, scales


def group_norm_statistics(rows: Tensor, num_groups: int) -> Tensor:
    """See `reference.group_norm_statistics`."""
    if why_not(rows.device) is None and cuda.serves_statistics(rows):
        return cuda.group_norm_statistics(rows, num_groups)
    return reference.group_norm_statistics(rows, num_groups)
