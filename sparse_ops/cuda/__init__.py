"""The operators on rows by our CUDA kernels: the same signatures and meaning as in `reference.py`, fp16 and bf16.

What is computed here on the host is a grid and a number of splits, from shapes alone: which image a row belongs to a
kernel finds on the device. So a step launches without waiting for the device, and a captured graph serves every batch
of its shapes. Each kernel's essay says what it does.
"""

from sparse_ops.cuda.attention import attention, serves_attention
from sparse_ops.cuda.conv import conv3x3, serves_conv3x3
from sparse_ops.cuda.cross_attention import cross_attention, serves_cross_attention
from sparse_ops.cuda.norms import group_norm_statistics, join, normalise, serves_norm, serves_statistics
from sparse_ops.cuda.rows import gather_rows, quantise_rows

__all__ = [
    "attention", "conv3x3", "cross_attention", "gather_rows", "group_norm_statistics", "join", "normalise",
    "quantise_rows", "serves_attention", "serves_conv3x3", "serves_cross_attention", "serves_norm", "serves_statistics",
]  # fmt: skip
