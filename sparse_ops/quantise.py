"""Rows in one byte a channel: int8 or fp8 e4m3, and an fp16 scale for each 64 channels of a row. Approximate.

    scale  = largest |x| of the block / limit, rounded up to fp16        limit: 127 for int8, 448 for fp8
    value  = x / scale, to nearest even                                  read back: value * scale

Of a value |x| up to limit * scale the error is half a scale (int8), or 2^-4 |x| and at least 2^-10 scales (fp8). What
should not be there, and what becomes of it: a NaN is stored as zero; what exceeds the largest fp16 number, infinities
too, is clamped to 65468.5 (int8) or 65464 (fp8), so that it reads back finite; a block of zeros has scale 0.

`kernels/quantise_rows.cu` and `kernels/gather_rows.cu` do the same on a GPU and give the same bits: a division is a
product with a rounded reciprocal everywhere, as torch itself divides by a number on one device and not on the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Kind = Literal["int8", "fp8"]

BLOCK = 64  # channels that share a scale
VALUES: dict[Kind, torch.dtype] = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}


@dataclass(frozen=True)
class _Format:
    dtype: torch.dtype
    limit: float  # the largest value
    max_scale: float  # fp16; the next one times `limit` would be infinite in fp16


_FORMATS: dict[str, _Format] = {
    "int8": _Format(torch.int8, 127, 515.5),
    "fp8": _Format(torch.float8_e4m3fn, 448, 146.125),
}


def quantise(
    rows: Tensor,  # float [N, C]
    kind: Kind,
) -> tuple[Tensor, Tensor]:  # int8 or float8_e4m3fn [N, C], float16 [N, ceil(C / 64)]
    """Values and scales of rows. The last block of a row may be shorter.

    Raises ValueError if `rows` is not a matrix of floating-point numbers or `kind` is neither "int8" nor "fp8".
    """
    if rows.ndim != 2 or not rows.is_floating_point():
        raise ValueError(f"rows must be floating-point [N, C], not {rows.dtype} {list(rows.shape)}")
    if kind not in _FORMATS:
        raise ValueError(f"kind must be one of {', '.join(_FORMATS)}, not {kind!r}")
    form = _FORMATS[kind]
    blocks = _in_blocks(rows.float().nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf))
    scales = _round_up((blocks.abs().amax(2) * _reciprocal(form.limit)).clamp(max=form.max_scale))
    inverse = torch.where(scales > 0, scales.float().reciprocal(), 0.0)
    scaled = (blocks * inverse[..., None]).clamp(-form.limit, form.limit)
    values = (scaled.round() if form.dtype == torch.int8 else scaled).to(form.dtype)
    return values.flatten(1)[:, : rows.shape[1]].contiguous(), scales


def dequantise(
    values: Tensor,  # int8 or float8_e4m3fn [N, C]
    scales: Tensor,  # float16 [N, ceil(C / 64)]
    dtype: torch.dtype,
) -> Tensor:  # dtype [N, C]
    """The rows that `quantise` made these of, as nearly as they tell: one float32 product, rounded once to `dtype`.

    Raises ValueError if an argument is not what `quantise` returns, or `dtype` is no floating-point type.
    """
    if values.ndim != 2 or values.dtype not in {form.dtype for form in _FORMATS.values()}:
        raise ValueError(f"values must be int8 or float8_e4m3fn [N, C], not {values.dtype} {list(values.shape)}")
    expected = (values.shape[0], _num_blocks(values.shape[1]))
    if scales.dtype != torch.float16 or scales.shape != expected:
        raise ValueError(f"scales must be float16 {list(expected)}, not {scales.dtype} {list(scales.shape)}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, not {dtype}")
    rows = _in_blocks(values.float()) * scales.float()[..., None]
    return rows.flatten(1)[:, : values.shape[1]].to(dtype)


def _num_blocks(num_channels: int) -> int:
    return -(-num_channels // BLOCK)


def _in_blocks(rows: Tensor) -> Tensor:  # [N, C] -> [N, ceil(C / 64), 64], zeros behind the end
    num_blocks = _num_blocks(rows.shape[1])
    return F.pad(rows, (0, num_blocks * BLOCK - rows.shape[1])).view(len(rows), num_blocks, BLOCK)


def _reciprocal(number: float) -> float:
    """1 / number as float32 has it."""
    return float(torch.tensor(number, dtype=torch.float32).reciprocal())


def _round_up(numbers: Tensor) -> Tensor:  # float32, not negative, finite in fp16 -> float16
    """The least fp16 numbers that are not below: the next bit pattern where the nearest one is."""
    nearest = numbers.half()
    return (nearest.view(torch.int16) + (nearest.float() < numbers)).view(torch.float16)
