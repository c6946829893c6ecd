"""The jobs that a batcher has taken and that have not ended, and what the others have shown."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from service.batching.admission import (
    FIRST_CAUTION,
    Claim,
    ends,
    is_fair,
    is_in_time,
    learned,
    seconds_until_free,
    weigh,
)
from service.batching.costs import Costs, Outlook
from service.batching.numbers import End, Numbers
from service.batching.usage import Usage
from service.errors import BusyError, DeadlineError, InputError
from service.jobs import EditJob, Ending, Event, Failed, Job, MaskFound, Receipt

log = logging.getLogger(__name__)

PROMISED = 0.9  # of a deadline: the rest is for what is not the device's, the request's way and the answer's

Deliver = Callable[[Event], None]  # called in a thread of the batcher; must not block


@dataclass
class Ticket:
    """A job that has been taken and has not ended."""

    job: Job
    deliver: Deliver
    since: float  # of the batcher's clock
    outlook: Outlook | None  # None: nothing is known of it; of a dry run that of the whole edit
    mask: MaskFound | None = None
    mask_calls: int = 0  # after so many it was found
    predicted_seconds: float | None = None  # of the device, when it was taken; None: it could not be told
    share: float = 0.0  # of the device, that its deadline asked for then
    caution: float | None = None  # when it was taken; None: its deadline is not fair, or gave way to others
    is_promised: bool = False  # in time, with that caution
    usage: Usage = field(default_factory=Usage)

    @property
    def is_dry(self) -> bool:
        """Whether it ends with its mask."""
        return isinstance(self.job, EditJob) and self.job.dry_run

    @property
    def known(self) -> Outlook | None:
        """What is known of its calls by now; of a dry run those of the whole edit."""
        if self.mask is None or self.outlook is None:
            return self.outlook
        return self.outlook.found(self.mask, self.mask_calls)

    @property
    def own(self) -> Outlook | None:
        """The same of those that it makes; a dry run those that detect."""
        known = self.known
        return known.detection if known and self.is_dry else known

    def left_seconds(self, costs: Costs) -> float:
        """Of the device, until it is done."""
        own = self.own
        if own is None:
            return costs.seconds(None, self.usage.seconds)
        return costs.seconds(own.after(self.usage.num_calls))

    def left_deadline(self, now: float, part: float = 1.0) -> float | None:
        """Seconds until its deadline, or this part of it, is over."""
        return None if self.job.deadline_seconds is None else self.since + part * self.job.deadline_seconds - now

    def claim(self, costs: Costs, now: float) -> Claim:
        """As admission sees it."""
        deadlines = self.left_deadline(now, PROMISED), self.left_deadline(now)
        return Claim(self.left_seconds(costs), *deadlines, self.share, self.job.tenant, self.usage.has_begun)


class Ledger:
    """What was taken, refused and done. Not thread-safe: its batcher guards it."""

    def __init__(self, max_jobs: int, running_jobs: int) -> None:
        self.tickets: dict[str, Ticket] = {}  # in order of arrival
        self._stopped: dict[str, Ticket] = {}  # of jobs that have ended, but not by themselves
        self.costs = Costs()
        self._max_jobs = max_jobs
        self._running_jobs = running_jobs
        self._caution = FIRST_CAUTION
        self._num_refused = 0
        self._num_restarts = 0
        self._ended: Counter[End] = Counter()
        self._steps: Counter[int] = Counter()
        self._num_predicted = 0
        self._error_seconds = 0.0

    def check_room(self, now: float, num_jobs: int = 1) -> None:
        """InputError if so many may never be here; BusyError while there is no room for so many."""
        if num_jobs > self._max_jobs:
            raise InputError(
                "n", f"must be at most {self._max_jobs}, the jobs that are taken at a time, got {num_jobs}"
            )
        num_over = len(self.tickets) + num_jobs - self._max_jobs
        if num_over > 0:
            wait = seconds_until_free(self._claims(now), self._running_jobs, num_over)
            self._refuse(num_jobs, wait, "the queue is full")

    def take(self, new: Mapping[str, Ticket], now: float) -> None:
        """The jobs of one request: all of them are here from now on, or, if one or another would be too late, none.

        Raises:
            BusyError, InputError: none is.
        """
        self.check_room(now, len(new))
        claims = [self._reckoned(ticket, now) for ticket in new.values()]
        taken = list(self.tickets.values())
        verdict = weigh(claims, self._claims(now), self._running_jobs, self._caution)
        if verdict.retry_after_seconds is not None:
            self._refuse(len(new), verdict.retry_after_seconds, "it would be done too late, or make others late")
        for number in verdict.put_off:
            taken[number].caution = None
        for ticket, claim, end in zip(new.values(), claims, ends(claims, self._running_jobs), strict=True):
            if is_fair(claim):
                ticket.caution = self._caution
                ticket.is_promised = is_in_time(claim, end * self._caution)
        self.tickets.update(new)

    def tell(self, job_id: str, event: Event, now: float) -> tuple[Ticket, Event] | None:
        """An event of a job; who is to hear of it, and as what. None: the job has ended before."""
        ticket = self.tickets.get(job_id)
        if ticket is None:
            return None
        if isinstance(event, MaskFound):
            ticket.mask, ticket.mask_calls = event, ticket.usage.num_calls
        if isinstance(event, Ending):
            del self.tickets[job_id]
            self._ended[_end(event)] += 1
            self._learn_caution(ticket, event, now)
            if isinstance(event, Receipt):
                event = self._learned(ticket, event)
            else:
                self._stopped[job_id] = ticket
        return ticket, event

    def let_go(self, job_id: str) -> None:
        """The device does nothing more for a job that has ended: what it did for one that was stopped is learned."""
        ticket = self._stopped.pop(job_id, None)
        if ticket is not None:
            with _no_defects():
                self.costs = self.costs.learned_from_part(ticket.own, ticket.usage)

    def _learn_caution(self, ticket: Ticket, event: Ending, now: float) -> None:
        if ticket.caution is None or not _has_run(event):
            return
        is_late = (ticket.left_deadline(now, PROMISED) or 0.0) < 0
        if ticket.is_promised or not is_late:
            self._caution = learned(self._caution, ticket.caution, is_late=is_late)

    def overdue(self, now: float) -> dict[str, float]:
        """Jobs whose deadline is over, and how many seconds that was."""
        late = {}
        for job_id, ticket in self.tickets.items():
            left = ticket.left_deadline(now)
            if left is not None and left <= 0:
                late[job_id] = ticket.job.deadline_seconds or 0.0
        return late

    def stepped(self, num_images: int) -> None:
        """A network call of so many images was made."""
        self._steps[num_images] += 1

    def restarted(self) -> None:
        """The device thread is started again; what the last one stopped has shown nothing."""
        self._stopped.clear()
        self._num_restarts += 1

    def numbers(self) -> Numbers:
        """A snapshot."""
        num_running = sum(ticket.usage.has_begun for ticket in self.tickets.values())
        return Numbers(
            queued_jobs=len(self.tickets) - num_running,
            running_jobs=num_running,
            queue_seconds=sum(ticket.left_seconds(self.costs) for ticket in self.tickets.values()),
            num_restarts=self._num_restarts,
            num_refused=self._num_refused,
            ended_jobs=dict(self._ended),
            steps_by_images=dict(self._steps),
            num_predicted=self._num_predicted,
            error_seconds=self._error_seconds,
        )

    def _claims(self, now: float) -> list[Claim]:
        return [ticket.claim(self.costs, now) for ticket in self.tickets.values()]

    def _reckoned(self, ticket: Ticket, now: float) -> Claim:
        """What a job that comes will take, and what part of the device its deadline asks for."""
        claim = ticket.claim(self.costs, now)
        ticket.predicted_seconds = None if ticket.outlook is None else claim.left_seconds
        if claim.deadline_seconds:
            ticket.share = claim.left_seconds / claim.deadline_seconds
        return ticket.claim(self.costs, now)

    def _refuse(self, num_jobs: int, retry_after_seconds: float, reason: str) -> None:
        self._num_refused += num_jobs
        raise BusyError(retry_after_seconds, reason)

    def _learned(self, ticket: Ticket, receipt: Receipt) -> Receipt:
        """What it has shown; the receipt of a dry run says what the whole edit would take."""
        with _no_defects():
            outlook = ticket.outlook
            if outlook and ticket.is_dry:
                outlook = outlook.detection
            self.costs = self.costs.learned(outlook, ticket.mask, receipt, ticket.usage)
            if ticket.predicted_seconds is not None:
                self._num_predicted += 1
                self._error_seconds += abs(ticket.predicted_seconds - ticket.usage.seconds)
            if ticket.is_dry and ticket.known is not None:
                return replace(receipt, predicted_seconds=self.costs.seconds(ticket.known))
        return receipt


@contextmanager
def _no_defects() -> Iterator[None]:
    """One of predictions must end no job, and no thread that tells of its end."""
    try:
        yield
    except Exception:  # whatever it is: predictions stay as they were
        log.exception("what a job took could not be learned")


def _has_run(event: Ending) -> bool:
    """To its end, or to its deadline."""
    return isinstance(event, Receipt) or (isinstance(event, Failed) and isinstance(event.error, DeadlineError))


def _end(event: Ending) -> End:
    if isinstance(event, Receipt):
        return "done"
    return "failed" if isinstance(event, Failed) else "cancelled"
