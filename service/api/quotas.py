"""What each key may do: so many requests in a minute, so many jobs at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.errors import InputError, LimitError

FIRST_GUESS_SECONDS = 10.0  # of a job, before one of this key has ended
NEW_JOB_WEIGHT = 0.2  # of the newest job in the running mean


@dataclass
class _Use:
    """What one key has done."""

    tokens: float
    since: float  # when these were counted
    begun: list[float] = field(default_factory=list)  # of its jobs that run, the earliest first
    mean_seconds: float = FIRST_GUESS_SECONDS


class Quotas:
    """Counts by tenant; the one without a name has no limits, for it is everybody. 0 is no limit."""

    def __init__(self, *, jobs: int, requests_per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`requests_per_minute` may come at once; then they come back one by one, evenly."""
        self._jobs = jobs
        self._requests = requests_per_minute
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    def spend(self, tenant: str) -> None:
        """One request. LimitError says when there is one again."""
        if not tenant or not self._requests:
            return
        use, now, per_second = self._use(tenant), self._clock(), self._requests / 60
        use.tokens = min(self._requests, use.tokens + (now - use.since) * per_second)
        use.since = now
        if use.tokens < 1:
            reason = f"this key may send {self._requests} requests in a minute"
            raise LimitError((1 - use.tokens) / per_second, reason)
        use.tokens -= 1

    @contextmanager
    def jobs(self, tenant: str, num_jobs: int) -> Iterator[None]:
        """So many of one request, while they run. LimitError says when enough of this key's others have probably ended.

        How long jobs take is learned from those that end well: one that is refused, or left, takes no time.

        Raises:
            LimitError: they are too many beside the others.
            InputError: they are too many by themselves.
        """
        if not tenant or not self._jobs:
            yield
            return
        use, now = self._use(tenant), self._clock()
        if num_jobs > self._jobs:
            raise InputError(
                "n", f"must be at most {self._jobs}, the jobs that a key may run at a time, got {num_jobs}"
            )
        num_over = len(use.begun) + num_jobs - self._jobs
        if num_over > 0:
            left = use.mean_seconds - (now - use.begun[num_over - 1])
            raise LimitError(max(1.0, left), f"this key may run {self._jobs} jobs at a time")
        use.begun += [now] * num_jobs
        try:
            yield
            use.mean_seconds += NEW_JOB_WEIGHT * (self._clock() - now - use.mean_seconds)
        finally:
            for _ in range(num_jobs):
                use.begun.remove(now)

    def _use(self, tenant: str) -> _Use:
        return self._uses.setdefault(tenant, _Use(self._requests, self._clock()))
