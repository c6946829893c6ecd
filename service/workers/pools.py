"""Threads for what blocks: a pool for each thing that may be waited for, so that nobody waits for what others need."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

from service.errors import NotReadyError

P = ParamSpec("P")
T = TypeVar("T")
Calls = SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]  # None ends the thread that takes it


class Pool:
    """Blocking calls of one kind, so many at a time; the others wait for those alone, and the event loop for none.

    For one event loop. The threads are daemons, which those of an executor are not: a call that never returns keeps no
    process from its end.
    """

    def __init__(self, name: str, num_threads: int) -> None:
        """A thread begins with each of the first calls; lists of threads name them."""
        self._name = name
        self._num_threads = num_threads
        self._threads: list[threading.Thread] = []
        self._calls: Calls = SimpleQueue()
        self._is_closed = False

    async def run(self, function: Callable[P, T], /, *given: P.args, **named: P.kwargs) -> T:
        """What the function returns, or raises. Who is cancelled while it waits is not run.

        Raises:
            NotReadyError: the pool is closed.
        """
        if self._is_closed:
            raise NotReadyError("the service is shutting down")
        self._add_thread()
        outcome: Future[T] = Future()
        self._calls.put((outcome, partial(function, *given, **named)))
        return await asyncio.wrap_future(outcome)

    def close(self) -> None:
        """What waits is cancelled; what runs is left to its end, and not waited for."""
        self._is_closed = True
        while (waiting := self._next_waiting()) is not None:
            waiting.cancel()
        for _ in self._threads:
            self._calls.put(None)

    def _add_thread(self) -> None:
        if len(self._threads) < self._num_threads:
            name = f"{self._name}_{len(self._threads)}"
            thread = threading.Thread(target=_serve, args=(self._calls,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _next_waiting(self) -> Future[Any] | None:
        try:
            waiting = self._calls.get_nowait()
        except Empty:
            return None
        return waiting and waiting[0]


def _serve(calls: Calls) -> None:
    while _do_next(calls):
        pass


def _do_next(calls: Calls) -> bool:
    """Waits for a call and does it; False: it is time to end. A thread that waits holds nothing of its last call."""
    taken = calls.get()
    if taken is None:
        return False
    outcome, call = taken
    if outcome.set_running_or_notify_cancel():
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001  # whatever it is, somebody waits for it
            outcome.set_exception(error)
        else:
            outcome.set_result(result)
    return True
