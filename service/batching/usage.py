"""What a job has had of the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Usage:
    """Grows while the job runs. Its runner writes it; whoever else looks sees a recent value."""

    seconds: float = 0.0  # of the device's thread; of a call that served several jobs its part, by rows
    num_calls: int = 0
    has_begun: bool = False


def parts(
    seconds: float,
    num_rows: Sequence[int],  # of each call
) -> list[float]:
    """The part of each call in the seconds of a step that they shared; they sum up to them."""
    total = sum(num_rows)
    if not total:
        return [seconds / len(num_rows) for _ in num_rows]
    return [seconds * rows / total for rows in num_rows]
