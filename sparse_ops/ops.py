"""The operators on rows: our kernels where they serve, plain torch everywhere else.

`reference.py` says what each means; what has no kernel is taken from there as it is.
"""

from __future__ import annotations

from torch import Tensor

from sparse_ops import cuda, reference
from sparse_ops.launch import why_not
from sparse_ops.reference import (
    Offsets,
    add_per_image_,
    attention_maps,
    conv3x3_dense,
    conv_sources,
    geglu,
    group_norm_affine,
    mix_values,
    scale_and_shift,
    side_by_side,
    sinusoid,
)

__all__ = [
    "add_per_image_", "attention", "attention_maps", "conv3x3", "conv3x3_dense", "conv_sources", "geglu",
    "group_norm_affine", "group_norm_statistics", "mix_values", "scale_and_shift", "side_by_side", "sinusoid",
]  # fmt: skip


def conv3x3(sources: Tensor, neighbors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `reference.conv3x3`."""
    if why_not(sources.device) is None and cuda.serves_conv3x3(sources, weight):
        return cuda.conv3x3(sources, neighbors, weight, bias)
    return reference.conv3x3(sources, neighbors, weight, bias)


def attention(
    queries: Tensor, offsets: Offsets, keys: Tensor, values: Tensor, key_offsets: Offsets, *, num_heads: int
) -> Tensor:
    """See `reference.attention`."""
    if why_not(queries.device) is None and cuda.serves_attention(queries, num_heads):
        return cuda.attention(queries, offsets, keys, values, key_offsets, num_heads=num_heads)
    return reference.attention(queries, offsets, keys, values, key_offsets, num_heads=num_heads)


def group_norm_statistics(rows: Tensor, num_groups: int) -> Tensor:
    """See `reference.group_norm_statistics`."""
    if why_not(rows.device) is None and cuda.serves_statistics(rows):
        return cuda.group_norm_statistics(rows, num_groups)
    return reference.group_norm_statistics(rows, num_groups)
