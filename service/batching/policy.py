"""What the device does next: a pure function of plain data.

Every running job waits for exactly one network call. Calls of equal shape may share one device step, so that a step
serves many jobs. Three rules:

    admit   as long as places are free, the longest waiting job of the tenant that has the fewest; none with a name has
            all of them. Newcomers then take part in the next step
    step    the call of the job that has had the least of the device, in seconds; but one that was passed over by
            `most_waited_steps` steps is first, whatever it has had
    ride    beside it calls of its shape that compute at most twice its rows, as many as fit

So every running job has the same part of the device: a dense generation is not starved by sparse edits that come and
go, for newcomers begin level with who has had the least; and a sparse edit is not slowed down to the pace of the dense
call beside it, for a large call is no rider of a small one. A small one rides with every larger call, at little cost
to it, and its part of the seconds is charged to it.

No call starves: of those that were passed over by so many steps, the one that has waited longest is served by each
step, so that none waits for more than `most_waited_steps` + `running_jobs` steps.

A job's first calls find its mask, which people wait to see. They come as soon as is fair: a newcomer is level with the
least served. To put them before that would cost others, for such calls are dense ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

RIDER_RATIO = 2  # rows of a call that rides, at most, over rows of that which it rides with


@dataclass(frozen=True)
class Limits:
    """What the device can hold, and how long a call may be passed over."""

    running_jobs: int = 8  # each holds its latents, its text and what it records
    step_images: int = 16  # images of one network call; the two branches of guidance are two images
    most_waited_steps: int = 256  # a guard: turns by seconds starve nobody, and a large call waits for many small ones


@dataclass(frozen=True)
class PendingCall:
    """A running job's next network call, as far as the decision needs it."""

    job_id: str
    shape_key: Hashable  # calls with equal keys may share a network call
    num_images: int
    num_rows: int  # computed at the highest resolution
    had_seconds: float = 0.0  # of the device; `level` when it began
    waited_steps: int = 0  # device steps that served others meanwhile
    tenant: str = ""


@dataclass(frozen=True)
class Decision:
    """Jobs to admit; or, if there are none, the jobs whose calls are the next device step."""

    admit: tuple[str, ...] = ()
    step: tuple[str, ...] = ()


def decide(
    waiting: Mapping[str, str],  # tenants by the ids of jobs that have not begun, in order of arrival
    pending: Sequence[PendingCall],  # one per running job, in order of admission
    limits: Limits,
) -> Decision:
    """What to do next; an empty decision means that there is nothing to do."""
    if admit := tuple(_admitted(waiting, Counter(call.tenant for call in pending), limits.running_jobs)):
        return Decision(admit=admit)
    return Decision(step=tuple(call.job_id for call in _share(pending, limits)))


def next_tenant(
    heads: Mapping[str, int],  # tenants of jobs that wait, with the number of each one's first, by arrival
    running: Counter[str],  # jobs that run, by tenant
    places: int,
) -> str | None:
    """Whose job begins: theirs who have the fewest places, of those the first. None where no place is free for them.

    One place is kept from whoever has all others, so that nobody waits for the end of long jobs of one key. Without
    keys there are no tenants to keep it for: all are the one without a name.
    """
    if running.total() >= places:
        return None
    most = max(1, places - 1)
    may = [
        (running[tenant], number, tenant) for tenant, number in heads.items() if not tenant or running[tenant] < most
    ]
    return min(may)[2] if may else None


def level(before: float, pending: Sequence[PendingCall]) -> float:
    """What a newcomer is taken to have had: as much as the least served in the step before it, which only grows.

    Else it would be owed what others have had. That of the next step is no measure: who was owed something may just
    have ended.
    """
    return max(before, min(call.had_seconds for call in pending))


def _admitted(waiting: Mapping[str, str], running: Counter[str], places: int) -> Iterator[str]:
    """Who begins, one after the other."""
    left = dict(waiting)
    while True:
        heads: dict[str, int] = {}
        for number, its in enumerate(left.values()):
            heads.setdefault(its, number)
        tenant = next_tenant(heads, running, places)
        if tenant is None:
            return
        job_id = next(job_id for job_id, its in left.items() if its == tenant)
        del left[job_id]
        running[tenant] += 1
        yield job_id


def _share(pending: Sequence[PendingCall], limits: Limits) -> list[PendingCall]:
    """The call whose turn it is, and what rides with it, those first whose turn is next."""
    chosen: list[PendingCall] = []
    num_images = 0
    for call in _by_turn(pending, limits.most_waited_steps):
        if not chosen or (_may_ride(call, chosen[0]) and num_images + call.num_images <= limits.step_images):
            chosen.append(call)
            num_images += call.num_images
    return chosen


def _by_turn(pending: Sequence[PendingCall], most_waited_steps: int) -> list[PendingCall]:
    """Overdue calls, the longest waiting first; then by what was had, by steps waited, by order of admission."""

    def turn(call: PendingCall) -> tuple[int, float, int]:
        overdue = call.waited_steps if call.waited_steps >= most_waited_steps else 0
        return -overdue, call.had_seconds, -call.waited_steps

    return sorted(pending, key=turn)  # stable


def _may_ride(call: PendingCall, first: PendingCall) -> bool:
    return call.shape_key == first.shape_key and call.num_rows <= RIDER_RATIO * first.num_rows
