"""How long a job's steps waited for rows of its recording: what copies cost where they are not beside other work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class Waits:
    """Adds up. On a GPU the host does not wait, the step's stream does: two events say how long it stood still."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._host_seconds = 0.0
        self._between: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def timed(self, device: torch.device) -> Iterator[None]:
        """What is done here is waited for by the steps on this device."""
        if device.type != "cuda":
            begin = self._clock()
            yield
            self._host_seconds += self._clock() - begin
            return
        stream = torch.cuda.current_stream(device)
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch's
        begun.record(stream)
        yield
        ended.record(stream)
        self._between.append((begun, ended))

    def seconds(self) -> float:
        """So far; on a GPU it waits until the last of them is over."""
        if self._between:
            self._between[-1][1].synchronize()
        milliseconds: float = sum(begun.elapsed_time(ended) for begun, ended in self._between)
        return self._host_seconds + milliseconds / 1e3
