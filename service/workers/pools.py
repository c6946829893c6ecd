"""Threads for what blocks: a pool for each thing that may be waited for, so that nobody waits for what others need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """Blocking calls of one kind, so many at a time; the others wait for those alone, and the event loop for none."""

    def __init__(self, name: str, num_threads: int) -> None:
        """Threads begin when they are needed, and are named in lists of threads."""
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix=name)

    async def run(self, function: Callable[P, T], /, *given: P.args, **named: P.kwargs) -> T:
        """What the function returns, or raises. Who is cancelled while it waits is not run."""
        return await asyncio.wrap_future(self._threads.submit(function, *given, **named))

    def close(self) -> None:
        """What waits is cancelled; what runs is left to its end, and not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
