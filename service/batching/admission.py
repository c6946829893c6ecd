"""Whether jobs can be done in time, from predicted seconds: a pure function of plain data.

Jobs that run have equal parts of the device, those that wait take the places that become free (`policy`). So it can be
told when each ends, if nobody else comes. Jobs that come, all of one request, are refused

    if they would not be done by their deadline,
    or if by their coming another might not that could have been: what was promised is kept.

Newcomers use up what slack there is, and at last each job would end just when it must. So deadlines here are somewhat
earlier than the clients' (`ledger`), and who is late by them, but not yet by its client's, is put off by nobody.

Nobody is promised more than a fair part of the device, else a few hasty jobs would shut out all others. A deadline that
asks for more than half of the device is its client's risk: the job is taken if it can be done in time, but whoever
comes may put it off. And what the deadlines of one tenant ask for together, beyond an equal part, gives way to the jobs
of others.

Who is taken up to what predictions allow is late whenever those were too low. So seconds count times a caution, which
grows when a job that was promised in time is late, and shrinks a little when a fair one is not, promised or not. Jobs
that are late together say it once: caution becomes what it was when they were taken, and a step more. One lesson may be
many late jobs; so it shrinks slowly, and there is one lesson in ninety jobs.

An idle device takes any job. Predictions may be wrong, and who never tries never learns: a job that seems to take
longer than its deadline is told to come back when the device is idle, and not that its deadline cannot be.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

from service.batching.policy import next_tenant

LEAST_RETRY_SECONDS = 1.0
RETRY_PRECISION = 0.1  # of a wait; and no finer than the least
MOST_SHARE = 0.5  # of the device, that a job is promised
FIRST_CAUTION, MOST_CAUTION = 1.25, 2.0  # with the most a fair job alone is still promised
AFTER_LATE, AFTER_IN_TIME = 1.2, 0.998  # factors; they balance at one lesson in ninety jobs


@dataclass(frozen=True)
class Claim:
    """A job that is not done."""

    left_seconds: float  # of the device
    deadline_seconds: float | None = None  # from now on
    last_seconds: float | None = None  # a later one, until which it is of use; None: there is none
    share: float = 0.0  # of the device, that its deadline asked for when it came; without one nothing is promised
    tenant: str = ""
    has_begun: bool = False


@dataclass(frozen=True)
class Verdict:
    """On jobs that come."""

    retry_after_seconds: float | None = None  # None: they are taken; else they would be then, if nobody else comes
    put_off: tuple[int, ...] = ()  # of those that were taken before: who gives way, and might be late by it


class _Course:
    """How jobs go on, if nobody else comes. Those that run have equal parts: each ends when one part is as it needs."""

    def __init__(self, claims: Sequence[Claim], places: int) -> None:
        """`claims` in order of arrival; so many run at a time."""
        self.now = 0.0
        self.part = 0.0  # seconds of the device that each has had who ran from the begin on
        self.running = [(claim.left_seconds, job) for job, claim in enumerate(claims) if claim.has_begun]
        heapify(self.running)  # jobs, and which part each ends at
        self._claims = claims
        self._num_running = Counter(claims[job].tenant for _, job in self.running)
        self._places = places
        self._waiting: dict[str, deque[int]] = defaultdict(deque)
        for job, claim in enumerate(claims):
            if not claim.has_begun:
                self._waiting[claim.tenant].append(job)
        self._fill()

    def advance(self, most_seconds: float = math.inf) -> list[int]:
        """On until the first of those that run ends, but no longer than this; who has ended."""
        part = min(self.running[0][0], self.part + most_seconds / len(self.running))
        self.now += (part - self.part) * len(self.running)
        self.part = part
        ended = []
        while self.running and self.running[0][0] <= part:
            ended.append(heappop(self.running)[1])
        self._num_running.subtract(self._claims[job].tenant for job in ended)
        self._fill()
        return ended

    def _fill(self) -> None:
        while len(self.running) < self._places:
            heads = {tenant: jobs[0] for tenant, jobs in self._waiting.items() if jobs}
            tenant = next_tenant(heads, self._num_running, self._places)
            if tenant is None:
                return
            job = self._waiting[tenant].popleft()
            heappush(self.running, (self.part + self._claims[job].left_seconds, job))
            self._num_running[tenant] += 1


def ends(
    claims: Sequence[Claim],  # in order of arrival
    places: int,  # jobs that run at a time
) -> list[float]:
    """In how many seconds each will have ended."""
    course, ended = _Course(claims, places), [0.0] * len(claims)
    while course.running:
        for job in course.advance():
            ended[job] = course.now
    return ended


def later(claims: Sequence[Claim], places: int, seconds: float) -> list[Claim]:
    """What they will be after so long."""
    course, ended = _Course(claims, places), set[int]()
    while course.running and course.now < seconds:
        gone = course.advance(seconds - course.now)
        if not gone:  # it is so late now, up to rounding
            break
        ended.update(gone)
    running = {job: end - course.part for end, job in course.running}
    return [
        replace(
            claim,
            left_seconds=running.get(job, claim.left_seconds),
            deadline_seconds=_less(claim.deadline_seconds, seconds),
            last_seconds=_less(claim.last_seconds, seconds),
            has_begun=job in running,
        )
        for job, claim in enumerate(claims)
        if job not in ended
    ]


def seconds_until_free(claims: Sequence[Claim], places: int, num_jobs: int = 1) -> float:
    """Until so many of all jobs have ended."""
    return max(LEAST_RETRY_SECONDS, sorted(ends(claims, places))[num_jobs - 1])


def weigh(new: Sequence[Claim], taken: Sequence[Claim], places: int, caution: float = 1.0) -> Verdict:
    """On the jobs of one request, which have one deadline and one tenant: all are taken, or none."""
    put_off = _harmless(new, taken, places, caution)
    if put_off is not None:
        return Verdict(put_off=tuple(put_off))
    refused, seconds = 0.0, max(ends(taken, places))  # then the device is idle
    while seconds - refused > max(LEAST_RETRY_SECONDS, RETRY_PRECISION * seconds):
        middle = (refused + seconds) / 2
        if _harmless(new, later(taken, places, middle), places, caution) is None:
            refused = middle
        else:
            seconds = middle
    return Verdict(max(LEAST_RETRY_SECONDS, seconds))


def _harmless(new: Sequence[Claim], taken: Sequence[Claim], places: int, caution: float) -> list[int] | None:
    """Who of those that were taken gives way to the new ones, if these are taken; None: they are not."""
    if not taken or all(claim.deadline_seconds is None for claim in (*new, *taken)):
        return []
    before, after = ends(taken, places), ends([*taken, *new], places)
    if not all(is_in_time(claim, end * caution) for claim, end in zip(new, after[len(taken) :], strict=True)):
        return None
    harmed = [
        job
        for job, claim in enumerate(taken)
        if after[job] > before[job] and _is_harmed(claim, before[job], after[job] * caution)
    ]
    return harmed if all(gives_way(taken[job], new[0], taken) for job in harmed) else None


def is_in_time(claim: Claim, end_seconds: float) -> bool:
    """Whether it has no deadline, or one after that."""
    return claim.deadline_seconds is None or end_seconds <= claim.deadline_seconds


def is_fair(claim: Claim) -> bool:
    """Whether it has a deadline, and asks for some of the device by it, but for no more than a fair part."""
    return claim.deadline_seconds is not None and 0 < claim.share <= MOST_SHARE


def gives_way(claim: Claim, new: Claim, taken: Sequence[Claim]) -> bool:
    """Whether one that was taken has been promised more than is fair, now that this one comes."""
    if claim.share > MOST_SHARE:
        return True
    if claim.tenant == new.tenant:
        return False
    tenants = {new.tenant, *(one.tenant for one in taken)}
    return sum(one.share for one in taken if one.tenant == claim.tenant) > 1 / len(tenants)


def _is_harmed(claim: Claim, end_seconds: float, later_seconds: float) -> bool:
    """Whether it can be done in time, and by who puts it off perhaps no more."""
    last = claim.deadline_seconds if claim.last_seconds is None else claim.last_seconds
    return (last is None or end_seconds <= last) and not is_in_time(claim, later_seconds)


def learned(caution: float, then: float, *, is_late: bool) -> float:
    """What caution is to be after a job with a fair deadline; `then` is what it was when that was taken."""
    if is_late:
        return min(MOST_CAUTION, max(caution, then * AFTER_LATE))
    return max(1.0, caution * AFTER_IN_TIME)


def _less(deadline_seconds: float | None, seconds: float) -> float | None:
    return None if deadline_seconds is None else deadline_seconds - seconds
