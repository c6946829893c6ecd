"""What a job cost, counted while it runs."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from service.engine.canvas import Canvas
from service.engine.sampling import num_branches
from service.engine.waits import Waits
from service.jobs import Fallback, Receipt, Stage
from sparse_ops.plan import Plan


class Tally:
    """Rows, multiplications, bytes and seconds of one job. The source's generation counts seconds only."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._seconds: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self.fallbacks: list[Fallback] = []
        self.waits = Waits()

    def add(self, stage: Stage, seconds: float, plans: Sequence[Plan], canvas: Canvas, num_bytes: int) -> None:
        """One U-Net call."""
        self._seconds[stage] += seconds
        if stage == "source":
            return
        self._counts["rows_computed"] += len(plans[0].rows)
        self._counts["macs_computed"] += canvas.count_macs(plans)
        self._counts["bytes_moved"] += num_bytes

    def read(self, num_bytes: int) -> None:
        """Bytes of a recording, read beside U-Net calls."""
        self._counts["bytes_moved"] += num_bytes

    def compare_with(self, canvas: Canvas) -> None:
        """Drawing the whole picture again is what the job is compared with."""
        branches, num_steps = num_branches(canvas.sampling), canvas.sampling.num_inference_steps
        self._counts["rows_total"] = num_steps * branches * canvas.sizes[0][0] * canvas.sizes[0][1]
        self._counts["macs_dense"] = num_steps * canvas.macs.dense(branches)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Seconds of a stage that is no U-Net call."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] += time.perf_counter() - begin

    def fall_back(self, stage: str, reason: str) -> None:
        """Something is not done as was asked for, and why."""
        self.fallbacks.append(Fallback(stage, reason))

    def receipt(self, image_id: str, **other: Any) -> Receipt:
        """The sum."""
        stages = ("encode", "source", "detect", "denoise", "decode")
        seconds = {stage: self._seconds[stage] for stage in stages if stage in self._seconds}
        seconds["total"] = time.perf_counter() - self._begin
        counted: dict[str, Any] = {**self._counts, "transfer_wait_seconds": self.waits.seconds(), **other}
        return Receipt(image_id, seconds=seconds, fallbacks=tuple(self.fallbacks), **counted)
