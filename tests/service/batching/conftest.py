"""Scripts that stand in for the engine's: a few network calls of no size, and what the tests want to know of them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from service.batching.batcher import Batcher
from service.batching.desk import Order
from service.batching.policy import Limits
from service.batching.runner import Chore, Runner
from service.engine.recording import Format
from service.engine.weights import Model, load_model
from service.jobs import Accepted, Cancelled, Ending, Failed, GenerateJob, Job, Receipt

GUARD_SECONDS = 30  # a test that hangs fails
CALL_MACS = 10**10


@dataclass(frozen=True)
class StandInCall:
    """A network call; its prediction is its job's name."""

    name: str
    shape_key: str = "small"
    num_images: int = 2
    num_rows: int = 10


@dataclass
class Bench:
    """A runner over scripts by prompt, and what it did."""

    limits: Limits = field(default_factory=Limits)
    scripts: dict[str, Callable[[str], Any]] = field(default_factory=dict)
    steps: list[list[str]] = field(default_factory=list)  # names of the calls of each network call
    closed: list[str] = field(default_factory=list)  # scripts that were ended early
    has_begun: threading.Event = field(default_factory=threading.Event)  # a network call
    may_step: threading.Event = field(default_factory=threading.Event)
    now: float = 0.0  # what its clock says
    call_seconds: float = 0.0  # that a network call takes by it
    foresight: Callable[[Any], Any] | None = None

    def clock(self) -> float:
        return self.now

    def runner(self, chores: Iterable[Chore] = ()) -> Runner:
        model = SimpleNamespace(unet=None)
        does = {"start": self.start, "predict": self.predict, "foresight": self.foresight}
        runner = Runner(model, None, self.limits, clock=self.clock, **does)
        for chore in chores:
            runner.do_later(chore)
        return runner

    def start(self, model: Any, store: Any, job: GenerateJob) -> Any:
        del model, store
        return self.scripts.get(job.prompt, self.plain)(job.prompt)

    def plain(self, name: str, num_calls: int = 3, **call: Any) -> Any:
        yield Accepted(name, None, num_calls)
        try:
            for _ in range(num_calls):
                assert (yield self.call(name, **call)) == name
        except GeneratorExit:
            self.closed.append(name)
            raise
        yield Receipt(name, seconds={"total": 4.0}, macs_computed=num_calls * CALL_MACS)

    def call(self, name: str, **call: Any) -> StandInCall:
        return StandInCall(name, **call)

    def predict(self, unet: Any, calls: Sequence[StandInCall]) -> list[str]:
        del unet
        self.has_begun.set()
        assert self.may_step.wait(GUARD_SECONDS)
        self.steps.append([call.name for call in calls])
        self.now += self.call_seconds
        return [call.name for call in calls]


@pytest.fixture(scope="session")
def postcard() -> Model:
    """The embedded model, recordings in single precision."""
    return load_model(form=Format("float32"))


class Told(queue.Queue):
    """Events of one job, as the device thread delivers them."""

    def kinds(self) -> list[type]:
        seen: list[type] = []
        while not seen or seen[-1] not in {Receipt, Failed, Cancelled}:
            seen.append(type(self.next()))
        return seen

    def last(self) -> Any:
        event = self.next()
        while not isinstance(event, Ending):
            event = self.next()
        return event

    def next(self) -> Any:
        return self.get(timeout=GUARD_SECONDS)


Submit = Callable[..., tuple[str, Told]]


@pytest.fixture
def submit() -> Submit:
    """Submits a job, by its prompt a script of the bench, and hears its events."""

    def submit_to(batcher: Batcher, asked: str | Job = "a", **other: Any) -> tuple[str, Told]:
        told, job = Told(), GenerateJob(asked, **other) if isinstance(asked, str) else asked
        (job_id,) = batcher.submit([Order(job, told.put, batcher.foresee(job))])
        return job_id, told

    return submit_to


@pytest.fixture
def open_batcher(bench: Bench) -> Iterator[Callable[..., Batcher]]:
    """Opens batchers over the bench, and closes them."""
    opened: list[Batcher] = []

    def open_it(open_runner: Any = bench.runner, max_jobs: int = 4, running_jobs: int = 2, **other: Any) -> Batcher:
        bench.limits = replace(bench.limits, running_jobs=running_jobs)
        opened.append(Batcher(open_runner, max_jobs=max_jobs, running_jobs=running_jobs, clock=bench.clock, **other))
        return opened[-1]

    yield open_it
    bench.may_step.set()
    for batcher in opened:
        batcher.close()


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.may_step.set()
    return made
