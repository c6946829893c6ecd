"""What edits took, way by way, and by how much one way is faster than drawing the picture again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

STAGES = ("encode", "detect", "denoise", "decode")


class Timings:
    """What some edits took, way by way."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.stages: dict[str, list[float]] = defaultdict(list)
        self.ratios: list[float] = []
        self.new: list[float] = []  # seconds of first edits, on a GPU

    def add(self, seconds: Mapping[str, float], stages: Mapping[str, float], edited_ratio: float) -> None:
        """One edit."""
        for name, value in seconds.items():
            self.seconds[name].append(value)
        for stage in STAGES:
            self.stages[stage].append(stages.get(stage, 0.0))
        self.ratios.append(edited_ratio)

    def summary(self, compared: Sequence[str]) -> dict[str, Any]:
        """Medians; `compared` with drawing it again, ours or diffusers', whichever is faster."""
        dense = np.minimum(self.seconds["dense"], self.seconds["diffusers"])
        return {
            "edited_ratio": round(float(np.mean(self.ratios)), 3),
            "seconds": {name: spread(values) for name, values in self.seconds.items()},
            "stages": {name: spread(values)["median"] for name, values in self.stages.items()},
            "speedup": {name: spread(dense / np.array(self.seconds[name])) for name in compared},
            "new": [round(seconds, 3) for seconds in self.new],
        }


def spread(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = (round(float(value), 3) for value in np.quantile(values, [0.25, 0.5, 0.75]))
    return {"median": median, "low": low, "high": high}
