"""Group norms: what they measure (kernels/group_norm_statistics.cu) and what they do (kernels/activate_rows.cu)."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
from torch import Tensor

from sparse_ops import launch
from sparse_ops.cuda.splits import choose_splits, shared_work
from sparse_ops.launch import CHUNK, DTYPES, Kernel, addresses, in_chunks, integers
from sparse_ops.reference import Norm
from sparse_ops.segments import Segments

ACTIVATED_ROWS = 4  # of one thread of activate_rows
ACTIVATE = Kernel("activate_rows.cu", "activate_rows", 128)
STATISTICS_CHANNELS = 160  # of a block of group_norm_statistics, at least where there are so many
STATISTICS_THREADS = 256


def serves_norm(rows: Tensor) -> bool:
    """Whether `normalise` takes this type and width."""
    return rows.dtype in DTYPES and rows.shape[-1] % CHUNK == 0


def normalise(rows: Tensor, norm: Norm, images: Segments) -> Tensor:  # [N, C] -> [N, C]
    """See `reference.normalise`. Exact for the statistics given: fp32, one rounding."""
    return _activate(rows, [], norm, (images, images), with_silu=False)


def join(
    rows: Tensor,  # [N, C]
    halo: Sequence[Tensor],  # [M, C'] each, side by side: C channels in all
    norm: Norm | None,  # and SiLU after it
    images: tuple[Segments, Segments] | None,
) -> Tensor:  # [N + M, C]
    """What a convolution gathers from. Where that is the rows as they are, nothing is copied."""
    if norm is None and (not halo or not len(halo[0])):
        return rows.contiguous()
    return _activate(rows, halo, norm, images, with_silu=norm is not None)


def _activate(
    rows: Tensor,
    halo: Sequence[Tensor],
    norm: Norm | None,
    images: tuple[Segments, Segments] | None,
    *,
    with_silu: bool,
) -> Tensor:
    """One launch for rows and halo."""
    (num_rows, channels), num_halo = rows.shape, len(halo[0]) if halo else 0
    out = rows.new_empty(num_rows + num_halo, channels)
    if not out.numel():
        return out
    rows, first, second = in_chunks(rows), *_two(halo, rows)
    starts = (None, None) if norm is None or images is None else (images[0].starts, images[1].starts)
    statistics = None if norm is None else _rows_of(norm.statistics)
    weight, bias, eps = (None, None, 0.0) if norm is None else (norm.weight, norm.bias, norm.eps)
    num_images, num_groups = (1, 1) if statistics is None else (len(statistics), statistics.shape[2])
    num_threads = ceil(len(out) / ACTIVATED_ROWS) * (channels // CHUNK)
    launch.launch(
        ACTIVATE,
        (ceil(num_threads / ACTIVATE.threads), 1, 1),
        (
            *addresses(rows, first, second, *starts, statistics, weight, bias, out),
            *integers(num_rows, num_halo, channels, first.shape[1]),
            *integers(rows.stride(0), first.stride(0), second.stride(0), num_images, num_groups),
            np.int32(0 if statistics is None else statistics.stride(0)),
            np.float32(eps), np.int32(with_silu),
        ),
        rows.dtype,
        rows.device,
    )  # fmt: skip
    return out


def _rows_of(statistics: Tensor) -> Tensor:  # [B, 2, G]
    """As the kernel reads them: what each image has lies together, images any number of values apart."""
    return statistics if statistics.stride()[1:] == (statistics.shape[2], 1) else statistics.contiguous()


def _two(halo: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """The halo as two parts, of which the second may be narrow as nothing; of none, no rows."""
    first, *others = halo or [rows[:0]]
    second = first[:, :0] if not others else others[0] if len(others) == 1 else torch.cat(others, 1)
    return in_chunks(first), in_chunks(second)


def serves_statistics(rows: Tensor) -> bool:
    """Whether `group_norm_statistics` takes this type and width."""
    return serves_norm(rows)


def group_norm_statistics(rows: Tensor, num_groups: int) -> Tensor:  # [B, H * W, C] -> float32 [B, 2, G]
    """Mean and variance of the groups of complete images. Exact: no square is taken from another."""
    batch, num_rows, channels = rows.shape
    rows, device = rows.contiguous(), rows.device
    if not rows.numel():
        return torch.zeros(batch, 2, num_groups, dtype=torch.float32, device=device)
    out = torch.empty(batch, 2, num_groups, dtype=torch.float32, device=device)
    groups = min(num_groups, ceil(STATISTICS_CHANNELS * num_groups / channels))
    chunks = (groups * (channels // num_groups) + 6) // CHUNK + 1
    threads = max(STATISTICS_THREADS, ceil(chunks / 32) * 32)
    ranges, steps = ceil(num_groups / groups), ceil(num_rows / (CHUNK * (threads // chunks)))
    splits = choose_splits(ranges * batch, steps, 1, device)
    moments, arrived = shared_work(batch * ranges, groups * 2, splits, device)
    launch.launch(
        Kernel("group_norm_statistics.cu", "group_norm_statistics", threads, threads * 64 + 16),
        (ranges, splits, batch),
        (*addresses(rows, out, moments, arrived), *integers(num_rows, channels, num_groups, groups)),
        rows.dtype,
        device,
    )
    return out
