"""The thread that owns the device, and the bounded queue in front of it.

Any thread may submit and cancel; one thread opens the model, steps the runner and delivers events. Whatever happens to
that thread, each job that was taken gets its last event: nothing ever waits on a dead thread. Another one is started in
its place, which opens the model again, after a pause that grows while no job gets done; only if the model cannot be
opened so often that waiting does not mend it, the batcher is dead for good.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from typing import Literal

from service.batching.costs import Outlook
from service.batching.foresight import Foresight
from service.batching.ledger import Deliver, Ledger, Ticket
from service.batching.numbers import Numbers
from service.batching.runner import Runner
from service.errors import DeadlineError, JobFailedError, NotReadyError, RetouchError
from service.jobs import Cancelled, Event, Failed, Job, Receipt

log = logging.getLogger(__name__)

State = Literal["loading", "ready", "restarting", "draining", "dead"]
Pause = Callable[[threading.Event, float], object]  # so many seconds, or until the batcher is closed

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
MOST_OPENINGS = 5  # that fail in a row
CLOSE_SECONDS = 120.0  # a step of a large network on a CPU takes a minute


class Batcher:
    """Runs the jobs of many threads on one device. At most `max_jobs` are taken at a time, running and queued."""

    def __init__(
        self,
        open_runner: Callable[[], Runner],
        *,
        max_jobs: int,
        running_jobs: int,
        pause: Pause = threading.Event.wait,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`open_runner` is called in the device thread, in each new one: loading a model blocks nobody."""
        self._open_runner = open_runner
        self._pause = pause
        self._clock = clock
        self._changed = threading.Condition()  # guards all below
        self._closing = threading.Event()
        self._state: State = "loading"
        self._ledger = Ledger(max_jobs, running_jobs)
        self._arrived: list[str] = []
        self._cancelled: list[str] = []
        self._foresight: Foresight | None = None
        self._num_deaths = 0  # since a job was done
        self._num_failures = 0  # to open the model, in a row
        with self._changed:  # it may die, and another be in its place, before it is noted here
            self._thread = self._begin()

    @property
    def state(self) -> State:
        """loading, ready, restarting (the thread died, another opens the model), draining (no new jobs), dead."""
        return self._state

    def wait_opened(self) -> State:
        """The state after loading; blocks until then."""
        with self._changed:
            self._changed.wait_for(lambda: self._state not in {"loading", "restarting"})
            return self._state

    def foresee(self, job: Job) -> Outlook | None:
        """What a job will ask of the network, for `submit`; None where that cannot be told. It may wait for the disk.

        Raises:
            NotReadyError, BusyError: as `submit`, where no job at all would be taken.
        """
        with self._changed:
            check_ready(self._state)
            self._ledger.check_room(self._clock())
            foresight = self._foresight
        if foresight is None:
            return None
        try:
            return foresight(job)
        except RetouchError:  # it will fail before its first call, and say why
            return Outlook()
        except Exception:  # a defect here must not refuse a job
            log.exception("a job's cost could not be told")
            return None

    def submit(self, job: Job, deliver: Deliver, outlook: Outlook | None = None) -> str:
        """Take a job; its events go to `deliver`, the last one is an `Ending`. Returns the job's id.

        `outlook` is what `foresee` said; a job without is taken for an average one.

        Raises:
            NotReadyError: the model is loading, the service is shutting down, or the device thread has died.
            BusyError: the queue is full, or the deadline of this job, or by it that of another, could not be kept.
        """
        with self._changed:
            check_ready(self._state)
            job_id = uuid.uuid4().hex
            self._ledger.take(job_id, Ticket(job, deliver, self._clock(), outlook))
            self._arrived.append(job_id)
            self._changed.notify_all()
            return job_id

    def cancel(self, job_id: str) -> None:
        """Stop a job at its next step; its last event is Cancelled. Nothing happens if it has ended."""
        with self._changed:
            if job_id in self._ledger.tickets:
                self._cancelled.append(job_id)
                self._changed.notify_all()

    def numbers(self) -> Numbers:
        """What was done so far, and what is to be done."""
        with self._changed:
            return self._ledger.numbers()

    def close(self, deadline_seconds: float = CLOSE_SECONDS) -> None:
        """Take no more jobs, fail the taken ones at their next step, and join the thread, unless its device hangs."""
        with self._changed:
            if self._state != "dead":
                self._state = "draining"
            self._closing.set()
            self._changed.notify_all()
        joined = None
        while joined is not self._thread:  # one that died may have begun another just before
            joined = self._thread
            joined.join(deadline_seconds)
        if joined.is_alive():
            log.error("the device has not ended its step within %g s, and is left to it", deadline_seconds)

    def _begin(self, pause_seconds: float = 0.0) -> threading.Thread:
        thread = threading.Thread(target=self._main, args=(pause_seconds,), name="device", daemon=True)
        thread.start()
        return thread

    def _main(self, pause_seconds: float) -> None:
        if pause_seconds:
            self._pause(self._closing, pause_seconds)
        try:
            if not self._closing.is_set():
                self._serve(self._open())
            self._end("dead", NotReadyError("the service was shut down before the job was done"))
        except BaseException as error:  # also SystemExit: a waiting client must hear of every end
            log.critical("the device thread died", exc_info=True)
            self._died(error)

    def _open(self) -> Runner:
        with self._changed:
            self._num_failures += 1
        runner = self._open_runner()
        with self._changed:
            self._num_failures = 0
            self._foresight = runner.foresight
            if self._foresight:
                self._ledger.costs = self._ledger.costs.on(self._foresight.device)
            if not self._closing.is_set():
                self._state = "ready"
            self._changed.notify_all()
        return runner

    def _died(self, error: BaseException) -> None:
        """Another thread is begun, unless that is of no use: the batcher is closed, or the model cannot be opened."""
        with self._changed:
            self._foresight = None  # it holds the model, which is to be opened again
            self._num_deaths += 1
            is_named = self._num_failures > 0 and isinstance(error, RetouchError)  # waiting does not mend it
            is_final = self._closing.is_set() or is_named or self._num_failures >= MOST_OPENINGS
        failure = JobFailedError("the device thread died; the log has the traceback")
        self._end("dead" if is_final else "restarting", failure)
        with self._changed:
            if is_final:
                return
            self._ledger.restarted()
            pause_seconds = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (self._num_deaths - 1))
            log.warning("the device thread starts again in %.0f s", pause_seconds)
            try:
                self._thread = self._begin(pause_seconds)
            except RuntimeError:  # the system has no thread left for us
                log.critical("no device thread can be started", exc_info=True)
                self._state = "dead"

    def _serve(self, runner: Runner) -> None:
        """Step until the batcher is closed."""
        try:
            while self._exchange(runner):
                events = runner.step()
                if runner.num_images:
                    with self._changed:
                        self._ledger.stepped(runner.num_images)
                for job_id, event in events:
                    self._deliver(job_id, event)
        finally:
            runner.close()

    def _exchange(self, runner: Runner) -> bool:
        """Take over new jobs, end cancelled and late ones; sleeps while there is nothing to do. False: time to end."""
        with self._changed:
            while runner.idle and not self._arrived and not self._cancelled and not self._closing.is_set():
                self._changed.wait()
            now = self._clock()
            arrived, self._arrived = self._arrived, []
            cancelled, self._cancelled = self._cancelled, []
            tickets = {job_id: self._ledger.tickets[job_id] for job_id in arrived}
            late = {job_id: self._ledger.tickets[job_id] for job_id in self._ledger.overdue(now)}
        for job_id, ticket in tickets.items():
            runner.add(job_id, ticket.job, waited_seconds=now - ticket.since, usage=ticket.usage)
        for job_id in cancelled:
            if runner.cancel(job_id):
                self._deliver(job_id, Cancelled())
        for job_id, ticket in late.items():
            if runner.cancel(job_id):
                self._deliver(job_id, Failed(DeadlineError(ticket.job.deadline_seconds or 0.0)))
        return not self._closing.is_set()

    def _deliver(self, job_id: str, event: Event) -> None:
        with self._changed:
            ticket, told = self._ledger.tell(job_id, event, self._clock())
            if isinstance(event, Receipt):
                self._num_deaths = 0
        try:
            ticket.deliver(told)
        except Exception:  # whatever a listener raises is its own: it hears no more, and the thread lives
            log.exception("job %s could not deliver %s", job_id, type(event).__name__)
            self.cancel(job_id)

    def _end(self, state: State, error: Exception) -> None:
        """No job is taken from now on, and each that was taken fails."""
        with self._changed:
            self._state = state
            self._changed.notify_all()
            self._arrived, self._cancelled = [], []
            left = list(self._ledger.tickets)
        for job_id in left:
            self._deliver(job_id, Failed(error))


def check_ready(state: State) -> None:
    """Raises NotReadyError, with the reason, unless the state is `ready`."""
    reasons: dict[State, str] = {
        "loading": "the model is still loading",
        "restarting": "the device thread has died, and is being started again",
        "draining": "the service is shutting down",
        "dead": "the device thread has ended",
    }
    if state in reasons:
        raise NotReadyError(reasons[state])
