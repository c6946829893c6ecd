"""What a batcher has done and has to do, for those who watch it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

End = Literal["done", "failed", "cancelled"]


@dataclass(frozen=True)
class Numbers:
    """A snapshot. Counts only grow, also over restarts of the device thread; the first three are how things are now."""

    queued_jobs: int  # taken, and waiting for a place
    running_jobs: int
    queue_seconds: float  # predicted: until all taken jobs have ended
    num_restarts: int  # of the device thread
    num_refused: int  # jobs that were not taken: too many were there, or the deadline could not be met
    ended_jobs: Mapping[End, int]
    steps_by_images: Mapping[int, int]  # network calls by the images that they held
    num_predicted: int  # jobs that were done and whose seconds had been predicted
    error_seconds: float  # summed over those: by how much the prediction was wrong, either way
