"""Every kernel compiles for every supported card, without a GPU or a driver, and keeps all it has in registers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from cuda.bindings import nvrtc
from cuda.pathfinder import find_nvidia_header_directory

from sparse_ops.cuda import conv
from sparse_ops.cuda.attention import attention_kernel

KERNELS = Path(__file__).resolve().parents[2] / "sparse_ops" / "kernels"
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
DTYPES = {"fp16": (), "bf16": ("-DROWS_BF16",)}
KERNEL_NAMES = sorted(path.name for path in KERNELS.glob("*.cu"))
# The first of each generation, in every test run, and of attention some head sizes; the rest in `make proof`.
CHOSEN = (("sm_80", "fp16"), ("sm_90", "fp16"), ("sm_90", "bf16"), ("sm_120", "fp16"))
SOME_ENTRIES = {"attention_rows.cu": ("-DATTENTION_ROWS_ENTRIES(X)=X(48, 4) X(64, 4) X(64, 8) X(160, 8)",)}
USAGE = re.compile(
    r"Compiling entry function '(\w+)'.*?"
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
    r"Used (\d+) registers",
    re.DOTALL,
)


class Entry(NamedTuple):
    name: str
    local_bytes: int  # stack and spills: memory where there should be registers
    num_registers: int


def done(result):
    status, *values = result
    assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS, status
    return values[0] if values else None


def compile_kernel(name: str, architecture: str, *options: str) -> list[Entry]:
    """What ptxas reports of each entry of a `.cu`, which is passed as text, as CuPy does."""
    folders = (str(KERNELS), find_nvidia_header_directory("cudart"))
    fixed = (f"--gpu-architecture={architecture}", "--std=c++17", "--ptxas-options=-v")
    arguments = [*fixed, *(f"-I{folder}" for folder in folders), *options]
    program = done(nvrtc.nvrtcCreateProgram((KERNELS / name).read_bytes(), name.encode(), 0, [], []))
    (status,) = nvrtc.nvrtcCompileProgram(program, len(arguments), [a.encode() for a in arguments])
    log = bytearray(done(nvrtc.nvrtcGetProgramLogSize(program)))
    done(nvrtc.nvrtcGetProgramLog(program, log))
    done(nvrtc.nvrtcDestroyProgram(program))
    text = log.decode()
    assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS, text
    assert "warning" not in text, text
    return [
        Entry(entry, int(stack) + int(stores) + int(loads), int(registers))
        for entry, stack, stores, loads, registers in USAGE.findall(text)
    ]


@pytest.mark.parametrize(("architecture", "dtype"), CHOSEN)
@pytest.mark.parametrize("kernel", KERNEL_NAMES)
def test_a_kernel_compiles_and_spills_no_register(kernel, architecture, dtype):
    check(compile_kernel(kernel, architecture, *DTYPES[dtype], *SOME_ENTRIES.get(kernel, ())))


@pytest.mark.proof
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernel", KERNEL_NAMES)
def test_a_kernel_compiles_for_every_card_and_spills_no_register(kernel, architecture, dtype):
    check(compile_kernel(kernel, architecture, *DTYPES[dtype]))


def check(entries):
    assert entries
    assert [entry for entry in entries if entry.local_bytes] == []


@pytest.mark.parametrize("kernel", [conv.SMALL.kernel, conv.MEDIUM.kernel, conv.LARGE.kernel, attention_kernel(40, 4)])
def test_of_a_file_with_many_entries_the_one_that_is_launched_is_compiled(kernel):
    assert [entry.name for entry in compile_kernel(kernel.file, "sm_90", f"-D{kernel.only}")] == [kernel.entry]


def test_a_spill_would_be_seen(tmp_path, monkeypatch):
    many = "".join(f"float v{i} = in[{i} + threadIdx.x]; " for i in range(64))
    used = "".join(f"out[{i} * n + threadIdx.x] = v{i}; " for i in range(64))
    head = 'extern "C" __global__ void __maxnreg__(32) crowded(const float* in, float* out, int n)'
    (tmp_path / "crowded.cu").write_text(f"{head} {{ {many} __syncthreads(); {used} }}")
    monkeypatch.setitem(globals(), "KERNELS", tmp_path)
    (entry,) = compile_kernel("crowded.cu", "sm_90")
    assert entry.local_bytes > 0
