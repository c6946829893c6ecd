"""The thread that owns the device, and the bounded queue in front of it.

Any thread may submit and cancel; one thread opens the model, steps the runner and delivers events. Whatever happens to
that thread, each job that was taken gets its last event: nothing ever waits on a dead thread. Another one is started in
its place, which opens the model again, after a pause that grows while no job gets done; only if the model cannot be
opened so often that waiting does not mend it, the batcher is dead for good.

A second thread watches the first: a step may take long, or never end. It tells jobs when their deadline is over, and
when a step has taken too long, that the device hangs: then all jobs fail, and none is taken until that step ends.
No thread can be stopped from outside, so only a restart of the process mends a device that hangs for good.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from service.batching.costs import Outlook
from service.batching.desk import Desk, Order
from service.batching.foresight import Foresight
from service.batching.ledger import Ledger
from service.batching.numbers import Numbers
from service.batching.runner import Runner
from service.batching.states import State
from service.errors import JobFailedError, NotReadyError, RetouchError
from service.jobs import Cancelled, Job, Receipt

log = logging.getLogger(__name__)

Pause = Callable[[threading.Event, float], object]  # so many seconds, or until the batcher is closed

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
MOST_OPENINGS = 5  # that fail in a row
WATCH_SECONDS = 0.5  # from one look at the device thread to the next
STEP_SECONDS = 300.0  # a step of a large network on a CPU takes a minute
CLOSE_SECONDS = 20.0  # whoever stops services gives them a time, of which running jobs have had 30 s


class Batcher:
    """Runs the jobs of many threads on one device. At most `max_jobs` are taken at a time, running and queued."""

    def __init__(
        self,
        open_runner: Callable[[], Runner],
        *,
        max_jobs: int,
        running_jobs: int,
        step_seconds: float = STEP_SECONDS,
        pause: Pause = threading.Event.wait,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`open_runner` is called in the device thread, in each new one: loading a model blocks nobody.

        A device whose step takes longer than `step_seconds` hangs.
        """
        self._open_runner = open_runner
        self._step_seconds = step_seconds
        self._pause = pause
        self._clock = clock
        self._desk = Desk(Ledger(max_jobs, running_jobs), clock)
        self._closing = threading.Event()
        self._foresight: Foresight | None = None
        self._open_seconds = 0.0  # that the last opening took
        self._num_deaths = 0  # since a job was done
        self._num_failures = 0  # to open the model, in a row
        self._lives = threading.Lock()  # a thread may die, and another be in its place, before it is noted
        with self._lives:
            self._thread = self._begin()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    @property
    def state(self) -> State:
        """loading, ready, restarting (the thread died, another opens the model), hung, draining (no new jobs), dead."""
        return self._desk.state

    def wait_opened(self) -> State:
        """The state after loading; blocks until then."""
        return self._desk.wait_while({"loading", "restarting"})

    def check_ready(self) -> None:
        """Raises NotReadyError, with when to come again, unless the state is ready."""
        self._desk.check_ready()

    def check(self) -> None:
        """Waits for nothing.

        Raises:
            NotReadyError, BusyError: as `submit`, where no job at all would be taken.
        """
        self._desk.check()

    def reads_disk(self, job: Job) -> bool:
        """Whether `foresee` has to wait for the disk; waits for nothing."""
        return self._foresight is not None and self._foresight.reads_disk(job)

    def foresee(self, job: Job) -> Outlook | None:
        """What a job will ask of the network, for `submit`; None where that cannot be told.

        Raises as `check`, of which it is another one: some time may have gone.
        """
        self.check()
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

    def submit(self, orders: Sequence[Order]) -> list[str]:
        """Take the jobs of one request, all or none. Returns their ids.

        Raises:
            NotReadyError: the model is loading, the service is shutting down, or the device thread has died or hangs.
            BusyError: the queue is full, or the deadline of these jobs, or by them that of another, could not be kept.
            InputError: they are more than are taken at a time.
        """
        return self._desk.take(orders)

    def cancel(self, job_id: str) -> None:
        """Stop a job at its next step; its last event is Cancelled. Nothing happens if it has ended."""
        self._desk.cancel(job_id)

    def numbers(self) -> Numbers:
        """What was done so far, and what is to be done."""
        return self._desk.numbers()

    def close(self, deadline_seconds: float = CLOSE_SECONDS) -> None:
        """Take no more jobs, fail the taken ones at their next step, and join the thread, unless its device hangs."""
        hangs = self.state == "hung"
        self._closing.set()
        self._desk.become("draining")
        joined = None
        while joined is not self._thread:  # one that died may have begun another just before
            joined = self._thread
            joined.join(0.0 if hangs else deadline_seconds)
        if joined.is_alive():
            log.error("the device has not ended its step within %g s, and is left to it", deadline_seconds)
        self._end("dead", _shut_down)

    def look(self) -> None:
        """See how the device does: whose deadline is over hears so while its step lasts, and all if it hangs."""
        self._desk.end_late()
        self._desk.end_hung(self._step_seconds)

    def _watch(self) -> None:
        while not self._closing.wait(WATCH_SECONDS):
            try:
                self.look()
            except Exception:  # a defect in one look must not be the last
                log.exception("the device thread could not be looked at")

    def _begin(self, pause_seconds: float = 0.0) -> threading.Thread:
        thread = threading.Thread(target=self._main, args=(pause_seconds,), name="device", daemon=True)
        thread.start()
        return thread

    def _main(self, pause_seconds: float) -> None:
        if pause_seconds:
            self._pause(self._closing, pause_seconds)
        runner: Runner | None = None
        try:
            if not self._closing.is_set():
                runner = self._open()
                self._serve(runner)
            self._end("dead", _shut_down)
        except BaseException as error:  # also SystemExit: a waiting client must hear of every end
            log.critical("the device thread died", exc_info=True)
            try:
                self._died(error, runner)
            except Exception:  # nobody is left to do better: who asks must hear that, and not wait
                log.critical("no other device thread could be begun", exc_info=True)
                self._end("dead", _died)
        else:
            _close(runner)

    def _open(self) -> Runner:
        begin = self._clock()
        self._num_failures += 1
        runner = self._open_runner()
        self._open_seconds = self._clock() - begin
        self._foresight = runner.foresight
        runner.wake = self._desk.wake
        if self._foresight:
            self._desk.runs_on(self._foresight.device)
        self._num_failures = 0
        self._desk.become("ready")
        return runner

    def _died(self, error: BaseException, runner: Runner | None) -> None:
        """Another thread is begun, unless that is of no use: the batcher is closed, or the model cannot be opened."""
        self._foresight = None  # it holds the model, which is to be opened again
        self._num_deaths += 1
        is_named = runner is None and isinstance(error, RetouchError)  # waiting does not mend it
        if self._closing.is_set() or is_named or self._num_failures >= MOST_OPENINGS:
            self._end("dead", _died)
            _close(runner)
            return
        pause_seconds = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._num_deaths - 1, 10))
        self._end("restarting", _died, ready_in_seconds=pause_seconds + self._open_seconds)
        _close(runner)
        self._desk.restarted()
        log.warning("the device thread starts again in %.0f s", pause_seconds)
        with self._lives:
            try:
                self._thread = self._begin(pause_seconds)
            except RuntimeError:  # the system has no thread left for us
                log.critical("no device thread can be started", exc_info=True)
                self._end("dead", _died)

    def _serve(self, runner: Runner) -> None:
        """Step until the batcher is closed."""
        while self._exchange(runner):
            events = runner.step()
            if runner.num_images:
                self._desk.stepped(runner.num_images)
            for job_id, event in events:
                if isinstance(event, Receipt):
                    self._num_deaths = 0
                self._desk.tell(job_id, event)
                self._desk.let_go(job_id)

    def _exchange(self, runner: Runner) -> bool:
        """Take over new jobs, end cancelled and late ones; sleeps while there is nothing to do. False: time to end."""
        self._desk.end_late()
        arrivals = self._desk.collect(waits=runner.idle, closing=self._closing)
        now = self._clock()
        for job_id, ticket in arrivals.jobs.items():
            runner.add(job_id, ticket.job, waited_seconds=now - ticket.since, usage=ticket.usage)
        for job_id in arrivals.cancelled:
            if runner.cancel(job_id):
                self._desk.tell(job_id, Cancelled())
            self._desk.let_go(job_id)
        return not self._closing.is_set()

    def _end(self, state: State, error: Callable[[], Exception], ready_in_seconds: float | None = None) -> None:
        """No job is taken from now on, and each that was taken fails."""
        self._desk.become(state, ready_in_seconds=ready_in_seconds)
        self._desk.end_all(error)


def _shut_down() -> Exception:
    return NotReadyError("the service was shut down before the job was done")


def _died() -> Exception:
    return JobFailedError("the device thread died; the log has the traceback")


def _close(runner: Runner | None) -> None:
    """Its jobs have been told; what they hold is let go."""
    try:
        if runner is not None:
            runner.close()
    except Exception:  # the thread ends, and whoever comes after it begins anew
        log.exception("a runner did not close")
