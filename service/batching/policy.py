"""What the device does next: a pure function of plain data.

Every running job waits for exactly one network call. Calls of equal shape may share one device step, so that a step
serves many jobs. Two rules:

    admit   the longest waiting jobs first, as long as places are free; newcomers then take part in the next step
    step    the call that has waited for the most steps, and of its shape as many more as fit

No call starves: one that is passed over has waited a step longer, so after at most as many steps as there are running
jobs it is the first, and the first is always served, however large it is.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What the device can hold."""

    running_jobs: int = 8  # each holds its latents, its text and what it records
    step_images: int = 16  # images of one network call; the two branches of guidance are two images


@dataclass(frozen=True)
class PendingCall:
    """A running job's next network call, as far as the decision needs it."""

    job_id: str
    shape_key: Hashable  # calls with equal keys may share a network call
    num_images: int
    waited_steps: int = 0  # device steps that served others meanwhile


@dataclass(frozen=True)
class Decision:
    """Jobs to admit; or, if there are none, the jobs whose calls are the next device step."""

    admit: tuple[str, ...] = ()
    step: tuple[str, ...] = ()


def decide(
    waiting: Sequence[str],  # ids of jobs that have not begun, in order of arrival
    pending: Sequence[PendingCall],  # one per running job, in order of admission
    limits: Limits,
) -> Decision:
    """What to do next; an empty decision means that there is nothing to do."""
    free = max(0, limits.running_jobs - len(pending))
    if admit := tuple(waiting[:free]):
        return Decision(admit=admit)
    return Decision(step=tuple(call.job_id for call in _share(pending, limits.step_images)))


def _share(pending: Sequence[PendingCall], step_images: int) -> list[PendingCall]:
    """The longest waiting call, and of its shape what fits beside it, the longer waiting first."""
    chosen: list[PendingCall] = []
    num_images = 0
    for call in sorted(pending, key=lambda call: -call.waited_steps):  # stable: ties go by order of admission
        fits = not chosen or (call.shape_key == chosen[0].shape_key and num_images + call.num_images <= step_images)
        if fits:
            chosen.append(call)
            num_images += call.num_images
    return chosen
