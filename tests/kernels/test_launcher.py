"""What `sparse_ops.cuda` launches: grids, splits and arguments give what the reference gives.

On a CPU the kernels are a library (bridge.cpp), which takes the launch that CuPy would take with addresses of CPU
tensors; tests marked gpu are the same cases through CuPy, `sparse_ops.launch.launch`, which is not shown otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import pytest
import torch

from sparse_ops import cuda, launch, ops, reference
from sparse_ops.cuda import conv
from sparse_ops.cuda.attention import attention_kernel
from sparse_ops.quantise import dequantise, quantise
from sparse_ops.reference import Norm
from sparse_ops.segments import Segments

CPU, GPU = torch.device("cpu"), torch.device("cuda")
WHY_NO_GPU = launch.why_not(GPU) if torch.cuda.is_available() else "there is no GPU"
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(WHY_NO_GPU is not None, reason=str(WHY_NO_GPU))]
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
ROUNDING = {torch.float16: 2**-11, torch.bfloat16: 2**-8}  # of one value, relative, at most


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=ON_GPU)])
def device(request):
    if request.param == "gpu":
        return GPU
    request.getfixturevalue("bridge")
    return CPU


@pytest.fixture(params=DTYPES)
def dtype(request):
    return DTYPES[request.param]


def segments(counts, device=CPU):
    return Segments.of(tuple(accumulate(counts, initial=0)), device)


def columns_of_a_wider_array(num_rows, width, dtype, device):
    return torch.randn(num_rows, width + 24).to(device, dtype)[:, 8 : 8 + width]


def assert_close(out, expected, dtype, roundings):
    """`roundings` of values of size 1, where there are several; else of the value itself."""
    assert out.dtype == dtype
    step = roundings * ROUNDING[dtype]
    torch.testing.assert_close(out.float().cpu(), expected.float().cpu(), atol=step, rtol=step)


@dataclass
class Convolution:
    counts: tuple[int, ...]  # rows of each image
    halo_counts: tuple[int, ...] = ()
    widths: tuple[int, ...] = (16,)  # of the parts of the halo, side by side
    out_channels: int = 24
    num_groups: int = 0  # of the norm; 0: none
    adds: bool = False  # an embedding and a residual
    padding: int = 0  # rows behind the last image, of rows and of halo
    num_outputs: int = 0  # 0: the rows

    @property
    def num_launches(self):
        return 2 if self.num_groups or self.halo_counts else 1


CONVOLUTIONS = {
    "rows alone": Convolution((70,), widths=(64,), out_channels=40),
    "one row": Convolution((1,), widths=(8,), out_channels=8),
    "a halo": Convolution((60, 10), (15, 5), widths=(32,)),
    "a halo of two parts": Convolution((9,), (20,), widths=(24, 40)),
    "normalised rows": Convolution((30, 40), widths=(80,), num_groups=8),
    "all at once": Convolution((66, 0, 3), (40, 0, 9), (160, 160), 72, 32, adds=True),
    "three parts": Convolution((5,), (7,), (8, 16, 8), 8, 4),
    "a halo of some images only": Convolution((4, 6), (0, 8), (48,), 16, 3, adds=True),
    "fewer outputs than rows": Convolution((50,), (9,), (32,), num_outputs=13),
    "many channels, whose sum is split": Convolution((8,), (), (640,), 8),
    "padding": Convolution((20, 13), (11, 6), (40, 8), 16, 6, adds=True, padding=31),
    "nothing": Convolution((0, 0), (0, 0), (16,), 16),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_are_the_references(device, dtype, name):
    case = CONVOLUTIONS[name]
    num_rows, num_halo, channels = sum(case.counts), sum(case.halo_counts), sum(case.widths)
    rows = torch.randn(num_rows + case.padding, channels).to(device, dtype)
    halo = [
        columns_of_a_wider_array(num_halo + case.padding, width, dtype, device)
        for width in (case.widths if case.halo_counts else ())
    ]
    places = torch.cat([torch.arange(num_rows), len(rows) + torch.arange(num_halo), torch.full((2,), -1)])
    num_outputs = case.num_outputs or num_rows
    neighbors = places[torch.randint(len(places), (num_outputs, 9))].int()
    if not case.num_outputs:
        neighbors = torch.cat([neighbors, neighbors.new_full((case.padding, 9), -1)])
    weight = torch.randn(case.out_channels, channels, 3, 3).div_(3 * channels**0.5).to(device, dtype)
    weight, bias = weight.to(memory_format=torch.channels_last), torch.randn(case.out_channels).to(device, dtype)
    images = segments(case.counts, device), segments(case.halo_counts or (0,) * len(case.counts), device)
    norm = random_norm(len(case.counts), case.num_groups, channels, dtype, device) if case.num_groups else None
    embedding, residual = (
        torch.randn(length, case.out_channels).to(device, dtype) if case.adds else None
        for length in (len(case.counts), len(neighbors))
    )

    assert cuda.serves_conv3x3(rows, weight)
    operands = (rows, halo, neighbors.to(device), weight, bias)
    out = cuda.conv3x3(*operands, norm=norm, images=images, embedding=embedding, residual=residual)

    exact = (rows.float(), [part.float() for part in halo], neighbors.to(device), weight.float(), bias.float())
    added = {name: x if x is None else x.float() for name, x in (("embedding", embedding), ("residual", residual))}
    if norm is not None:
        norm = Norm(norm.statistics, norm.weight.float(), norm.bias.float(), norm.eps)
    expected = reference.conv3x3(*exact, norm=norm, images=images, **added)
    assert out.isfinite().all()
    # the result is rounded once, and before it each activated value, nine times `channels` of them with random signs
    assert_close(out[:num_outputs], expected[:num_outputs], dtype, 4)


def random_norm(num_images, num_groups, channels, dtype, device):
    statistics = torch.stack([torch.randn(num_images, num_groups), 0.5 + torch.rand(num_images, num_groups)], 1)
    weight, bias = 1 + 0.3 * torch.randn(channels), torch.randn(channels)
    return Norm(statistics.to(device), weight.to(device, dtype), bias.to(device, dtype), 1e-5)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_is_two_launches_at_most(bridge, name):
    test_convolutions_are_the_references(CPU, torch.float16, name)
    assert len(bridge.launched) == (CONVOLUTIONS[name].num_launches if name != "nothing" else 0)


def test_few_rows_of_many_channels_split_the_sum(bridge):
    rows, weight = torch.randn(8, 640).half(), torch.randn(8, 640, 3, 3).half()
    neighbors = torch.randint(0, 8, (8, 9), dtype=torch.int32)
    runs = [cuda.conv3x3(rows, [], neighbors, weight, torch.zeros(8).half()) for _ in range(2)]
    assert bridge.launched[0][1][2] > 1
    assert torch.equal(*runs)  # the same bits, and counters are back at zero


@pytest.mark.parametrize(("counts", "padding"), [((1,), 0), ((70, 0, 33), 0), ((9, 4), 19), ((0,), 0)])
@pytest.mark.parametrize(("channels", "num_groups"), [(8, 8), (320, 32)])
def test_normalised_rows_are_the_references(device, dtype, counts, padding, channels, num_groups):
    rows = columns_of_a_wider_array(sum(counts) + padding, channels, dtype, device)
    norm, images = random_norm(len(counts), num_groups, channels, dtype, device), segments(counts, device)
    assert cuda.serves_norm(rows)
    out = cuda.normalise(rows, norm, images)
    exact = Norm(norm.statistics, norm.weight.float(), norm.bias.float(), norm.eps)
    expected = reference.normalise(rows.float(), exact, images)
    assert out.isfinite().all()
    assert_close(out[: sum(counts)], expected[: sum(counts)], dtype, 2)


ATTENTIONS = {
    "one tile": ((5,), (64,), 2, 40, 0),
    "an image without rows": ((70, 0, 3), (77, 9, 130), 2, 64, 0),
    "many rows": ((130, 130), (300, 300), 1, 80, 0),
    "split keys": ((17,), (1000,), 1, 160, 0),
    "padding": ((33, 70), (40, 129), 2, 48, 100),
    "an image without keys": ((3, 4), (0, 50), 1, 32, 0),
    "one row and one key": ((1,), (1,), 3, 104, 0),
    "heads of 128": ((20, 1), (65, 3), 2, 128, 5),
    "nothing": ((0, 0), (5, 9), 2, 64, 0),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_is_the_references(device, dtype, name):
    counts, key_counts, num_heads, size, padding = ATTENTIONS[name]
    of_queries, of_keys = segments(counts, device), segments(key_counts, device)
    queries = torch.randn(sum(counts) + padding, num_heads * size).to(device, dtype)
    joined = torch.randn(sum(key_counts) + padding, 2 * num_heads * size).to(device, dtype)
    keys, values = joined.chunk(2, 1)  # side by side, as they are recorded
    assert cuda.serves_attention(queries, num_heads)
    out = cuda.attention(queries, of_queries, keys, values, of_keys, num_heads=num_heads)
    # on the CPU: torch's own kernel for a GPU has races by racecheck's count
    exact = (queries.float().cpu(), segments(counts), keys.float().cpu(), values.float().cpu(), segments(key_counts))
    expected = reference.attention(*exact, num_heads=num_heads).nan_to_num(0)  # torch: nothing attended is NaN
    # probabilities are rounded before they multiply the values, and the result again
    assert_close(out[: sum(counts)], expected[: sum(counts)], dtype, 4)
    assert not out[sum(counts) :].any()


@pytest.mark.parametrize("size", range(32, 161, 8))
def test_every_head_size_is_an_entry(bridge, size):
    queries, keys = torch.randn(3, size).half(), torch.randn(2, size).half()
    assert cuda.serves_attention(queries, 1)
    out = cuda.attention(queries, segments((3,)), keys, keys, segments((2,)), num_heads=1)
    expected = reference.attention(
        queries.float(), segments((3,)), keys.float(), keys.float(), segments((2,)), num_heads=1
    )
    assert_close(out, expected, torch.float16, 4)
    assert len(bridge.launched) == 1


TEXTS = {
    "as it is": ((20, 9), 77, 2, 64, 0, False),
    "moved": ((20, 0, 9), 77, 2, 40, 0, True),
    "padding": ((17, 3), 5, 1, 160, 20, True),
    "one token": ((1,), 1, 3, 8, 0, False),
    "the most tokens": ((6,), 256, 1, 32, 0, True),
    "nothing": ((0,), 9, 1, 32, 0, True),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("keep_maps", [False, True])
def test_cross_attention_is_the_references(device, dtype, name, keep_maps):
    counts, num_tokens, num_heads, size, padding, moves = TEXTS[name]
    of_queries, num_queries = segments(counts, device), sum(counts) + padding
    queries = torch.randn(num_queries, num_heads * size).to(device, dtype)
    keys, values = torch.randn(2, len(counts), num_tokens, num_heads * size).to(device, dtype)
    moved = torch.rand(num_queries, num_heads, num_tokens).to(device, dtype) if moves else None
    alpha = torch.rand(len(counts), num_tokens, device=device).round(decimals=1) if moves else None
    assert cuda.serves_cross_attention(queries, keys, num_heads)
    out, maps = cuda.cross_attention(
        queries, of_queries, keys, values, num_heads=num_heads, moved=moved, alpha=alpha, keep_maps=keep_maps
    )
    expected, expected_maps = reference.cross_attention(
        queries.float(), of_queries, keys.float(), values.float(),
        num_heads=num_heads, moved=None if moved is None else moved.float(), alpha=alpha, keep_maps=keep_maps,
    )  # fmt: skip
    assert_close(out, expected, dtype, 2)
    assert (maps is not None) == keep_maps
    if maps is not None:
        assert_close(maps, expected_maps, dtype, 2)


@pytest.mark.parametrize(
    ("batch", "num_rows", "channels", "groups"), [(2, 37, 64, 8), (1, 300, 320, 32), (3, 1, 8, 1), (2, 0, 64, 8)]
)
def test_statistics_are_the_references(device, dtype, batch, num_rows, channels, groups):
    rows = (torch.randn(batch, num_rows, channels) + 3).to(device, dtype)
    assert cuda.serves_statistics(rows)
    out = cuda.group_norm_statistics(rows, groups)
    expected = reference.group_norm_statistics(rows.double(), groups).float() if num_rows else torch.zeros_like(out)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)  # float32 sums of some hundred rows


INDICES = {"none": (), "one": (3,), "some": (5, -1, 0, 0, 11, -1, 7), "padding alone": (-1, -1)}


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("kind", ["same", "float32", "int8", "fp8"])
def test_gathered_rows_are_the_sources(device, dtype, name, kind):
    rows, columns = torch.randn(12, 200).to(device, dtype), slice(16, 136)
    index = torch.tensor(INDICES[name], dtype=torch.int32, device=device)
    source, scales, expected = rows, None, rows
    if kind == "float32":
        source = expected = rows.float()
    elif kind != "same":
        source, scales = quantise(rows, kind)
        expected = dequantise(source, scales, dtype)
    around = torch.full((len(index), 144), 7, dtype=expected.dtype, device=device)
    out = around[:, 8:128]
    if device == GPU:
        source = source.cpu().pin_memory()  # as a recording in host memory is read
    cuda.gather_rows(source, index, columns, scales, out)
    wanted = torch.nn.functional.pad(expected[:, columns], (0, 0, 0, 1))[index.long()]  # -1 is the row of zeros behind
    assert torch.equal(out, wanted)
    assert (around[:, :8] == 7).all()
    assert (around[:, 128:] == 7).all()


@pytest.mark.parametrize("num_rows", [0, 1, 45])
@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_quantised_rows_have_the_bits_of_torch(device, dtype, num_rows, kind):
    rows = columns_of_a_wider_array(num_rows, 328, dtype, device)
    expected_values, expected_scales = quantise(rows.cpu(), kind)
    values = torch.empty(num_rows, 344, dtype=torch.uint8, device=device).view(expected_values.dtype)[:, 8:336]
    scales = torch.empty(num_rows, 9, dtype=torch.float16, device=device)[:, :6]
    cuda.quantise_rows(rows, values, scales)
    assert torch.equal(values.cpu().view(torch.uint8), expected_values.view(torch.uint8))
    assert torch.equal(scales.cpu(), expected_scales)


def test_a_launch_knows_lengths_and_nothing_of_who_has_how_many(bridge):
    """So that a captured graph serves every batch of its lengths."""
    rows, weight = torch.randn(200, 64).half(), torch.randn(16, 64, 3, 3).half()
    halo, neighbors = torch.randn(50, 64).half(), torch.randint(-1, 250, (200, 9), dtype=torch.int32)
    text, norm = torch.randn(2, 7, 64).half(), random_norm(2, 8, 64, torch.float16, CPU)
    launches = []
    for counts, halo_counts in (((200, 0), (20, 30)), ((3, 190), (50, 0)), ((0, 1), (0, 0))):
        bridge.launched.clear()
        bridge.numbers.clear()
        of_rows, of_halo = segments(counts), segments(halo_counts)
        embedding = torch.randn(2, 16).half()
        cuda.conv3x3(
            rows, [halo], neighbors, weight, embedding[0], norm=norm, images=(of_rows, of_halo), embedding=embedding
        )
        cuda.normalise(rows, norm, of_rows)
        cuda.attention(rows, of_rows, rows, rows, of_rows, num_heads=2)
        cuda.cross_attention(rows, of_rows, text, text, num_heads=2)
        launches.append((list(bridge.launched), list(bridge.numbers)))
    assert len(launches[0][0]) == 5
    assert launches[0] == launches[1] == launches[2]


def test_what_kernels_do_not_serve_is_said():
    narrow, weight = torch.randn(3, 4).half(), torch.randn(8, 4, 3, 3).half()
    assert not cuda.serves_conv3x3(narrow, weight)
    assert not cuda.serves_conv3x3(torch.randn(3, 8), torch.randn(8, 8, 3, 3))  # float32
    assert not cuda.serves_norm(narrow)
    assert not cuda.serves_attention(torch.randn(3, 48).half(), num_heads=2)  # heads of 24
    assert not cuda.serves_attention(torch.randn(3, 336).half(), num_heads=2)  # heads of 168
    assert not cuda.serves_cross_attention(torch.randn(3, 64).half(), torch.randn(1, 257, 64).half(), num_heads=1)
    assert launch.why_not(CPU) == "it is no CUDA device"


def test_on_a_cpu_the_operators_are_the_reference():
    rows = torch.randn(2, 5, 16)
    assert torch.equal(ops.group_norm_statistics(rows, 4), reference.group_norm_statistics(rows, 4))


@pytest.mark.parametrize("tile", [conv.SMALL, conv.MEDIUM, conv.LARGE])
def test_tiles_are_lines_of_the_kernels_table(tile):
    line = tile.kernel.only.removeprefix("CONV_ROWS_TILES(X)=")
    assert line in (launch.KERNELS / "conv_rows.cu").read_text()
    assert tile.kernel.threads in {128, 256}


@pytest.mark.parametrize("warps", [4, 8])
@pytest.mark.parametrize("size", range(32, 161, 16))
def test_head_sizes_are_items_of_the_kernels_table(size, warps):
    item = attention_kernel(size, warps).only.removeprefix("ATTENTION_ROWS_ENTRIES(X)=")
    assert item in (launch.KERNELS / "attention_rows.cu").read_text()


@pytest.mark.parametrize("multiprocessors", [1, 8, 132])
def test_splits_are_few_and_leave_work_for_each(monkeypatch, multiprocessors):
    monkeypatch.setattr(launch, "num_multiprocessors", lambda _: multiprocessors)
    for num_rows in (1, 76, 252, 768, 5700, 20000):
        for channels, out_channels in ((320, 320), (960, 320), (2560, 1280)):
            tile, splits = conv.choose_conv(num_rows, channels, out_channels, CPU)
            assert 1 <= splits <= 16
            assert splits == 1 or -(-channels // tile.depth) * 9 // splits >= 6
