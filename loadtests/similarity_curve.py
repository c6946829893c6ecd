"""What thresholds of likeness are worth: sums over the cells between them, as `loadtests.similarity` explains."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.catalog import Nearness

SIMILARITIES = (0.95, 0.9, 0.8, 0.6)
CHANGED_WORDS = (2, 4, 6, 9)
LEAST_EDGE = 0.8  # what the model's own gate asks of edits that name their source

Cell = tuple[float, int]  # the strictest thresholds that admit it
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """A recorded prompt beside the one that is asked for."""

    source_prompt: str
    prompt: str
    similarity: float
    num_changed: int

    @property
    def cell(self) -> Cell | None:
        """None where no threshold admits it."""
        similarities = [least for least in SIMILARITIES if self.similarity >= least]
        words = [most for most in CHANGED_WORDS if self.num_changed <= most]
        return (similarities[0], words[0]) if similarities and words else None


@dataclass(frozen=True)
class Measured:
    """A pair edited there and back: means of the two."""

    found: Found
    success: float
    dense_success: float
    edit_seconds: float
    dense_seconds: float

    @property
    def cell(self) -> Cell:
        """Of the thresholds."""
        if self.found.cell is None:
            raise ValueError("found must be admitted by a threshold")
        return self.found.cell

    @property
    def values(self) -> Floats:  # [4]
        """Success, the drawing's success, and parts of a drawing's seconds: saved, and left when failures are redrawn.

        An edit that succeeds where the drawing does not counts against one that is the other way around.
        """
        saved = 1 - self.edit_seconds / self.dense_seconds
        return np.array([self.success, self.dense_success, saved, saved - (self.dense_success - self.success)])


def chosen(looked_at: Sequence[Found], nearness: Nearness) -> Found | None:
    """The source that the catalog takes."""
    for found in looked_at:
        if found.similarity >= nearness.min_similarity and found.num_changed <= nearness.max_changed_words:
            return found
    return None


def curve(stream: Sequence[Sequence[Found]], measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """A row for each of the thresholds, the strictest first."""
    means, counts, deviations = cell_means(measured)
    dense_seconds = float(np.mean([each.dense_seconds for each in measured]))
    rows = []
    for min_similarity, max_changed_words in product(SIMILARITIES, CHANGED_WORDS):
        nearness = Nearness(min_similarity, max_changed_words)
        sources = [found for found in (chosen(looked_at, nearness) for looked_at in stream) if found]
        edits = Counter(found.cell for found in sources if found.cell and found.source_prompt != found.prompt)
        num_repeats, num_edits = len(sources) - edits.total(), edits.total()
        sums = sum((number * means[cell] for cell, number in edits.items()), np.zeros(4))
        squares = sum(number**2 / max(1, counts[cell]) for cell, number in edits.items())
        errors = deviations * np.sqrt(squares)
        success, dense_success, success_error = (np.array([*sums[:2], errors[0]]) / max(1, num_edits)).tolist()
        saved, net, saved_error, net_error = (
            np.array([num_repeats + sums[2], num_repeats + sums[3], *errors[2:]]) / len(stream)
        ).tolist()
        rows.append({
            "min_similarity": min_similarity,
            "max_changed_words": max_changed_words,
            "hit_ratio": len(sources) / len(stream),
            "repeats": num_repeats,
            "edits": num_edits,
            "sampled": sum(counts[cell] for cell in edits),
            "success": success,
            "success_error": success_error,
            "dense_success": dense_success,
            "saved": saved,
            "saved_error": saved_error,
            "saved_seconds": saved * len(stream) * dense_seconds,
            "net": net,
            "net_error": net_error,
            "edge": min(
                part_of_drawings({cell: edits[cell] for cell in edits if cell[0] == min_similarity}, means),
                part_of_drawings({cell: edits[cell] for cell in edits if cell[1] == max_changed_words}, means),
            ),
        })  # fmt: skip
    return rows


def cell_means(measured: Sequence[Measured]) -> tuple[Mapping[Cell, Floats], Counter[Cell], Floats]:
    """Means of `values` by cell (of all, where a cell has none), numbers of pairs, and deviations within cells."""
    cells: dict[Cell, list[Floats]] = defaultdict(list)
    for each in measured:
        cells[each.cell].append(each.values)
    overall: Floats = np.mean([each.values for each in measured], 0)
    means = defaultdict(lambda: overall, {cell: np.mean(values, 0) for cell, values in cells.items()})
    within = sum((np.square(each.values - means[each.cell]) for each in measured), np.zeros(4))
    counts = Counter(each.cell for each in measured)
    return means, counts, np.sqrt(within / max(1, len(measured) - len(cells)))


def part_of_drawings(edits: Mapping[Cell, int], means: Mapping[Cell, Floats]) -> float:
    """Success of edits that fall into cells so often, as a part of their drawings' success; 1 of no edits."""
    success, dense_success, *_ = sum((number * means[cell] for cell, number in edits.items()), np.zeros(4)).tolist()
    return float(success / dense_success) if dense_success else 1.0


def default_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The default by the rule above; where nothing is good enough, the strictest."""
    return max((row for row in rows if row["edge"] >= LEAST_EDGE), key=lambda row: row["net"], default=rows[0])


def cell_rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """What was measured, by cell."""
    means, counts, _ = cell_means(measured)
    names = ("success", "dense_success", "saved", "net")
    return [
        {"min_similarity": cell[0], "max_changed_words": cell[1], "pairs": counts[cell]}
        | dict(zip(names, np.round(means[cell], 3).tolist(), strict=True))
        for cell in sorted(counts, key=lambda cell: (-cell[0], cell[1]))
    ]
