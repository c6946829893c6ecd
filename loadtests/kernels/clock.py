"""Milliseconds of one call from cold caches, and what the card can do at best, measured the same way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median, quantiles

import torch
from torch import Tensor

from loadtests.contest import timed_event

FLUSHED_BYTES = 1 << 30  # written before each run: far more than an L2, and longer than the host needs to launch
WARM_UP = 3


@dataclass(frozen=True)
class Times:
    """Of many runs."""

    ms: float  # the median
    low: float  # quartiles
    high: float


@dataclass(frozen=True)
class Clock:
    """Times runs, each alone, with CUDA events; on a CPU with the host's clock."""

    device: torch.device
    num_runs: int
    _flushed: list[Tensor] = field(default_factory=list)

    @property
    def caches(self) -> str:
        """How they were before each run."""
        if self.device.type != "cuda":
            return "as the run before left them"
        return f"flushed before each run by writing {FLUSHED_BYTES >> 20} MiB; L2 has {self.l2_bytes >> 20} MiB"

    @property
    def l2_bytes(self) -> int:
        """Of the card."""
        return int(torch.cuda.get_device_properties(self.device).L2_cache_size)

    def time(self, run: Callable[[], object]) -> Times:
        """Milliseconds of `run` on its device. What a launch costs the host is hidden behind the flush."""
        for _ in range(WARM_UP):
            run()
        each = self._on_device(run) if self.device.type == "cuda" else self._on_host(run)
        low, _, high = quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
        return Times(median(each), low, high)

    def _on_device(self, run: Callable[[], object]) -> list[float]:
        spans = []
        for _ in range(self.num_runs):
            begin, end = timed_event(), timed_event()
            self._flush()
            begin.record()
            run()
            end.record()
            spans.append((begin, end))
        torch.cuda.synchronize(self.device)
        return [begin.elapsed_time(end) for begin, end in spans]

    def _on_host(self, run: Callable[[], object]) -> list[float]:
        each = []
        for _ in range(self.num_runs):
            begin = time.perf_counter()
            run()
            each.append((time.perf_counter() - begin) * 1e3)
        return each

    def _flush(self) -> None:
        if not self._flushed:
            self._flushed.append(torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device=self.device))
        self._flushed[0].zero_()


@dataclass(frozen=True)
class Peaks:
    """What the card does at best, by torch's own operators in this run."""

    matrix_tflops: float  # a product of two large matrices; two operations a multiply-add
    memory_gb_s: float  # a large copy, bytes read and bytes written
    pinned_gb_s: float | None  # a copy from pinned host memory; None on a CPU

    @classmethod
    def measured(cls, clock: Clock, dtype: torch.dtype, scale: int = 1) -> Peaks:
        """`scale` divides the sizes, for a CPU."""
        device, edge, num_bytes = clock.device, 8192 // scale, (1 << 30) // scale**2
        one, other = (torch.randn(edge, edge, device=device).to(dtype) for _ in range(2))
        source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        pinned = None
        if device.type == "cuda":
            host = torch.ones(num_bytes // 4, dtype=torch.uint8, pin_memory=True)
            pinned = len(host) / clock.time(lambda: target[: len(host)].copy_(host, non_blocking=True)).ms / 1e6
        return cls(
            matrix_tflops=2 * edge**3 / clock.time(lambda: one @ other).ms / 1e9,
            memory_gb_s=2 * num_bytes / clock.time(lambda: target.copy_(source)).ms / 1e6,
            pinned_gb_s=pinned,
        )
