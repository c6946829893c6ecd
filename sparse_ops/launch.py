"""Raw kernels from torch: compiled by NVRTC through CuPy, launched on torch's stream.

CuPy checks no argument. Every integer is an np.int32, every float an np.float32, every tensor its address as np.uintp
(`address`); who calls has checked shapes and types.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

KERNELS = Path(__file__).parent / "kernels"
LEAST_CAPABILITY = (8, 0)  # cp.async and mma.sync m16n8k16
DTYPES = (torch.float16, torch.bfloat16)
CHUNK = 8  # elements of 16 bytes, the unit of every copy
FREE_SHARED_BYTES = 48 << 10  # more must be asked for, kernel by kernel

Argument = np.uintp | np.int32 | np.float32


@dataclass(frozen=True)
class Kernel:
    """One entry of a `.cu` file, and what each launch of it needs."""

    file: str
    entry: str
    threads: int
    shared_bytes: int = 0
    only: str = ""  # "NAME(X)=X(...)": the file's list of entries, cut to this one, so that no other is compiled


@cache
def why_not(device: torch.device) -> str | None:
    """Why kernels do not run on a device; None where they do."""
    if device.type != "cuda":
        return "it is no CUDA device"
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        return f"kernels need compute capability 8.0, it has {capability[0]}.{capability[1]}"
    return None if find_spec("cupy") else "CuPy is not installed (pip install 'retouch[cuda]')"


def address(tensor: Tensor | None) -> np.uintp:
    """Where a tensor's values begin; null for None."""
    return np.uintp(0 if tensor is None else tensor.data_ptr())


def addresses(*tensors: Tensor | None) -> list[np.uintp]:
    """The same of each."""
    return [address(tensor) for tensor in tensors]


def integers(*numbers: int) -> list[np.int32]:
    """As kernels take them."""
    return [np.int32(number) for number in numbers]


def in_chunks(rows: Tensor) -> Tensor:
    """A matrix as kernels read it: contiguous rows that begin at multiples of 16 bytes; else a copy."""
    ready = rows.stride(1) == 1 and rows.stride(0) % CHUNK == 0 and rows.data_ptr() % (2 * CHUNK) == 0
    return rows if ready else rows.clone(memory_format=torch.contiguous_format)


@cache
def on_device(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Host integers as int32 on the device; always the same tensor, so that a captured graph may hold it."""
    return torch.tensor(numbers, dtype=torch.int32).to(device)


def num_multiprocessors(device: torch.device) -> int:
    """Of a CUDA device."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def current_stream(device: torch.device) -> int:
    """Torch's stream on a CUDA device, as a number."""
    return torch._C._cuda_getCurrentRawStream(device.index or 0)  # noqa: SLF001  # the public way takes 13 us of a launch's 40


def launch(
    kernel: Kernel,
    grid: tuple[int, int, int],
    arguments: Sequence[Argument],
    dtype: torch.dtype,  # one of DTYPES: what the kernel's Element is
    device: torch.device,
) -> None:
    """Enqueues one launch. A grid without blocks is an error in CUDA: whoever has no rows does not launch.

    An entry is compiled when it is launched first, in about a second: before a graph is captured, not meanwhile.
    """
    import cupy  # noqa: PLC0415  # on machines with a GPU only

    index = device.index or 0
    stream = _Stream(current_stream(device))
    with cupy.cuda.Device(index):
        function = _function(kernel, dtype, index)
        function(grid, (kernel.threads, 1, 1), tuple(arguments), shared_mem=kernel.shared_bytes, stream=stream)


class _Stream(NamedTuple):
    """All that CuPy asks of a stream it is given; its own class for others' streams warns that it is to go."""

    ptr: int


@cache
def _function(kernel: Kernel, dtype: torch.dtype, device: int) -> Any:
    function = _module(kernel.file, kernel.only, dtype, device).get_function(kernel.entry)
    if kernel.shared_bytes > FREE_SHARED_BYTES:
        function.max_dynamic_shared_size_bytes = kernel.shared_bytes
    return function


@cache
def _module(file: str, only: str, dtype: torch.dtype, device: int) -> Any:
    import cupy  # noqa: PLC0415  # on machines with a GPU only
    from cuda.pathfinder import find_nvidia_header_directory  # noqa: PLC0415  # comes with it

    del device  # the current one; a module belongs to it
    # CuPy's disk cache knows the text and the options, not what the text includes: the header's digest is an option
    digest = hashlib.sha256((KERNELS / "rows.cuh").read_bytes()).hexdigest()[:16]
    options = ["--std=c++17", f"-I{KERNELS}", f"-DROWS_HEADER_DIGEST=0x{digest}ull"]
    if headers := find_nvidia_header_directory("cudart"):  # cuda_fp16.h, cuda_bf16.h
        options.append(f"-I{headers}")
    if dtype == torch.bfloat16:
        options.append("-DROWS_BF16")
    if only:
        options.append(f"-D{only}")
    return cupy.RawModule(code=(KERNELS / file).read_text(), options=tuple(options), backend="nvrtc")
