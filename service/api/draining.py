"""The end of a service: no new jobs, and a while for those that run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import NotReadyError

CUT_OFF = "the service was shut down before the job was done"


class Drain:
    """Whether jobs are taken, and how many run. `begin` may be called by a signal handler."""

    def __init__(self) -> None:
        self.is_begun = False
        self.num_jobs = 0

    def begin(self) -> None:
        """Take no more jobs."""
        self.is_begun = True

    def check(self) -> None:
        """NotReadyError when it has begun."""
        if self.is_begun:
            raise NotReadyError("the service is shutting down")

    @contextmanager
    def job(self) -> Iterator[None]:
        """One job while it runs. NotReadyError where none is taken any more."""
        self.check()
        self.num_jobs += 1
        try:
            yield
        finally:
            self.num_jobs -= 1
