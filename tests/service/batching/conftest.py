"""Scripts that stand in for the engine's: a few network calls of no size, and what the tests want to know of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from service.batching.policy import Limits
from service.batching.runner import Chore, Runner
from service.jobs import Accepted, GenerateJob, Receipt


@dataclass(frozen=True)
class StandInCall:
    """A network call; its prediction is its job's name."""

    name: str
    shape_key: str = "small"
    num_images: int = 2


@dataclass
class Bench:
    """A runner over scripts by prompt, and what it did."""

    limits: Limits = field(default_factory=Limits)
    scripts: dict[str, Callable[[str], Any]] = field(default_factory=dict)
    steps: list[list[str]] = field(default_factory=list)  # names of the calls of each network call
    closed: list[str] = field(default_factory=list)  # scripts that were ended early
    may_step: threading.Event = field(default_factory=threading.Event)

    def runner(self, chores: Iterable[Chore] = ()) -> Runner:
        model = SimpleNamespace(unet=None)
        return Runner(model, None, self.limits, start=self.start, predict=self.predict, chores=chores)

    def start(self, model: Any, store: Any, job: GenerateJob) -> Any:
        del model, store
        return self.scripts.get(job.prompt, self.plain)(job.prompt)

    def plain(self, name: str, num_calls: int = 3, **call: Any) -> Any:
        yield Accepted(name, None, num_calls)
        try:
            for _ in range(num_calls):
                assert (yield StandInCall(name, **call)) == name
        except GeneratorExit:
            self.closed.append(name)
            raise
        yield Receipt(name, seconds={"total": 4.0})

    def predict(self, unet: Any, calls: Sequence[StandInCall]) -> list[str]:
        del unet
        assert self.may_step.wait(30)
        self.steps.append([call.name for call in calls])
        return [call.name for call in calls]


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.may_step.set()
    return made
