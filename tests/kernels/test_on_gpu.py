"""The same operators through CuPy, where there is a GPU."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch

from sparse_ops import cuda, ops, reference
from sparse_ops.launch import why_not

GPU = torch.device("cuda")
REASON = why_not(GPU) if torch.cuda.is_available() else "there is no GPU"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=str(REASON))]
STEPS = {torch.float16: 2**-10, torch.bfloat16: 2**-7}  # of one rounding, relative, twice over


@pytest.fixture(params=STEPS, ids=["fp16", "bf16"])
def dtype(request):
    return request.param


def on_gpu(tensor, dtype):
    return tensor.to(GPU, dtype)


@pytest.mark.parametrize("num_rows", [1, 76, 768, 5700])
@pytest.mark.parametrize(("channels", "out_channels"), [(8, 8), (320, 320), (1280, 640)])
def test_convolutions_are_the_references(dtype, num_rows, channels, out_channels):
    sources = on_gpu(torch.randn(1 + 2 * num_rows, channels), dtype)
    sources[0] = 0
    neighbors = torch.randint(-1, 2 * num_rows, (num_rows, 9), dtype=torch.int32, device=GPU)
    weight = on_gpu(torch.randn(out_channels, channels, 3, 3) / (3 * channels**0.5), dtype)
    bias = on_gpu(torch.randn(out_channels), dtype)
    out = ops.conv3x3(sources, neighbors, weight, bias)
    expected = reference.conv3x3(sources.float(), neighbors, weight.float(), bias.float())
    torch.testing.assert_close(out.float(), expected, atol=2 * STEPS[dtype], rtol=2 * STEPS[dtype])


@pytest.mark.parametrize("size", cuda.HEAD_SIZES)
@pytest.mark.parametrize(
    ("counts", "key_counts"), [((5,), (64,)), ((70, 0, 3), (77, 9, 130)), ((384, 384), (9216, 9216))]
)
def test_attention_is_the_references(dtype, size, counts, key_counts):
    offsets, key_offsets = (tuple(accumulate(each, initial=0)) for each in (counts, key_counts))
    queries = on_gpu(torch.randn(offsets[-1], 2 * size), dtype)
    keys, values = on_gpu(torch.randn(key_offsets[-1], 4 * size), dtype).chunk(2, 1)
    out = ops.attention(queries, offsets, keys, values, key_offsets, num_heads=2)
    each = (queries.float(), offsets, keys.float(), values.float(), key_offsets)
    torch.testing.assert_close(
        out.float(), reference.attention(*each, num_heads=2), atol=2 * STEPS[dtype], rtol=2 * STEPS[dtype]
    )


@pytest.mark.parametrize(("batch", "num_rows", "channels", "groups"), [(2, 9216, 320, 32), (1, 576, 1280, 32)])
def test_statistics_are_the_references(dtype, batch, num_rows, channels, groups):
    rows = on_gpu(torch.randn(batch, num_rows, channels) + 3, dtype)
    expected = reference.group_norm_statistics(rows.double(), groups).float()
    torch.testing.assert_close(ops.group_norm_statistics(rows, groups), expected, atol=1e-4, rtol=1e-4)
