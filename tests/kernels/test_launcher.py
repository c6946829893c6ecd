"""What `sparse_ops.cuda` launches, run on the CPU: grids, splits, tables and arguments give what the reference gives.

The kernels are a library (bridge.cpp) and take the launch that CuPy would take, with addresses of CPU tensors. What is
not shown here is CuPy's own part, `sparse_ops.launch.launch`; tests marked gpu run the same cases through it.
"""

from __future__ import annotations

import ctypes
from itertools import accumulate

import pytest
import torch
from diffusers import UNet2DConditionModel

from loadtests.unet_cpu import Kept, Reading
from service.engine.unet import UNet, UNetConfig
from sparse_ops import cuda, ops, reference
from sparse_ops.context import Context
from sparse_ops.launch import KERNELS, Kernel, why_not
from sparse_ops.plan import active_positions, dense_plans, make_plans

KINDS = {"fp16": torch.float16, "bf16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in KINDS.items()}
SMALL = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (80, 80), "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 24,
    "attention_head_dim": 2,
}  # fmt: skip
STEPS = {torch.float16: 2**-10, torch.bfloat16: 2**-7}  # of one rounding, relative, twice over


class Bridge:
    """Launches on the CPU; remembers what was launched."""

    def __init__(self, programs):
        self.programs = programs
        self.libraries = {}
        self.launched = []

    def launch(self, kernel, grid, arguments, dtype, device):
        assert device == torch.device("cpu")
        assert min(grid) >= 1
        assert grid[1] <= 65535
        assert grid[2] <= 65535
        assert kernel.shared_bytes <= 227 << 10
        values = [
            (
                ctypes.c_float
                if argument.dtype.kind == "f"
                else ctypes.c_int32
                if argument.dtype.kind == "i"
                else ctypes.c_void_p
            )(argument.item())
            for argument in arguments
        ]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        status = self.library(dtype).cudacpu_launch(
            kernel.entry.encode(), *grid, kernel.threads, ctypes.c_size_t(kernel.shared_bytes), pointers, len(values)
        )
        assert status == 0, f"no entry {kernel.entry} with {len(values)} arguments"
        self.launched.append((kernel, grid))

    def library(self, dtype):
        if dtype not in self.libraries:
            self.libraries[dtype] = ctypes.CDLL(str(self.programs.build("bridge", f"library-{NAMES[dtype]}")))
        return self.libraries[dtype]


@pytest.fixture
def bridge(programs, monkeypatch):
    made = Bridge(programs)
    monkeypatch.setattr(cuda, "launch", made.launch)
    monkeypatch.setattr(cuda, "num_multiprocessors", lambda _: 8)
    monkeypatch.setattr(cuda, "current_stream", lambda _: 0)
    return made


@pytest.fixture(params=KINDS)
def dtype(request):
    return KINDS[request.param]


def offsets_of(*counts):
    return tuple(accumulate(counts, initial=0))


@pytest.mark.parametrize(
    ("num_rows", "num_sources", "channels", "out_channels"),
    [(1, 3, 8, 8), (70, 90, 64, 40), (130, 200, 320, 72), (66, 70, 1280, 16), (0, 5, 16, 16)],
)
def test_convolutions_are_the_references(bridge, dtype, num_rows, num_sources, channels, out_channels):
    sources = torch.randn(1 + num_sources, channels).to(dtype)
    sources[0] = 0
    neighbors = torch.randint(-1, num_sources, (num_rows, 9), dtype=torch.int32)
    weight = (torch.randn(out_channels, channels, 3, 3) / (3 * channels**0.5)).to(dtype)
    weight = weight.to(memory_format=torch.channels_last)
    bias = torch.randn(out_channels).to(dtype)
    assert cuda.serves_conv3x3(sources, weight)
    out = cuda.conv3x3(sources, neighbors, weight, bias)
    expected = reference.conv3x3(sources.float(), neighbors, weight.float(), bias.float())
    torch.testing.assert_close(out.float(), expected, atol=STEPS[dtype], rtol=STEPS[dtype])
    assert len(bridge.launched) == (num_rows > 0)


def test_few_rows_of_many_channels_split_the_sum(bridge):
    sources, weight = torch.randn(9, 640).half(), torch.randn(8, 640, 3, 3).half()
    neighbors = torch.randint(0, 8, (8, 9), dtype=torch.int32)
    runs = [cuda.conv3x3(sources, neighbors, weight, torch.zeros(8).half()) for _ in range(2)]
    assert bridge.launched[0][1][2] > 1
    assert torch.equal(*runs)  # the same bits, and counters are back at zero


@pytest.mark.parametrize(
    ("counts", "key_counts", "num_heads", "size"),
    [
        ((5,), (64,), 2, 40),
        ((70, 0, 3), (77, 9, 130), 2, 64),  # an image without rows
        ((130, 130), (300, 300), 1, 80),
        ((17,), (1000,), 1, 160),  # keys are split
    ],
)
def test_attention_is_the_references(bridge, dtype, counts, key_counts, num_heads, size):
    offsets, key_offsets = offsets_of(*counts), offsets_of(*key_counts)
    queries = torch.randn(offsets[-1], num_heads * size).to(dtype)
    keys, values = torch.randn(key_offsets[-1], 2 * num_heads * size).to(dtype).chunk(2, 1)  # side by side, as recorded
    assert cuda.serves_attention(queries, num_heads)
    out = cuda.attention(queries, offsets, keys, values, key_offsets, num_heads=num_heads)
    expected = reference.attention(
        queries.float(), offsets, keys.float(), values.float(), key_offsets, num_heads=num_heads
    )
    torch.testing.assert_close(out.float(), expected, atol=2 * STEPS[dtype], rtol=2 * STEPS[dtype])
    assert len(bridge.launched) == 1


@pytest.mark.parametrize(("batch", "num_rows", "channels", "groups"), [(2, 37, 64, 8), (1, 300, 320, 32), (3, 1, 8, 1)])
def test_statistics_are_the_references(bridge, dtype, batch, num_rows, channels, groups):
    rows = (torch.randn(batch, num_rows, channels) + 3).to(dtype)
    assert cuda.serves_statistics(rows)
    out = cuda.group_norm_statistics(rows, groups)
    torch.testing.assert_close(
        out, reference.group_norm_statistics(rows.double(), groups).float(), atol=1e-5, rtol=1e-5
    )
    assert len(bridge.launched) == 1


@torch.no_grad()
def test_a_whole_sparse_pass_runs_on_the_kernels(bridge, monkeypatch):
    """The U-Net's operators, dispatched as on a GPU: fp16 kernels against fp32 torch."""
    monkeypatch.setattr(ops, "why_not", lambda _: None)
    torch.manual_seed(0)
    unet = UNet(UNetConfig.from_diffusers(UNet2DConditionModel(**SMALL).config)).eval()
    for name, parameter in unet.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
        elif "norm" not in name:
            parameter.normal_(0, 0.2)
    sample, timestep, text = torch.randn(2, 4, 8, 8), torch.tensor([300, 700]), torch.randn(2, 5, 24)
    edit_mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    edit_mask[:, 2:5, 3:6] = edit_mask[1, 7, 7] = True
    predictions = {}
    for dtype in (torch.float32, torch.float16):
        unet.to(dtype)
        kept = Kept()
        read = unet.read(text.to(dtype))
        unet(sample.to(dtype), timestep, read, Context(dense_plans(2, 8, 8, 2), writer=kept))
        changed = torch.where(edit_mask[:, None], -sample, sample).to(dtype)
        plans = make_plans(active_positions(edit_mask, 2))
        predictions[dtype] = unet(changed, timestep, read, Context(plans, Reading(kept))).float()
    torch.testing.assert_close(predictions[torch.float16], predictions[torch.float32], atol=0.02, rtol=0.02)
    entries = {kernel.file for kernel, _ in bridge.launched}
    assert entries == {"conv_rows.cu", "attention_rows.cu", "group_norm_statistics.cu"}


def test_nothing_is_launched_for_nothing(bridge):
    empty = torch.empty(0, 64).half()
    assert cuda.attention(
        empty, (0, 0), torch.randn(5, 64).half(), torch.randn(5, 64).half(), (0, 5), num_heads=1
    ).shape == (0, 64)
    assert cuda.group_norm_statistics(torch.empty(2, 0, 64).half(), 8).shape == (2, 2, 8)
    assert bridge.launched == []


def test_what_kernels_do_not_serve_is_said():
    narrow, weight = torch.randn(3, 4).half(), torch.randn(8, 4, 3, 3).half()
    assert not cuda.serves_conv3x3(narrow, weight)
    assert not cuda.serves_conv3x3(torch.randn(3, 8), torch.randn(8, 8, 3, 3))  # float32
    assert not cuda.serves_attention(torch.randn(3, 96).half(), num_heads=2)  # heads of 48
    assert why_not(torch.device("cpu")) == "it is no CUDA device"


def test_on_a_cpu_the_operators_are_the_reference():
    rows = torch.randn(2, 5, 16)
    assert torch.equal(ops.group_norm_statistics(rows, 4), reference.group_norm_statistics(rows, 4))


@pytest.mark.parametrize("tile", [cuda.FEW, cuda.SOME, cuda.MANY])
def test_tiles_are_entries_of_the_kernel(tile):
    name = tile.kernel.entry.removeprefix("conv_rows_")
    assert f"X({name}, {tile.rows}, {tile.channels}, " in (KERNELS / "conv_rows.cu").read_text()
    assert tile.kernel.threads == 128


@pytest.mark.parametrize("multiprocessors", [1, 8, 132])
def test_splits_are_few_and_leave_work_for_each(multiprocessors):
    for num_rows in (1, 76, 252, 768, 5700, 20000):
        for channels, out_channels in ((320, 320), (960, 320), (2560, 1280)):
            tile, splits = cuda.choose_conv(num_rows, channels, out_channels, multiprocessors)
            assert isinstance(tile.kernel, Kernel)
            assert 1 <= splits <= 16
            assert splits == 1 or -(-channels // 32) * 9 // splits >= 6
