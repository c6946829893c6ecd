"""Many jobs, one network: advances each job's script to its next call and merges the calls that fit together.

A script is the engine's generator for one job. It yields events, which go out, and network calls, whose predictions
are sent back in. The runner knows nothing of threads: the command line runs one job with it, the batcher many.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cache_store.store import Store
from service.batching.foresight import Foresight
from service.batching.meter import HostMeter, Meter
from service.batching.policy import Limits, PendingCall, decide, level
from service.batching.usage import Usage
from service.engine import editor
from service.engine.call import Call
from service.engine.denoise import Script
from service.engine.predict import predict
from service.engine.unet import UNet
from service.engine.weights import Model
from service.errors import JobFailedError, RetouchError
from service.jobs import Event, Failed, Job, MaskFound, Receipt

log = logging.getLogger(__name__)

Start = Callable[[Model, Store, Job], Script]
Predict = Callable[[UNet, Sequence[Call]], list[Tensor]]
Chore = Callable[[], object]  # a job that comes meanwhile waits for its end


@dataclass
class _Waiting:
    """A job that has not begun."""

    job: Job
    since: float  # of the runner's clock
    usage: Usage


@dataclass
class _Running:
    """A job that has begun, and the network call that it waits for."""

    script: Script
    tenant: str
    queue_seconds: float
    usage: Usage
    ahead_seconds: float  # what it was taken to have had when it began
    call: Call = field(init=False)  # set when it has advanced for the first time
    waited_steps: int = 0


class Runner:
    """Runs jobs on one device. Each ends with exactly one `Ending`, unless it is cancelled; a failing one alone.

    While no job is there it does its chores, one a step.
    """

    def __init__(
        self,
        model: Model,
        store: Store,
        limits: Limits,
        *,
        start: Start = editor.start,
        predict: Predict = predict,
        foresight: Foresight | None = None,
        meter: Meter | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`foresight` tells whoever asks what a job will take; the runner needs none.

        Without a `meter` calls have ended when they return.
        """
        self._model = model
        self._store = store
        self._limits = limits
        self._start = start
        self._predict = predict
        self._chores = deque[Chore]()
        self.wake: Callable[[], object] = lambda: None  # whoever steps it, and sleeps while it is idle
        self._meter = meter or HostMeter()
        self._clock = clock
        self.foresight = foresight
        self._waiting: dict[str, _Waiting] = {}
        self._running: dict[str, _Running] = {}
        self._events: list[tuple[str, Event]] = []
        self._num_images = 0
        self._level = 0.0  # seconds of the device that a newcomer is taken to have had

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and not self._running and not self._chores

    @property
    def num_images(self) -> int:
        """Of the last step's network call; 0 where it made none."""
        return self._num_images

    @property
    def calls(self) -> list[Call]:
        """The network calls that the running jobs wait for, in order of admission."""
        return [running.call for running in self._running.values()]

    def add(self, job_id: str, job: Job, *, waited_seconds: float = 0.0, usage: Usage | None = None) -> None:
        """Put a job into the queue. `waited_seconds` is how long it waited elsewhere; `usage` is kept up to date."""
        self._waiting[job_id] = _Waiting(job, self._clock() - waited_seconds, usage or Usage())

    def do_later(self, chore: Chore) -> None:
        """From any thread: when no job is there."""
        self._chores.append(chore)
        self.wake()

    def cancel(self, job_id: str) -> bool:
        """End a job without an event. False if there is no such job (any more)."""
        if self._waiting.pop(job_id, None) is not None:
            return True
        running = self._running.pop(job_id, None)
        if running is not None:
            _close(job_id, running.script)
        return running is not None

    def close(self) -> None:
        """End all jobs without an event; what chores are left is not done."""
        self._chores.clear()
        for job_id in [*self._waiting, *self._running]:
            self.cancel(job_id)

    @torch.no_grad()
    def step(self) -> list[tuple[str, Event]]:
        """Begin the jobs that may begin, or make one merged network call, or do a chore. Returns what came of it."""
        pending = self._pending
        waiting = {job_id: one.job.tenant for job_id, one in self._waiting.items()}
        decision = decide(waiting, pending, self._limits)
        self._num_images = sum(call.num_images for call in pending if call.job_id in decision.step)
        for job_id in decision.admit:
            self._admit(job_id)
        if decision.step:
            self._level = level(self._level, pending)
            self._compute(decision.step)
        elif not decision.admit and self._chores:
            self._do(self._chores.popleft())
        events, self._events = self._events, []
        return events

    @property
    def _pending(self) -> list[PendingCall]:
        return [
            PendingCall(
                job_id,
                running.call.shape_key,
                running.call.num_images,
                running.call.num_rows,
                running.ahead_seconds + running.usage.seconds,
                running.waited_steps,
                running.tenant,
            )
            for job_id, running in self._running.items()
        ]

    def _do(self, chore: Chore) -> None:
        try:
            chore()
        except Exception:  # a chore's defect ends this chore, and only this one
            log.exception("a chore failed")

    def _admit(self, job_id: str) -> None:
        self._meter.settle()  # what a job begins with is its own
        waiting = self._waiting.pop(job_id)
        waiting.usage.has_begun = True
        queue_seconds = self._clock() - waiting.since
        try:
            script = self._start(self._model, self._store, waiting.job)
        except Exception as error:  # noqa: BLE001  # a job's defect ends this job, and only this one
            self._fail(job_id, error)
        else:
            self._running[job_id] = _Running(script, waiting.job.tenant, queue_seconds, waiting.usage, self._level)
            self._advance(job_id, None)

    def _compute(self, job_ids: Sequence[str]) -> None:
        """One network call for these jobs; the others have waited a step longer."""
        chosen = {job_id: self._running[job_id].call for job_id in job_ids}
        for job_id, running in self._running.items():
            running.waited_steps = 0 if job_id in chosen else running.waited_steps + 1
        begin = self._clock()
        try:
            predictions = self._predict(self._model.unet, list(chosen.values()))
            answers = list(zip(chosen, predictions, strict=True))
        except Exception as error:  # noqa: BLE001  # whatever the device raises ends these jobs, and only these
            for job_id in chosen:
                self._fail(job_id, error)
            return
        shares = [(self._running[job_id].usage, call.num_rows) for job_id, call in chosen.items()]
        self._meter.called(shares, self._clock() - begin)
        for job_id, prediction in answers:
            self._advance(job_id, prediction)

    def _advance(self, job_id: str, prediction: Tensor | None) -> None:
        """Run a script until it needs the network again, or ends. Its receipt goes out when it has ended well."""
        running, begin = self._running[job_id], self._clock()
        receipt = None
        try:
            item = running.script.send(prediction)
            while isinstance(item, Event):
                if isinstance(item, MaskFound):
                    self._meter.settle()  # the calls that found it are charged, and counted
                if isinstance(item, Receipt):
                    receipt = _with_queue(item, running.queue_seconds)
                else:
                    self._events.append((job_id, item))
                item = running.script.send(None)
            running.call = item
        except StopIteration:
            self._finish(job_id, receipt)
        except Exception as error:  # noqa: BLE001  # a job's defect ends this job, and only this one
            self._fail(job_id, error)
        finally:
            self._meter.advanced(running.usage, self._clock() - begin)

    def _finish(self, job_id: str, receipt: Receipt | None) -> None:
        if receipt is None:
            self._fail(job_id, RuntimeError("the script ended without a receipt"))
        else:
            self._meter.settle()
            del self._running[job_id]
            self._events.append((job_id, receipt))

    def _fail(self, job_id: str, error: Exception) -> None:
        self.cancel(job_id)
        if not isinstance(error, RetouchError):
            log.error("job %s failed", job_id, exc_info=error)
            failure = JobFailedError(f"the job met a defect; the log has its traceback under {job_id}")
            failure.__cause__ = error
            error = failure
        self._events.append((job_id, Failed(error)))


def run(
    model: Model,
    store: Store,
    job: Job,
    on_call: Callable[[Call], None] | None = None,
) -> Iterator[Event]:
    """The events of one job. `on_call` hears of each network call before it is made: a progress bar's source."""
    with closing(Runner(model, store, Limits())) as runner:
        runner.add("job", job)
        while not runner.idle:
            if on_call is not None:
                for call in runner.calls:
                    on_call(call)
            yield from (event for _, event in runner.step())


def _with_queue(receipt: Receipt, queue_seconds: float) -> Receipt:
    """The engine's receipt, and what the job waited for before it."""
    total = receipt.seconds.get("total", 0.0) + queue_seconds
    return replace(receipt, seconds={**receipt.seconds, "queue": queue_seconds, "total": total})


def _close(job_id: str, script: Script) -> None:
    """Let a script clean up, at whatever point it is."""
    try:
        script.close()
    except Exception:  # the job has ended already, and the others go on
        log.exception("job %s did not clean up", job_id)
