"""A launch that runs a kernel on the CPU: it takes what `sparse_ops.launch.launch` takes; see bridge.h."""

from __future__ import annotations

import ctypes

import torch

NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16"}


class Bridge:
    """Launches on the CPU; remembers what was launched."""

    def __init__(self, programs, program):
        self.programs = programs
        self.program = program
        self.libraries = {}
        self.launched = []  # kernel, grid
        self.numbers = []  # all arguments of each launch that are no addresses

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
        self.numbers.append([argument.item() for argument in arguments if argument.dtype.kind != "u"])

    def library(self, dtype):
        if dtype not in self.libraries:
            self.libraries[dtype] = ctypes.CDLL(str(self.programs.build(self.program, f"library-{NAMES[dtype]}")))
        return self.libraries[dtype]
