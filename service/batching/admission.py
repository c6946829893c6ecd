"""Whether a job can be done in time, from predicted seconds: a pure function of plain data.

Jobs that run have equal parts of the device (`policy`), those that wait take the places that become free, in order of
arrival. So it can be told when each ends, if nobody else comes. A job that comes is refused

    if it would not be done by its deadline,
    or if by its coming another might not that could have been: what was promised is kept.

Newcomers use up what slack there is, and at last each job would end just when it must. So deadlines here are somewhat
earlier than the clients' (`ledger`), and who is late by them, but not yet by its client's, is put off by nobody.

Who is taken up to what predictions allow is late whenever those were too low. So seconds count times a caution, which
grows when a job that was promised in time is late, and shrinks a little when one is not: one in twenty is late.

An idle device takes any job. Predictions may be wrong, and who never tries never learns: a job that seems to take
longer than its deadline is told to come back when the device is idle, and not that its deadline cannot be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_RETRY_SECONDS = 1.0
FIRST_CAUTION, MOST_CAUTION = 1.25, 4.0
AFTER_LATE, AFTER_IN_TIME = 1.2, 0.99  # factors; they balance at one late job in twenty


@dataclass(frozen=True)
class Claim:
    """A job that is not done."""

    left_seconds: float  # of the device
    deadline_seconds: float | None = None  # from now on
    last_seconds: float | None = None  # a later one, until which it is of use; None: there is none


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


def seconds_until_taken(new: Claim, taken: Sequence[Claim], places: int, caution: float = 1.0) -> float | None:
    """None: it is taken now. Else after how many seconds it would be, if nobody else comes."""
    if not taken or all(claim.deadline_seconds is None for claim in (new, *taken)):
        return None
    before, after = ends(taken, places), ends([*taken, new], places)
    ended = zip(taken, before, after, strict=False)
    waits = [end for claim, end, later in ended if later > end and _is_harmed(claim, end, later * caution)]
    if new.deadline_seconds is not None and not is_in_time(new, after[-1] * caution):
        is_hopeless = not is_in_time(new, new.left_seconds * caution)
        waits.append(max(before) if is_hopeless else after[-1] - new.deadline_seconds / caution)
    return max(LEAST_RETRY_SECONDS, *waits) if waits else None


def is_in_time(claim: Claim, end_seconds: float) -> bool:
    """Whether it has no deadline, or one after that."""
    return claim.deadline_seconds is None or end_seconds <= claim.deadline_seconds


def _is_harmed(claim: Claim, end_seconds: float, later_seconds: float) -> bool:
    """Whether it can be done in time, and by who puts it off perhaps no more."""
    last = claim.deadline_seconds if claim.last_seconds is None else claim.last_seconds
    return (last is None or end_seconds <= last) and not is_in_time(claim, later_seconds)


def learned(caution: float, *, is_late: bool) -> float:
    """What caution is to be after a job that was promised in time."""
    return min(MOST_CAUTION, caution * AFTER_LATE) if is_late else max(1.0, caution * AFTER_IN_TIME)
