"""Whether to try again yet: after a failure nobody asks for a while, for longer after each further one."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Breaker:
    """Closed: all is well. Open: something failed; a try is due when `wait_seconds` is 0. Thread-safe."""

    def __init__(
        self,
        clock: Callable[[], float],  # seconds
        *,
        closed: bool = True,
        first_seconds: float = 0.1,
        most_seconds: float = 5.0,
    ) -> None:
        """Waits double from `first_seconds` to `most_seconds`. `closed=False`: nothing was tried yet, a try is due."""
        self._clock = clock
        self._first_seconds, self._most_seconds = first_seconds, most_seconds
        self._closed = closed
        self._pause_seconds = first_seconds  # the next one
        self._due = clock()
        self._lock = threading.Lock()

    @property
    def closed(self) -> bool:
        """Whether the last try went well."""
        return self._closed

    @property
    def wait_seconds(self) -> float:
        """Until the next try is due."""
        with self._lock:
            return 0.0 if self._closed else max(0.0, self._due - self._clock())

    def reset(self) -> None:
        """A try went well."""
        with self._lock:
            self._closed, self._pause_seconds = True, self._first_seconds

    def trip(self) -> None:
        """A try failed. Many that fail at once count as one."""
        with self._lock:
            now = self._clock()
            if self._closed or now >= self._due:
                self._closed, self._due = False, now + self._pause_seconds
                self._pause_seconds = min(2 * self._pause_seconds, self._most_seconds)
