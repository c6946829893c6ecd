"""Who leaves when bytes are needed: who saves the least, by (probability of a hit x seconds saved) / bytes.

The probability is learned, not assumed. A *life* goes from one use of a recording to the next, or to its leaving.
Counted are, by number of uses and age, the seconds waited and the hits: their ratio is the hazard of a hit, the
occurrence/exposure rate of survival analysis. That is the hit density of "LHD: Improving Cache Hit Rate by Maximizing
Hit Density" (Beckmann, Chen, Cidon) in its simplest form. Chains of edits show as a high rate at a low age, popular
pictures as a high rate at many uses, pictures that are looked at once as a low rate at one use. Classes are powers of
two, so there is no half-life and no horizon to tune, and seconds may be any unit.

A rate is an *approximate* probability: that of a hit within a short time, which is the same for all candidates.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

NUM_COUNTS = 16  # classes of uses: 1, 2 to 3, 4 to 7, ... and all from 32768
NUM_AGES = 32  # classes of seconds: below 1, 1 to 2, 2 to 4, ... and all from 34 years
STARTS = np.concatenate([[0.0], np.exp2(np.arange(NUM_AGES - 1))])  # [NUM_AGES] seconds
WIDTHS = np.diff(STARTS)
PRIOR_SECONDS = np.exp2(np.arange(NUM_AGES) - np.arange(NUM_COUNTS)[:, None])  # [NUM_COUNTS, NUM_AGES]
MEMORY_LIVES = 20_000  # after so many, what was learned counts half


@dataclass(frozen=True)
class Uses:
    """The history of one recording; worth keeping as long as its name is known, also without its rows."""

    count: int  # 1: it was made, and not used since
    last_seconds: float  # when it was made or used last, by the clock of `now`

    def again(self, now: float) -> Uses:
        """The history with one more use."""
        return Uses(self.count + 1, now)


class HitRates:
    """How soon recordings are used again, learned from lives that ended. Not thread-safe."""

    def __init__(self) -> None:
        # Before anything is known: n uses and t seconds of silence mean n/t uses a second, with the weight of one hit.
        self._hits = np.ones_like(PRIOR_SECONDS)
        self._seconds = PRIOR_SECONDS.copy()
        self._num_lives = 0

    def learn(self, uses: Uses, now: float, *, hit: bool) -> None:
        """A life ended now, by a hit or by leaving. Call it with the history before the hit, only of who had rows."""
        seconds = max(now - uses.last_seconds, 0.0)
        count, age = _class_of(uses.count, 1, NUM_COUNTS), int(_class_of(seconds, 0, NUM_AGES))
        self._seconds[count, :age] += WIDTHS[:age]
        self._seconds[count, age] += seconds - STARTS[age]
        self._hits[count, age] += hit
        self._num_lives += 1
        if self._num_lives % MEMORY_LIVES == 0:
            self._hits, self._seconds = (self._hits + 1) / 2, (self._seconds + PRIOR_SECONDS) / 2

    def per_second(self, counts: ArrayLike, ages_seconds: ArrayLike) -> Floats:
        """Expected hits a second [N] of recordings used so often [N] and unused for so long [N]."""
        where = _class_of(counts, 1, NUM_COUNTS), _class_of(ages_seconds, 0, NUM_AGES)
        return np.asarray(self._hits[where] / self._seconds[where])


def _class_of(values: ArrayLike, first: int, num_classes: int) -> Integers:
    """The power of two that a value reaches, counted from 2 ** (first - 1)."""
    exponents: Integers = np.frexp(np.maximum(values, 0))[1]
    return np.clip(exponents - first, 0, num_classes - 1)


@dataclass(frozen=True)
class Candidate:
    """What there is to know of a recording that has rows; all of them are candidates, the pinned too."""

    recording_id: str
    num_bytes: int  # of its own rows
    seconds_saved: float  # by a hit, over computing densely
    uses: Uses
    pinned: bool = False
    readers: AbstractSet[str] = frozenset()  # who reads from its rows; it stays with a reader that is no candidate


@dataclass(frozen=True, order=True)
class _Group:
    """A recording and who would have to leave with it; the least leaves first, of equals the least recently used."""

    worth: float  # seconds saved by the hits of an average second, per byte
    last_seconds: float
    num_bytes: int
    recording_id: str
    members: frozenset[str] = field(compare=False)


def choose(candidates: Sequence[Candidate], missing_bytes: int, rates: HitRates, now: float) -> list[str]:
    """Whose rows to drop for so many bytes, readers before whom they read; nobody where it would not be enough.

    Greedy by worth: *approximate*, as filling a knapsack by density is. Who is read from leaves with its readers, and
    is worth what they are worth together: an edit of few bytes does not outlive others by what its source holds.
    O(n log n).
    """
    by_id = {one.recording_id: one for one in candidates}
    order = list(TopologicalSorter({one.recording_id: one.readers for one in candidates}).static_order())
    can_leave = _members(order, by_id)
    if missing_bytes <= 0 or sum(by_id[one].num_bytes for one in can_leave) < missing_bytes:
        return []
    hits = rates.per_second([one.uses.count for one in candidates], [now - one.uses.last_seconds for one in candidates])
    gains = {one.recording_id: float(hit) * one.seconds_saved for one, hit in zip(candidates, hits, strict=True)}
    heap = [_group(one, members, by_id, gains) for one, members in can_leave.items()]
    heapq.heapify(heap)
    leaving: set[str] = set()
    while missing_bytes > 0:
        group = heapq.heappop(heap)
        rest = group.members - leaving
        if rest == group.members:
            leaving |= rest
            missing_bytes -= group.num_bytes
        elif rest:  # some have left, by which the others are worth more
            heapq.heappush(heap, _group(group.recording_id, rest, by_id, gains))
    return [one for one in order if one in leaving]


def _members(order: Iterable[str], by_id: dict[str, Candidate]) -> dict[str, frozenset[str]]:
    """Of each that can leave all who leave with it; `order`: readers first."""
    members: dict[str, frozenset[str]] = {}
    for one in order:
        candidate = by_id.get(one)
        if candidate and not candidate.pinned and all(reader in members for reader in candidate.readers):
            members[one] = frozenset({one}).union(*(members[reader] for reader in candidate.readers))
    return members


def _group(recording_id: str, members: frozenset[str], by_id: dict[str, Candidate], gains: dict[str, float]) -> _Group:
    num_bytes = sum(by_id[one].num_bytes for one in members)
    worth = sum(gains[one] for one in sorted(members)) / max(num_bytes, 1)
    last_seconds = max(by_id[one].uses.last_seconds for one in members)
    return _Group(worth, last_seconds, num_bytes, recording_id, members)
