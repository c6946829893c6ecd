"""Sizes of Stable Diffusion, and captured graphs, where there is a GPU. Small cases of all kinds: test_launcher.py."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch

from sparse_ops import cuda, ops, reference
from sparse_ops.launch import why_not
from sparse_ops.segments import Segments

GPU = torch.device("cuda")
REASON = why_not(GPU) if torch.cuda.is_available() else "there is no GPU"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=str(REASON))]
STEPS = {torch.float16: 2**-9, torch.bfloat16: 2**-6}  # of a few roundings, relative


@pytest.fixture(params=STEPS, ids=["fp16", "bf16"])
def dtype(request):
    return request.param


def on_gpu(tensor, dtype):
    return tensor.to(GPU, dtype)


def segments(*counts):
    return Segments.of(tuple(accumulate(counts, initial=0)), GPU)


@pytest.mark.parametrize("num_rows", [1, 76, 768, 5700])
@pytest.mark.parametrize(("channels", "out_channels"), [(8, 8), (320, 320), (1280, 640)])
def test_convolutions_are_the_references(dtype, num_rows, channels, out_channels):
    rows, halo = (on_gpu(torch.randn(num_rows, channels), dtype) for _ in range(2))
    neighbors = torch.randint(-1, 2 * num_rows, (num_rows, 9), dtype=torch.int32, device=GPU)
    weight = on_gpu(torch.randn(out_channels, channels, 3, 3) / (3 * channels**0.5), dtype)
    weight, bias = weight.to(memory_format=torch.channels_last), on_gpu(torch.randn(out_channels), dtype)
    out = ops.conv3x3(rows, [halo], neighbors, weight, bias)
    expected = reference.conv3x3(rows.float(), [halo.float()], neighbors, weight.float(), bias.float())
    torch.testing.assert_close(out.float(), expected, atol=STEPS[dtype], rtol=STEPS[dtype])


@pytest.mark.parametrize("size", [40, 64, 80, 128, 160])
@pytest.mark.parametrize(
    ("counts", "key_counts"), [((5,), (64,)), ((70, 0, 3), (77, 9, 130)), ((384, 384), (9216, 9216))]
)
def test_attention_is_the_references(dtype, size, counts, key_counts):
    of_queries, of_keys = segments(*counts), segments(*key_counts)
    queries = on_gpu(torch.randn(sum(counts), 2 * size), dtype)
    keys, values = on_gpu(torch.randn(sum(key_counts), 4 * size), dtype).chunk(2, 1)
    out = ops.attention(queries, of_queries, keys, values, of_keys, num_heads=2)
    exact = (queries.float(), of_queries, keys.float(), values.float(), of_keys)
    expected = reference.attention(*exact, num_heads=2)
    torch.testing.assert_close(out.float(), expected, atol=STEPS[dtype], rtol=STEPS[dtype])


@pytest.mark.parametrize(("batch", "num_rows", "channels", "groups"), [(2, 9216, 320, 32), (1, 576, 1280, 32)])
def test_statistics_are_the_references(dtype, batch, num_rows, channels, groups):
    rows = on_gpu(torch.randn(batch, num_rows, channels) + 3, dtype)
    expected = reference.group_norm_statistics(rows.double(), groups).float()
    torch.testing.assert_close(ops.group_norm_statistics(rows, groups), expected, atol=1e-4, rtol=1e-4)


def test_a_captured_graph_serves_other_shares_of_its_rows():
    """What is captured for one batch of rows computes another, of other counts, written where the first one was."""
    total, channels = 192, 128
    rows = torch.randn(total, channels, device=GPU).half()
    statistics = torch.rand(2, 2, 32, device=GPU) + 0.5
    norm = reference.Norm(statistics, rows[0].clone(), rows[1].clone(), 1e-5)
    weight = torch.randn(64, channels, 3, 3, device=GPU).div_(30).half().to(memory_format=torch.channels_last)
    bias, embedding = weight[:, 0, 0, 0].contiguous(), torch.randn(2, 64, device=GPU).half()
    neighbors = torch.randint(-1, total, (total, 9), dtype=torch.int32, device=GPU)
    held = segments(150, 42)

    def run(images):
        out = cuda.conv3x3(
            rows, [], neighbors, weight, bias, norm=norm, images=(images, images), embedding=embedding
        )  # fmt: skip
        return out, cuda.attention(rows, images, rows, rows, images, num_heads=2)

    run(held)  # compiles, and makes what is made once
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(held)
    for counts in ((150, 42), (1, 191), (192, 0), (60, 100)):
        other = segments(*counts)
        held.starts.copy_(other.starts)
        graph.replay()
        for got, wanted in zip(captured, run(other), strict=True):
            assert torch.equal(got, wanted)
