"""Rows out of a recording and into one: kernels/gather_rows.cu, kernels/quantise_rows.cu."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from sparse_ops import launch
from sparse_ops.launch import CHUNK, DTYPES, Kernel, addresses, in_chunks, integers
from sparse_ops.quantise import BLOCK

THREADS = 256
CHUNKS_A_BLOCK = 1024  # of gather_rows, at a time
HOST_BLOCKS = 24  # of gather_rows where it waits for the host: enough to keep the bus full, most of the GPU stays free
SCALES_A_BLOCK = 32  # of quantise_rows
SUFFIXES = {torch.int8: "_int8", torch.float8_e4m3fn: "_fp8"}


def gather_rows(
    source: Tensor,  # [R, W] of the type of `out`, or int8 or float8_e4m3fn; on the device of `out`, or pinned
    index: Tensor,  # int32 [N] rows of the source; -1 = zeros
    columns: slice,  # of the source: multiples of 8
    scales: Tensor | None,  # float16 [R, ceil(W / 64)], where the source has one byte a value
    out: Tensor,  # [N, columns], rows any multiple of 8 elements apart: written
) -> None:
    """Listed rows, some columns of each; see `quantise.dequantise`. Exact: a copy, or one product and one rounding."""
    (num_rows, width), first = out.shape, columns.start or 0
    if not out.numel():
        return
    num_blocks = ceil(num_rows * width * out.element_size() / 2 / CHUNK / CHUNKS_A_BLOCK)
    halves = out.element_size() // 2 if scales is None else 1  # a copy of float32 moves pairs of halves
    scale_stride = 0 if scales is None else scales.stride(0)
    launch.launch(
        Kernel("gather_rows.cu", "gather_rows" + SUFFIXES.get(source.dtype, ""), THREADS),
        (num_blocks if source.is_cuda else min(num_blocks, HOST_BLOCKS), 1, 1),
        (
            *addresses(source, scales, index, out), *integers(num_rows, width * halves, first * halves),
            *integers(source.stride(0) * halves, scale_stride, out.stride(0) * halves),
        ),
        out.dtype if out.dtype in DTYPES else torch.float16,
        out.device,
    )  # fmt: skip


def quantise_rows(
    rows: Tensor,  # [N, C]
    values: Tensor,  # int8 or float8_e4m3fn [N, C], rows any multiple of 8 elements apart, or pinned: written
    scales: Tensor,  # float16 [N, ceil(C / 64)], rows any number of elements apart, or pinned: written
) -> None:
    """See `quantise.quantise`: the same bits. Approximate."""
    num_rows, width = rows.shape
    if not rows.numel():
        return
    rows = in_chunks(rows)
    launch.launch(
        Kernel("quantise_rows.cu", "quantise_rows" + SUFFIXES[values.dtype], THREADS),
        (ceil(num_rows * ceil(width / BLOCK) / SCALES_A_BLOCK), 1, 1),
        (
            *addresses(rows, values, scales), *integers(num_rows, width),
            *integers(rows.stride(0), values.stride(0), scales.stride(0)),
        ),
        rows.dtype,
        rows.device,
    )  # fmt: skip
