"""Several ways to do the same, timed in one run: each makes some calls in a row, then the next, round after round."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

import torch

CallStep = Callable[[int], object]  # one network call, of one step; may answer a wait
Make = Callable[[], Sequence[CallStep]]  # one for each mask, or only one


class LeftOutError(Exception):
    """A way that cannot take part; the text says why."""


def timed_event() -> torch.cuda.Event:
    """A point of a stream whose time is kept."""
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's


@dataclass(eq=False)
class TimedWait:
    """An event that is waited for, and how long the waiting stream stood still for it."""

    event: torch.cuda.Event
    begin: torch.cuda.Event = field(default_factory=timed_event)
    end: torch.cuda.Event = field(default_factory=timed_event)

    def wait(self) -> None:
        """As the event's own."""
        self.begin.record()
        self.event.wait()
        self.end.record()

    @property
    def ms(self) -> float:
        """To be asked when the device is done."""
        return float(self.begin.elapsed_time(self.end))


@dataclass(eq=False)
class Contestant:
    """One way, and what it took."""

    calls: Sequence[CallStep]
    ms: list[float] = field(default_factory=list)  # of one call, by round
    waiting: list[float] = field(default_factory=list)  # which part of it

    def spread(self) -> dict[str, float]:
        """Median and quartiles over rounds."""
        low, _, high = quantiles(self.ms, n=4, method="inclusive") if len(self.ms) > 1 else self.ms * 3
        return {"median": round(median(self.ms), 3), "low": round(low, 3), "high": round(high, 3)}


@dataclass(eq=False)
class Contest:
    """Who takes part, and who does not and why."""

    device: torch.device
    num_calls: int  # in a row, after one that is not counted
    contestants: dict[str, Contestant] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)  # of those left out
    is_interrupted: bool = False  # by Ctrl-C, or `timeout --signal=INT`: nobody enters any more, and one round is run

    def enter(self, name: str, make: Make) -> None:
        """Makes a way and warms it up: whatever is compiled, chosen, captured or allocated once."""
        if self.is_interrupted:
            self.left_out[name] = "interrupted before it was made"
            return
        begin = time.perf_counter()
        try:
            calls = make()
            for call in calls:
                for step in range(1 + self.num_calls):
                    call(step)
            self._wait()
        except KeyboardInterrupt:
            self.is_interrupted, self.left_out[name] = True, "interrupted while it was made"
        except LeftOutError as error:
            self.left_out[name] = str(error)
        except Exception as error:  # noqa: BLE001  # one way's failure must not take the others' times with it
            self.left_out[name] = f"{type(error).__name__}: {error}"
            self.failed.append(name)
        else:
            self.contestants[name] = Contestant(calls)
        why = f", left out: {self.left_out[name]}" if name in self.left_out else ""
        print(f"{name}: {time.perf_counter() - begin:.1f} s{why}", file=sys.stderr, flush=True)

    def run(self, num_rounds: int) -> int:
        """Round after round, of many masks the next one in each. How many there were: fewer where it is interrupted."""
        for number in range(num_rounds):
            try:
                self._run(number)
            except KeyboardInterrupt:
                self.is_interrupted = True
            if self.is_interrupted:
                return number + 1
        return num_rounds

    def _run(self, number: int) -> None:
        for contestant in self.contestants.values():
            call = contestant.calls[number % len(contestant.calls)]
            ms, waits = self._on_device(call) if self.device.type == "cuda" else self._on_host(call)
            contestant.ms.append(ms / self.num_calls)
            if waits:
                contestant.waiting.append(sum(wait.ms for wait in waits) / ms)

    def ms(self) -> Mapping[str, dict[str, float]]:
        """Of one call, by way."""
        return {name: contestant.spread() for name, contestant in self.contestants.items() if contestant.ms}

    def waiting(self) -> Mapping[str, float]:
        """The part of a call that its stream stood still for rows, by way; 0 where all had come in time."""
        ways = self.contestants.items()
        return {name: round(median(contestant.waiting), 4) for name, contestant in ways if contestant.waiting}

    def _on_device(self, call: CallStep) -> tuple[float, list[TimedWait]]:
        begin, end = timed_event(), timed_event()
        self._wait()
        call(0)
        begin.record()  # when the first call ends: the host is ahead, as in a loop of steps
        answers = [call(step) for step in range(1, 1 + self.num_calls)]
        end.record()
        self._wait()
        return float(begin.elapsed_time(end)), [answer for answer in answers if isinstance(answer, TimedWait)]

    def _on_host(self, call: CallStep) -> tuple[float, list[TimedWait]]:
        call(0)
        begin = time.perf_counter()
        for step in range(1, 1 + self.num_calls):
            call(step)
        return (time.perf_counter() - begin) * 1e3, []

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
