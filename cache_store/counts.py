"""What happened in a store, as numbers that only rise."""

from __future__ import annotations

import threading
from collections import Counter

Labels = tuple[str, ...]


class Counts:
    """Counters by name and labels. Thread-safe."""

    def __init__(self) -> None:
        self._counters: dict[str, Counter[Labels]] = {}
        self._lock = threading.Lock()

    def add(self, name: str, *labels: str, count: int = 1) -> None:
        """Something happened once, or so many times."""
        with self._lock:
            self._counters.setdefault(name, Counter())[labels] += count

    def all(self) -> dict[str, dict[Labels, int]]:
        """A copy."""
        with self._lock:
            return {name: dict(counter) for name, counter in self._counters.items()}
