"""The way of a job's events from the device thread to who reads them in an event loop."""

from __future__ import annotations

import asyncio
from collections import deque

from service.jobs import Event, Preview


class Mailbox:
    """Keeps what is not read yet: all events but previews, of which only the newest of several in a row is wanted.

    So it holds a handful of events, however slow its reader is.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events = deque[Event]()
        self._has_some = asyncio.Event()

    def put(self, event: Event) -> None:
        """From any thread. When the loop is gone, so is the one who asked, and nothing happens."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, event)

    async def get(self) -> Event:
        """The next event; waits for it."""
        await self._has_some.wait()
        event = self._events.popleft()
        if not self._events:
            self._has_some.clear()
        return event

    def _put(self, event: Event) -> None:
        if self._events and isinstance(event, Preview) and isinstance(self._events[-1], Preview):
            self._events.pop()
        self._events.append(event)
        self._has_some.set()
