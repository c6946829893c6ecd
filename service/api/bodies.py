"""The bodies of requests: of bounded size, read in bounded time, and in bounded memory all together."""

from __future__ import annotations

import asyncio

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import NotReadyError

CLOSE = {"Connection": "close"}  # what is left of the body is read by nobody
FREE_BYTES = 16_384  # of each body: whoever asks in words is not refused for what others send


class Bodies:
    """ASGI middleware: a body that is too large is refused with 413, announced or not; one that is too slow with 408.

    One for which there is no room beside the others' is refused with 503, and does not wait: it would hold what has
    come of it meanwhile, and two could wait for each other. A body has its room until its request is answered, for so
    long there is something of it in memory; only what has come is counted, and a body that comes no further is ended by
    its time.

    All are raised where the application reads, so that it answers them like its own errors.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float, room_bytes: int) -> None:
        """`seconds` are for the whole body, from the first read on; `room_bytes` for all bodies at a time."""
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._room = _Room(room_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app, reading through a counter and a clock."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reader = _Reader(receive, Headers(scope=scope), self._max_bytes, self._seconds, self._room)
        try:
            await self._app(scope, reader.receive, send)
        finally:
            reader.close()


class _Room:
    """Memory for all bodies."""

    def __init__(self, num_bytes: int) -> None:
        self._left = num_bytes

    def take(self, num_bytes: int) -> None:
        if num_bytes > self._left:
            raise NotReadyError("other requests' bodies take all the memory that there is for them")
        self._left -= num_bytes

    def give_back(self, num_bytes: int) -> None:
        self._left += num_bytes


class _Reader:
    """Of one body."""

    def __init__(self, receive: Receive, headers: Headers, max_bytes: int, seconds: float, room: _Room) -> None:
        announced = headers.get("content-length", "")
        self._receive = receive
        self._announced = int(announced[:20]) if announced.isdecimal() else 0
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._room = room
        self._num_bytes = 0
        self._taken = 0  # bytes of the room
        self._deadline: float | None = None  # of the loop's clock
        self._is_read = False

    async def receive(self) -> Message:
        if self._is_read:  # what comes now is the end of the connection, whenever that is
            return await self._receive()
        if self._announced > self._max_bytes:
            raise self._too_large()
        message = await self._in_time()
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > self._max_bytes:
            raise self._too_large()
        self._take()
        self._is_read = not message.get("more_body", False)
        return message

    def close(self) -> None:
        self._room.give_back(self._taken)

    def _take(self) -> None:
        more = max(0, self._num_bytes - FREE_BYTES) - self._taken
        self._room.take(more)
        self._taken += more

    async def _in_time(self) -> Message:
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._seconds
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError as error:
            raise HTTPException(408, f"the body must come within {self._seconds:g} s", CLOSE) from error

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the body must be at most {self._max_bytes} bytes", CLOSE)
