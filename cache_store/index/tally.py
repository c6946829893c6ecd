"""What was asked of an index."""

from __future__ import annotations

import threading
from collections import Counter

from cache_store.index import Counts, Outcome

OUTCOMES: tuple[Outcome, ...] = ("hit", "miss", "down")


class Tally:
    """Counters, for many threads."""

    def __init__(self) -> None:
        self._lookups: Counter[Outcome] = Counter()
        self._num_stale_hits = 0
        self._lock = threading.Lock()

    def lookup(self, outcome: Outcome) -> None:
        """One more lookup."""
        with self._lock:
            self._lookups[outcome] += 1

    def stale_hit(self) -> None:
        """One more hit that its worker did not have."""
        with self._lock:
            self._num_stale_hits += 1

    def counts(self) -> Counts:
        """All of them, each outcome named."""
        with self._lock:
            return Counts({outcome: self._lookups[outcome] for outcome in OUTCOMES}, self._num_stale_hits)
