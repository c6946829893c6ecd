"""The thread that owns the device, and the bounded queue in front of it.

Any thread may submit and cancel; one thread opens the model, steps the runner and delivers events. Whatever happens to
that thread, each job that was taken gets its last event: nothing ever waits on a dead thread.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from service.batching.numbers import End, Numbers
from service.batching.runner import Runner
from service.errors import BusyError, JobFailedError, NotReadyError
from service.jobs import Cancelled, Ending, Event, Failed, Job, Receipt

log = logging.getLogger(__name__)

State = Literal["loading", "ready", "draining", "dead"]
Deliver = Callable[[Event], None]  # called in the device thread; must not block

FIRST_GUESS_SECONDS = 10.0  # of a job, before any has finished
NEW_JOB_WEIGHT = 0.2  # of the newest job in the running mean


@dataclass
class _Ticket:
    """A job that has been taken and has not ended."""

    job: Job
    deliver: Deliver
    since: float  # time.perf_counter()


class Batcher:
    """Runs the jobs of many threads on one device. At most `max_jobs` are taken at a time, running and queued."""

    def __init__(self, open_runner: Callable[[], Runner], *, max_jobs: int, running_jobs: int) -> None:
        """`open_runner` is called in the device thread, so that loading a model blocks nobody."""
        self._open_runner = open_runner
        self._max_jobs = max_jobs
        self._running_jobs = running_jobs
        self._changed = threading.Condition()  # guards all below
        self._state: State = "loading"
        self._tickets: dict[str, _Ticket] = {}
        self._arrived: list[str] = []
        self._cancelled: list[str] = []
        self._mean_seconds = FIRST_GUESS_SECONDS
        self._num_refused = 0
        self._ended: Counter[End] = Counter()
        self._steps: Counter[int] = Counter()
        self._error_seconds = 0.0
        self._thread = threading.Thread(target=self._main, name="device", daemon=True)
        self._thread.start()

    @property
    def state(self) -> State:
        """loading, ready, draining (no new jobs), dead (the thread has ended)."""
        return self._state

    def wait_opened(self) -> State:
        """The state after loading; blocks until then."""
        with self._changed:
            self._changed.wait_for(lambda: self._state != "loading")
            return self._state

    def submit(self, job: Job, deliver: Deliver) -> str:
        """Take a job; its events go to `deliver`, the last one is an `Ending`. Returns the job's id.

        Raises:
            NotReadyError: the model is loading, the service is shutting down, or the device thread has died.
            BusyError: the queue is full.
        """
        with self._changed:
            check_ready(self._state)
            if len(self._tickets) >= self._max_jobs:
                self._num_refused += 1
                raise BusyError(self._queued_seconds())
            job_id = uuid.uuid4().hex
            self._tickets[job_id] = _Ticket(job, deliver, time.perf_counter())
            self._arrived.append(job_id)
            self._changed.notify_all()
            return job_id

    def cancel(self, job_id: str) -> None:
        """Stop a job at its next step; its last event is Cancelled. Nothing happens if it has ended."""
        with self._changed:
            if job_id in self._tickets:
                self._cancelled.append(job_id)
                self._changed.notify_all()

    def numbers(self) -> Numbers:
        """What was done so far, and what is to be done."""
        with self._changed:
            num_running = min(len(self._tickets), self._running_jobs)
            return Numbers(
                queued_jobs=len(self._tickets) - num_running,
                running_jobs=num_running,
                queue_seconds=len(self._tickets) * self._mean_seconds,
                num_restarts=0,
                num_refused=self._num_refused,
                ended_jobs=dict(self._ended),
                steps_by_images=dict(self._steps),
                num_predicted=self._ended["done"],
                error_seconds=self._error_seconds,
            )

    def close(self) -> None:
        """Take no more jobs, fail the taken ones at their next step, and join the thread."""
        with self._changed:
            if self._state != "dead":
                self._state = "draining"
            self._changed.notify_all()
        self._thread.join()

    def _queued_seconds(self) -> float:
        """How long the queue will probably take, from the mean of finished jobs."""
        num_queued = max(1, len(self._tickets) - self._running_jobs)
        return max(1.0, num_queued * self._mean_seconds / self._running_jobs)

    def _main(self) -> None:
        try:
            runner = self._open_runner()
            self._opened()
            self._serve(runner)
            self._end(NotReadyError("the service was shut down before the job was done"))
        except BaseException:  # also SystemExit: a waiting client must hear of every end
            log.critical("the device thread died", exc_info=True)
            self._end(JobFailedError("the device thread died; the log has the traceback"))

    def _opened(self) -> None:
        with self._changed:
            if self._state == "loading":
                self._state = "ready"
                self._changed.notify_all()

    def _serve(self, runner: Runner) -> None:
        """Step until the batcher is closed."""
        try:
            while self._exchange(runner):
                events = runner.step()
                if runner.num_images:
                    with self._changed:
                        self._steps[runner.num_images] += 1
                for job_id, event in events:
                    self._deliver(job_id, event)
        finally:
            runner.close()

    def _exchange(self, runner: Runner) -> bool:
        """Take over new and cancelled jobs; sleeps while there is nothing to do. False when it is time to end."""
        with self._changed:
            while runner.idle and not self._arrived and not self._cancelled and self._state == "ready":
                self._changed.wait()
            arrived, self._arrived = self._arrived, []
            cancelled, self._cancelled = self._cancelled, []
            tickets = {job_id: self._tickets[job_id] for job_id in arrived}
        for job_id, ticket in tickets.items():
            runner.add(job_id, ticket.job, waited_seconds=time.perf_counter() - ticket.since)
        for job_id in cancelled:
            if runner.cancel(job_id):
                self._deliver(job_id, Cancelled())
        return self._state == "ready"

    def _deliver(self, job_id: str, event: Event) -> None:
        with self._changed:
            ticket = self._tickets[job_id]
            if isinstance(event, Ending):
                del self._tickets[job_id]
                self._ended[_end_of(event)] += 1
            if isinstance(event, Receipt):
                seconds = event.seconds["total"] - event.seconds["queue"]
                self._error_seconds += abs(seconds - self._mean_seconds)
                self._mean_seconds += NEW_JOB_WEIGHT * (seconds - self._mean_seconds)
        try:
            ticket.deliver(event)
        except Exception:  # whatever a listener raises is its own: it hears no more, and the thread lives
            log.exception("job %s could not deliver %s", job_id, type(event).__name__)
            self.cancel(job_id)

    def _end(self, error: Exception) -> None:
        """The thread ends: no job is taken from now on, and each that was taken fails."""
        with self._changed:
            self._state = "dead"
            self._changed.notify_all()
            left = list(self._tickets)
        for job_id in left:
            self._deliver(job_id, Failed(error))


def _end_of(event: Ending) -> End:
    if isinstance(event, Receipt):
        return "done"
    return "failed" if isinstance(event, Failed) else "cancelled"


def check_ready(state: State) -> None:
    """Raises NotReadyError, with the reason, unless the state is `ready`."""
    reasons: dict[State, str] = {
        "loading": "the model is still loading",
        "draining": "the service is shutting down",
        "dead": "the device thread has ended",
    }
    if state in reasons:
        raise NotReadyError(reasons[state])
