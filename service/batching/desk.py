"""Where jobs are handed in and their events go out: what the threads of a batcher and of its clients share."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from service.batching.costs import Outlook
from service.batching.ledger import Deliver, Ledger, Ticket
from service.batching.numbers import Numbers
from service.batching.states import State, check_ready
from service.errors import DeadlineError, JobFailedError
from service.jobs import Event, Failed, Job

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """A job that is handed in."""

    job: Job
    deliver: Deliver  # hears its events, the last one is an `Ending`
    outlook: Outlook | None = None  # what `Batcher.foresee` said; a job without is taken for an average one
    waited_seconds: float = 0.0  # since it was submitted, which its deadline counts from


@dataclass(frozen=True)
class Arrivals:
    """What has come since the last look."""

    jobs: dict[str, Ticket] = field(default_factory=dict)
    cancelled: tuple[str, ...] = ()


class Desk:
    """Thread-safe. Each job that is taken is told exactly one ending, by whichever thread is first to know one."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._changed = threading.Condition()  # guards all here; reentrant
        self._state: State = "loading"
        self._ready_at: float | None = None  # of the clock; None: it is not known
        self._busy_since: float | None = None  # of the clock; None while the device's thread waits for work
        self._arrived: list[str] = []
        self._cancelled: list[str] = []
        self._is_woken = False

    @property
    def state(self) -> State:
        """How the batcher is."""
        return self._state

    def become(self, state: State, ready_in_seconds: float | None = None) -> None:
        """It is so from now on. What shuts down stays so until it is dead, and that for good."""
        with self._changed:
            if self._state != "dead" and (self._state != "draining" or state == "dead"):
                self._state = state
                self._ready_at = None if ready_in_seconds is None else self._clock() + ready_in_seconds
            self._changed.notify_all()

    def wait_while(self, states: Iterable[State], seconds: float | None = None) -> State:
        """The state after these, or after so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._state not in states, seconds)
            return self._state

    def check_ready(self) -> None:
        """Raises NotReadyError, with when to come again, unless jobs are taken."""
        with self._changed:
            left = None if self._ready_at is None else self._ready_at - self._clock()
            check_ready(self._state, max(1.0, left) if left is not None and left > 0 else None)

    def check(self) -> None:
        """Raises NotReadyError, BusyError where no job at all would be taken; waits for nothing."""
        with self._changed:
            self.check_ready()
            self._ledger.check_room(self._clock())

    def take(self, orders: Sequence[Order]) -> list[str]:
        """The ids of these jobs, which are all taken; as `Batcher.submit`."""
        with self._changed:
            self.check_ready()
            now = self._clock()
            new = {
                uuid.uuid4().hex: Ticket(one.job, one.deliver, now - one.waited_seconds, one.outlook) for one in orders
            }
            self._ledger.take(new, now)
            self._arrived += new
            self._changed.notify_all()
            return list(new)

    def cancel(self, job_id: str) -> None:
        """Let it be stopped, if it has not ended."""
        with self._changed:
            if job_id in self._ledger.tickets:
                self._cancelled.append(job_id)
                self._changed.notify_all()

    def wake(self) -> None:
        """There is something else to be done: who collects waits no longer."""
        with self._changed:
            self._is_woken = True
            self._changed.notify_all()

    def collect(self, *, waits: bool, closing: threading.Event) -> Arrivals:
        """What has come, for the device's thread; if it `waits`, not before there is something, or it is closing time.

        From then on the thread is busy until it collects again.
        """
        with self._changed:
            self._busy_since = None
            if self._state == "hung":
                log.warning("the device has ended its step, and takes jobs again")
                self.become("ready")
            while waits and not (self._arrived or self._cancelled or self._is_woken or closing.is_set()):
                self._changed.wait()
            self._is_woken = False
            tickets = self._ledger.tickets
            jobs = {job_id: tickets[job_id] for job_id in self._arrived if job_id in tickets}
            arrivals = Arrivals(jobs, tuple(self._cancelled))
            self._arrived, self._cancelled = [], []
            self._busy_since = self._clock()
            return arrivals

    def tell(self, job_id: str, event: Event) -> None:
        """An event of a job, to who listens; of one that has ended it is told to nobody."""
        with self._changed:
            told = self._ledger.tell(job_id, event, self._clock())
            if told is None:
                return
            ticket, event = told
            try:
                ticket.deliver(event)
            except Exception:  # whatever a listener raises is its own: it hears no more, and the thread lives
                log.exception("job %s could not deliver %s", job_id, type(event).__name__)
                self.cancel(job_id)

    def end_late(self) -> None:
        """Jobs whose deadline is over hear so, and are stopped."""
        with self._changed:
            late = self._ledger.overdue(self._clock())
            self._cancelled += late
        for job_id, seconds in late.items():
            self.tell(job_id, Failed(DeadlineError(seconds)))

    def let_go(self, job_id: str) -> None:
        """The device does nothing more for a job that has ended."""
        with self._changed:
            self._ledger.let_go(job_id)

    def end_all(self, error: Callable[[], Exception]) -> None:
        """All jobs fail, each by an error of its own, and are stopped."""
        with self._changed:
            left = self._give_up()
        self._fail(left, error)

    def stepped(self, num_images: int) -> None:
        """A network call of so many images was made."""
        with self._changed:
            self._ledger.stepped(num_images)

    def end_hung(self, step_seconds: float) -> None:
        """If the device's thread is busy for so long, it hangs: all jobs fail, and none is taken until it collects."""
        with self._changed:
            since = self._busy_since
            if self._state != "ready" or since is None or self._clock() - since < step_seconds:
                return
            self.become("hung")
            left = self._give_up()
        log.critical("the device hangs: it has not ended its step within %g s", step_seconds)
        self._fail(left, lambda: JobFailedError(f"the device has not ended its step within {step_seconds:g} s"))

    def restarted(self) -> None:
        """The device thread is started again, and has nothing to stop."""
        with self._changed:
            self._ledger.restarted()
            self._cancelled, self._busy_since = [], None

    def runs_on(self, device: str) -> None:
        """Costs are guessed for this type of device, as long as nothing was seen."""
        with self._changed:
            self._ledger.costs = self._ledger.costs.on(device)

    def numbers(self) -> Numbers:
        """A snapshot."""
        with self._changed:
            return self._ledger.numbers()

    def _give_up(self) -> list[str]:
        """All jobs, which are to be stopped."""
        left = list(self._ledger.tickets)
        self._cancelled += left
        return left

    def _fail(self, job_ids: Iterable[str], error: Callable[[], Exception]) -> None:
        for job_id in job_ids:
            try:
                self.tell(job_id, Failed(error()))
            except Exception:  # whatever went wrong with this one, the others are to hear of their end
                log.exception("job %s could not be told that it failed", job_id)
