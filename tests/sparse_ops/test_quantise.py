"""One byte a channel: what it may cost, and what never happens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_ops.quantise import BLOCK, dequantise, quantise

KINDS = ("int8", "fp8")
LIMITS = {"int8": 127, "fp8": 448}
# The reciprocal and the product are rounded to 2^-24 of up to 448 steps each: a value that close to the middle of two
# steps may fall to either side.
TIES = 1 + 1e-4


def per_channel(scales, num_channels):
    return scales.double().repeat_interleave(BLOCK, 1)[:, :num_channels]


def largest(rows):
    return torch.stack([part.abs().amax(1) for part in rows.split(BLOCK, 1)], 1)


@st.composite
def matrices(draw):
    """Rows whose blocks differ in size by up to 2^34, some of them zero."""
    num_rows, num_channels = draw(st.integers(0, 5)), draw(st.integers(1, 200))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    blocks = (num_rows, -(-num_channels // BLOCK))
    sizes = torch.exp2(torch.randint(-22, 13, blocks, generator=generator).float())
    sizes *= torch.rand(blocks, generator=generator) > draw(st.sampled_from((0.0, 0.3)))
    rows = torch.randn(num_rows, num_channels, generator=generator) * per_channel(sizes, num_channels)
    return rows.to(draw(st.sampled_from((torch.float16, torch.bfloat16, torch.float32))))


@settings(deadline=None)
@given(rows=matrices())
def test_int8_is_off_by_half_a_step_at_most(rows):
    values, scales = quantise(rows, "int8")
    back = dequantise(values, scales, torch.float64)
    assert ((back - rows.double()).abs() <= per_channel(scales, rows.shape[1]) / 2 * TIES).all()


@settings(deadline=None)
@given(rows=matrices())
def test_fp8_is_off_by_a_sixteenth_or_half_its_smallest_step_at_most(rows):
    values, scales = quantise(rows, "fp8")
    back = dequantise(values, scales, torch.float64)
    bounds = torch.maximum(rows.double().abs() / 16, per_channel(scales, rows.shape[1]) / 1024)
    assert ((back - rows.double()).abs() <= bounds * TIES).all()


@settings(deadline=None)
@given(rows=matrices(), kind=st.sampled_from(KINDS))
def test_the_largest_value_of_a_block_keeps_its_code_within_the_limit(rows, kind):
    values, scales = quantise(rows, kind)
    assert values.shape == rows.shape
    assert scales.shape == (len(rows), -(-rows.shape[1] // BLOCK))
    assert (values.float().abs() <= LIMITS[kind]).all()
    reach = per_channel(scales, rows.shape[1]) * LIMITS[kind]
    assert (rows.double().abs() <= reach * (1 + 2**-23)).all()  # 1 / limit is rounded, too


@settings(deadline=None)
@given(rows=matrices(), kind=st.sampled_from(KINDS))
def test_zeros_stay_zeros(rows, kind):
    values, scales = quantise(rows, kind)
    back = dequantise(values, scales, rows.dtype)
    assert (back[rows == 0] == 0).all()
    assert torch.equal(scales == 0, largest(rows) == 0)


@settings(deadline=None)
@given(rows=matrices(), kind=st.sampled_from(KINDS))
def test_blocks_and_rows_do_not_know_each_other(rows, kind):
    values, scales = quantise(rows, kind)
    for number, part in enumerate(rows.split(BLOCK, 1)):
        alone, scale = quantise(part, kind)
        assert torch.equal(alone.float(), values.split(BLOCK, 1)[number].float())
        assert torch.equal(scale[:, 0], scales[:, number])
    backwards, scale = quantise(rows.flip(0), kind)
    assert torch.equal(backwards.float().flip(0), values.float())
    assert torch.equal(scale.flip(0), scales)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_nan_is_zero_and_infinity_reads_back_finite(kind, dtype):
    rows = torch.ones(2, 70, dtype=dtype)
    rows[0, 0], rows[0, 65], rows[1, 0] = torch.nan, torch.inf, -torch.inf
    back = dequantise(*quantise(rows, kind), dtype)
    assert back.isfinite().all()
    assert back[0, 0] == 0
    assert (back[0, 1] - 1).abs() < 1 / 127  # not part of the maximum, which is 1
    assert back[0, 65] > 65000
    assert back[1, 0] < -65000


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_fp16_numbers_read_back_finite(kind):
    rows = torch.linspace(60000, 65504, 640, dtype=torch.float16).view(-1, 1)
    back = dequantise(*quantise(rows, kind), torch.float16)
    assert back.isfinite().all()
    # a step of int8; for fp8 the largest code and the largest number may be one step of 2^-4 apart
    assert ((back.float() - rows.float()).abs() <= rows.float() / 16).all()


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_rows_have_the_smallest_scale(kind):
    values, scales = quantise(torch.tensor([[1e-40], [1e-12], [3e-8]]), kind)
    assert torch.equal(scales.float(), torch.full((3, 1), 2.0**-24))
    assert dequantise(values, scales, torch.float32)[0] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_without_rows_or_channels_there_is_nothing(kind):
    for shape in ((0, 100), (3, 0), (0, 0)):
        values, scales = quantise(torch.empty(shape), kind)
        assert values.shape == shape
        assert dequantise(values, scales, torch.float16).shape == shape


def test_every_fp8_code_is_what_torch_says():
    codes = torch.arange(256, dtype=torch.uint8)[None].view(torch.float8_e4m3fn)
    ones = torch.ones(1, 4, dtype=torch.float16)
    assert torch.equal(
        dequantise(codes, ones, torch.float32).nan_to_num(nan=1000),
        codes.float().nan_to_num(nan=1000),
    )


def test_bad_arguments_are_named():
    rows = torch.randn(3, 70)
    values, scales = quantise(rows, "int8")
    for bad in (rows[0], rows.int()):
        with pytest.raises(ValueError, match="rows must be"):
            quantise(bad, "int8")
    with pytest.raises(ValueError, match="kind must be one of int8, fp8, not 'int4'"):
        quantise(rows, "int4")
    for bad in (values[0], values.float()):
        with pytest.raises(ValueError, match="values must be"):
            dequantise(bad, scales, torch.float16)
    for bad in (scales[:, :1], scales.float()):
        with pytest.raises(ValueError, match="scales must be"):
            dequantise(values, bad, torch.float16)
    with pytest.raises(ValueError, match="dtype must be"):
        dequantise(values, scales, torch.int32)
