"""The thread that moves bytes, so that nobody who serves a request does."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable

log = logging.getLogger(__name__)

Task = Callable[[], object]


class Mover:
    """Runs tasks one after another, each key once while it waits. The thread starts with the first task.

    It holds nothing but tasks that wait: what they belong to may be forgotten when there are none.
    """

    def __init__(self) -> None:
        self._tasks: dict[Hashable, tuple[float, Task]] = {}  # when it is due, as time.monotonic has it
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_busy = self._is_stopped = False

    def put(self, key: Hashable, task: Task, after_seconds: float = 0.0) -> None:
        """Runs it later; does nothing where the key waits already, or after `stop`."""
        with self._changed:
            if self._is_stopped or key in self._tasks:
                return
            self._tasks[key] = (time.monotonic() + after_seconds, task)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="cache-mover", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def hurry(self) -> None:
        """All that waits for its time is due now."""
        with self._changed:
            self._tasks = {key: (0.0, task) for key, (_, task) in self._tasks.items()}
            self._changed.notify_all()

    def settle(self, timeout_seconds: float) -> bool:
        """Waits until nothing runs and nothing is due; whether that came."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._is_busy and not self._due(), timeout_seconds)

    def stop(self) -> None:
        """Ends after the task that runs; what waits is dropped."""
        with self._changed:
            self._is_stopped = True
            self._tasks.clear()
            self._changed.notify_all()

    def close(self, deadline_seconds: float) -> bool:
        """Runs what waits, as far as the deadline allows, and stops; whether all of it ran."""
        self.hurry()
        is_done = self.settle(deadline_seconds)
        self.stop()
        if self._thread is not None and is_done:
            self._thread.join()
        return is_done

    def _run(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except Exception:  # a task that fails moves nothing; the thread, and what others wait for, go on
                log.exception("moving recordings failed")
            del task  # and what it belongs to
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()

    def _next(self) -> Task | None:
        """The next task that is due; None when it is over."""
        with self._changed:
            while not self._is_stopped:
                if due := self._due():
                    self._is_busy = True
                    return self._tasks.pop(due[0])[1]
                next_due = min((due for due, _ in self._tasks.values()), default=None)
                self._changed.wait(None if next_due is None else max(0.0, next_due - time.monotonic()))
            return None

    def _due(self) -> list[Hashable]:
        now = time.monotonic()
        return [key for key, (due, _) in self._tasks.items() if due <= now]
