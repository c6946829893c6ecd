"""The bodies of requests: of bounded size, and read in bounded time."""

from __future__ import annotations

import asyncio

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLOSE = {"Connection": "close"}  # what is left of the body is read by nobody


class Bodies:
    """ASGI middleware: a body that is too large is refused with 413, announced or not; one that is too slow with 408.

    Both are raised where the application reads, so that it answers them like its own errors.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float) -> None:
        """`seconds` are for the whole body, from the first read on."""
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app, reading through a counter and a clock."""
        if scope["type"] == "http":
            receive = _Reader(receive, Headers(scope=scope), self._max_bytes, self._seconds).receive
        await self._app(scope, receive, send)


class _Reader:
    """Of one body."""

    def __init__(self, receive: Receive, headers: Headers, max_bytes: int, seconds: float) -> None:
        announced = headers.get("content-length", "")
        self._receive = receive
        self._announced = int(announced[:20]) if announced.isdecimal() else 0
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._num_bytes = 0
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
        self._is_read = not message.get("more_body", False)
        return message

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
