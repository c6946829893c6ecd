"""Memory of one tier, asked of the system once and given out in blocks.

A block is a tensor with a storage of its own. When its last view is gone, wherever that was, its bytes are free again:
who still reads from it reads what was there, and nobody must be asked.

Blocks go to the first hole that is large enough, lowest address first, and neighbouring holes become one. Where all
holes are too small, though together they are not, the store lets more leave: at the latest when everything that is not
pinned has left they are large enough.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import threading
import weakref
from bisect import bisect
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from cache_store.layout import ALIGNMENT, aligned

log = logging.getLogger(__name__)

MAX_BYTES = 1 << 46  # of an arena: half of what a process can address
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux; Python 3.11 does not know its name


class _Block:
    """What keeps bytes taken: NumPy and torch hold it as the owner of the memory that it describes."""

    def __init__(self, address: int, num_bytes: int, *, on_cuda: bool) -> None:
        about = {"data": (address, False), "shape": (num_bytes,), "typestr": "|u1", "version": 3}
        if on_cuda:
            self.__cuda_array_interface__ = about
        else:
            self.__array_interface__ = about


class Arena:
    """Bytes of a device within a budget. Thread-safe."""

    def __init__(self, budget_bytes: int, device: str | torch.device = "cpu", *, pinned: bool = False) -> None:
        """`pinned`: page-locked, so that a GPU's kernels read it; plain memory, and a log line, where that fails.

        Plain memory of the host is not touched before it is used: a large budget costs nothing at the start.
        ValueError for a negative budget.
        """
        if budget_bytes < 0:
            raise ValueError(f"budget_bytes must not be negative, got {budget_bytes}")
        self.budget_bytes = budget_bytes
        self.device = torch.device(device)
        self._size = min(budget_bytes, MAX_BYTES) // ALIGNMENT * ALIGNMENT
        self._memory = _host_memory(self._size) if self.device.type == "cpu" else _device_memory(self._size, device)
        self.in_reach = self.device.type == "cuda" or (pinned and _lock_pages(self._memory))  # of a GPU's kernels
        self._begin = self._memory.data_ptr()
        self._holes = [(0, self._size)] if self._size else []  # begin and end, rising, never touching
        self._used_bytes = 0
        self.peak_bytes = 0  # which were ever used: more than these the system has not given
        self._returned: deque[tuple[int, int]] = deque()  # by finalizers, which may run anywhere: they take no lock
        self._lock = threading.Lock()
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]  # torch's

    @property
    def used_bytes(self) -> int:
        """Of all blocks that somebody holds a view of."""
        with self._lock:
            self._fill_holes()
            return self._used_bytes

    @property
    def free_bytes(self) -> int:
        """Of all holes together."""
        return self._size - self.used_bytes

    def take(self, sizes: Sequence[int]) -> tuple[Tensor, ...] | None:
        """Blocks uint8 [size] of so many bytes each, with anything in them; None where not all of them fit."""
        with self._lock:
            self._fill_holes()
            taken: list[tuple[int, int]] = []
            for size in sizes:
                begin = self._cut(aligned(size))
                if begin is None:
                    self._returned.extend(place for place in taken if place[1])
                    return None
                taken.append((begin, aligned(size)))
            return tuple(self._block(*place, size) for place, size in zip(taken, sizes, strict=True))

    def fill(self, blocks: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        """Copies bytes of any device into blocks of this arena, beside what the device computes; done on return."""
        with torch.cuda.stream(self._stream) if self._stream else contextlib.nullcontext():
            for block, source in zip(blocks, sources, strict=True):
                block.copy_(source)

    def _block(self, begin: int, length: int, size: int) -> Tensor:
        if not length:
            return torch.empty(0, dtype=torch.uint8, device=self.device)
        on_cuda = self.device.type == "cuda"
        block = _Block(self._begin + begin, size, on_cuda=on_cuda)
        weakref.finalize(block, _give_back, self._returned, (begin, length), self._memory).atexit = False
        return torch.as_tensor(block, device=self.device) if on_cuda else torch.from_numpy(np.asarray(block))

    def _cut(self, length: int) -> int | None:
        """Takes bytes from a hole: where they begin."""
        if not length:
            return 0
        for number, (begin, end) in enumerate(self._holes):
            if end - begin >= length:
                self._holes[number : number + 1] = [(begin + length, end)] if end - begin > length else []
                self._used_bytes += length
                self.peak_bytes = max(self.peak_bytes, begin + length)
                return begin
        return None

    def _fill_holes(self) -> None:
        """What was returned is free, and one with the holes beside it."""
        for first, length in _drain(self._returned):
            begin, end, self._used_bytes = first, first + length, self._used_bytes - length
            after = bisect(self._holes, (begin, end))
            if after < len(self._holes) and self._holes[after][0] == end:
                end = self._holes.pop(after)[1]
            if after and self._holes[after - 1][1] == begin:
                after -= 1
                begin = self._holes.pop(after)[0]
            self._holes.insert(after, (begin, end))


def _give_back(returned: deque[tuple[int, int]], place: tuple[int, int], memory: Tensor) -> None:
    """For a finalizer, which by its arguments keeps the memory as long as there is the block."""
    del memory
    returned.append(place)


def _drain(returned: deque[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    with contextlib.suppress(IndexError):
        while True:
            yield returned.popleft()


def _host_memory(size: int) -> Tensor:
    if not size:
        return torch.empty(0, dtype=torch.uint8)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    return torch.frombuffer(pages, dtype=torch.uint8)


def _device_memory(size: int, device: str | torch.device) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, device=device)


def _lock_pages(memory: Tensor) -> bool:
    """Whether a GPU now reads this memory directly."""
    try:
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch's
        torch.cuda.check_error(int(runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)))
    except (RuntimeError, AssertionError) as error:  # torch asserts that it knows CUDA
        log.warning("memory is not page-locked, a GPU will not read from it directly: %s", error)
        return False
    weakref.finalize(memory, runtime.cudaHostUnregister, memory.data_ptr()).atexit = False
    return True
