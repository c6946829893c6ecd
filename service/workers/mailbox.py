"""The way of events from the device thread to who reads them in an event loop."""

from __future__ import annotations

import asyncio
from collections import deque

from service.jobs import Event, Numbered, Preview


class Mailbox:
    """Of the jobs of one request. Keeps what is not read yet: all events but previews, of which a job's newest will do.

    So it holds a handful of events for each, however slow its reader is.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events = deque[Numbered]()
        self._has_some = asyncio.Event()

    def put(self, number: int, event: Event) -> None:
        """An event of the job of this number, from any thread.

        When the loop is gone, so is the one who asked, and nothing happens.
        """
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, number, event)

    async def get(self) -> Numbered:
        """The next event, and whose it is; waits for it."""
        await self._has_some.wait()
        told = self._events.popleft()
        if not self._events:
            self._has_some.clear()
        return told

    def _put(self, number: int, event: Event) -> None:
        if isinstance(event, Preview):
            self._forget_preview(number)
        self._events.append((number, event))
        self._has_some.set()

    def _forget_preview(self, number: int) -> None:
        """The last that this job told, if that was a preview."""
        last = next((told for told in reversed(self._events) if told[0] == number), None)
        if last is not None and isinstance(last[1], Preview):
            self._events.remove(last)
