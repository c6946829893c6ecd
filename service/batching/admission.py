"""Whether jobs can be done in time, from predicted seconds: a pure function of plain data.

Jobs that run have equal parts of the device (`policy`), those that wait take the places that become free, in order of
arrival. So it can be told when each ends, if nobody else comes. Jobs that come, all of one request, are refused

    if they would not be done by their deadline,
    or if by their coming another might not that could have been: what was promised is kept.

Newcomers use up what slack there is, and at last each job would end just when it must. So deadlines here are somewhat
earlier than the clients' (`ledger`), and who is late by them, but not yet by its client's, is put off by nobody.

Nobody is promised more than a fair part of the device, else a few hasty jobs would shut out all others. A deadline that
asks for more than half of the device is its client's risk: the job is taken if it can be done in time, but whoever
comes may put it off. And what the deadlines of one tenant ask for together, beyond an equal part, gives way to the jobs
of others.

Who is taken up to what predictions allow is late whenever those were too low. So seconds count times a caution, which
grows when a job that was promised in time is late, and shrinks a little when one is not: one in twenty is late. Jobs
that are late together say it once: caution becomes what it was when they were taken, and a step more.

An idle device takes any job. Predictions may be wrong, and who never tries never learns: a job that seems to take
longer than its deadline is told to come back when the device is idle, and not that its deadline cannot be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_RETRY_SECONDS = 1.0
MOST_SHARE = 0.5  # of the device, that a job is promised
FIRST_CAUTION, MOST_CAUTION = 1.25, 4.0
AFTER_LATE, AFTER_IN_TIME = 1.2, 0.99  # factors; they balance at one late job in twenty


@dataclass(frozen=True)
class Claim:
    """A job that is not done."""

    left_seconds: float  # of the device
    deadline_seconds: float | None = None  # from now on
    last_seconds: float | None = None  # a later one, until which it is of use; None: there is none
    share: float = 0.0  # of the device, that its deadline asked for when it came; without one nothing is promised
    tenant: str = ""


@dataclass(frozen=True)
class Verdict:
    """On jobs that come."""

    retry_after_seconds: float | None = None  # None: they are taken; else they would be then, if nobody else comes
    put_off: tuple[int, ...] = ()  # of those that were taken before: who gives way, and might be late by it


def ends(
    claims: Sequence[Claim],  # in order of arrival
    places: int,  # jobs that run at a time
) -> list[float]:
    """In how many seconds each will have ended."""
    left = [claim.left_seconds for claim in claims]
    ended = [0.0] * len(claims)
    waiting, running, now = deque(range(len(claims))), list[int](), 0.0
    while waiting or running:
        while waiting and len(running) < places:
            running.append(waiting.popleft())
        least = min(left[job] for job in running)
        now += least * len(running)
        for job in running:
            ended[job] = now
        running = [job for job in running if left[job] > least]
        for job in running:
            left[job] -= least
    return ended


def seconds_until_free(claims: Sequence[Claim], places: int) -> float:
    """Until the first of all jobs ends."""
    return max(LEAST_RETRY_SECONDS, min(ends(claims, places), default=0.0))


def weigh(new: Sequence[Claim], taken: Sequence[Claim], places: int, caution: float = 1.0) -> Verdict:
    """On the jobs of one request, which have one deadline and one tenant: all are taken, or none."""
    if not taken or all(claim.deadline_seconds is None for claim in (*new, *taken)):
        return Verdict()
    before, after = ends(taken, places), ends([*taken, *new], places)
    harmed = [
        job
        for job, claim in enumerate(taken)
        if after[job] > before[job] and _is_harmed(claim, before[job], after[job] * caution)
    ]
    put_off = [job for job in harmed if gives_way(taken[job], new[0], taken)]
    waits = [before[job] for job in harmed if job not in put_off]
    end, deadline = max(after[len(taken) :]), new[0].deadline_seconds
    if deadline is not None and end * caution > deadline:
        is_hopeless = max(ends(new, places)) * caution > deadline
        waits.append(max(before) if is_hopeless else end - deadline / caution)
    if waits:
        return Verdict(max(LEAST_RETRY_SECONDS, *waits))
    return Verdict(put_off=tuple(put_off))


def is_in_time(claim: Claim, end_seconds: float) -> bool:
    """Whether it has no deadline, or one after that."""
    return claim.deadline_seconds is None or end_seconds <= claim.deadline_seconds


def is_promised(claim: Claim, end_seconds: float) -> bool:
    """Whether its deadline is one, can be kept, and asks for no more than a fair part."""
    return claim.deadline_seconds is not None and claim.share <= MOST_SHARE and is_in_time(claim, end_seconds)


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
    """What caution is to be after a job that was promised in time; `then` is what it was when that was taken."""
    if is_late:
        return min(MOST_CAUTION, max(caution, then * AFTER_LATE))
    return max(1.0, caution * AFTER_IN_TIME)
