"""How long a job may take at most: what its request said, and what the service says to all."""

from __future__ import annotations

from dataclasses import dataclass, replace

from service.errors import InputError
from service.jobs import Job


@dataclass(frozen=True)
class Deadlines:
    """Of the jobs of one service."""

    most_seconds: float  # 0 = no limit

    def bounded(self, job: Job) -> Job:
        """The job; without a deadline of its own it has the longest. InputError where its own is longer."""
        if not self.most_seconds:
            return job
        if job.deadline_seconds is None:
            return replace(job, deadline_seconds=self.most_seconds)
        if job.deadline_seconds > self.most_seconds:
            most, got = self.most_seconds, job.deadline_seconds
            raise InputError("deadline_seconds", f"must be at most {most:g} here, got {got:g}")
        return job
