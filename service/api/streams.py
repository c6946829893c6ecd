"""Server-Sent Events: frames as they come, comments while none come, an end that is always told.

Our own response, and not sse-starlette's: that replaces uvicorn's signal handler when it is imported, ends all streams
at SIGTERM, where ours may go on while the service drains, and writes what it sends into debug logs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.draining import CUT_OFF
from service.api.running import unless_gone
from service.errors import NotReadyError, RetouchError

log = logging.getLogger(__name__)

MEDIA_TYPE = "text/event-stream"
BEGIN_SECONDS = 1.0  # a job that waits: its client, and whoever stands between, learn that it is taken
PING_SECONDS = 15.0  # proxies close lines on which nothing comes for a minute
SEND_SECONDS = 30.0
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # neither kept nor held back on the way

Frames = AsyncGenerator[bytes, None]
OnError = Callable[[Exception], bytes]


def frame(event: str, data: str) -> bytes:
    """One event as it travels; `data` is JSON."""
    return format_sse_event(event=event, data_str=data)


class EventStream(Response):
    """Sends frames. What fails before the first one is raised, so that it is answered by its own status.

    Where none comes for `begin_seconds`, a comment begins the answer, and others keep the line open; what fails then is
    the frame that `on_error` makes of it. Not sooner, for that a source has gone, or has another size, is found when a
    job begins: at once where the device is free. A client that goes away, or takes none of it for `send_seconds`, ends
    the frames where they are.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        frames: Frames,
        on_error: OnError,
        *,
        begin_seconds: float = BEGIN_SECONDS,
        ping_seconds: float = PING_SECONDS,
        send_seconds: float = SEND_SECONDS,
    ) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._frames = frames
        self._on_error = on_error
        self._begin_seconds = begin_seconds
        self._ping_seconds = ping_seconds
        self._send_seconds = send_seconds
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""
        try:
            was_read = await unless_gone(receive, self._send_all(send))
        except (Exception, asyncio.CancelledError) as caught:
            error = NotReadyError(CUT_OFF) if isinstance(caught, asyncio.CancelledError) else caught
            if not self._begun:
                raise error from caught
            if not isinstance(error, RetouchError):
                log.exception("a stream met a defect")
            was_read = await self._end(send, self._on_error(error))
        if not was_read:
            scope["state"]["exchange"].is_gone = True

    async def _send_all(self, send: Send) -> bool:
        """False if the client takes nothing any more."""
        async with aclosing(_with_pings(self._frames, self._begin_seconds, self._ping_seconds)) as chunks:
            async for chunk in chunks:
                if not await self._send(send, chunk):
                    return False
        return await self._end(send, b"")

    async def _send(self, send: Send, chunk: bytes, *, more: bool = True) -> bool:
        try:
            async with asyncio.timeout(self._send_seconds):
                if not self._begun:
                    self._begun = True
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": chunk, "more_body": more})
        except (TimeoutError, OSError):
            return False
        return True

    async def _end(self, send: Send, chunk: bytes) -> bool:
        return await self._send(send, chunk, more=False)


async def _with_pings(frames: Frames, first_seconds: float, seconds: float) -> AsyncGenerator[bytes, None]:
    """The frames, and a comment wherever none came for so long; the first after `first_seconds`."""
    patience = first_seconds
    async with aclosing(frames):
        while True:
            coming = asyncio.ensure_future(anext(frames))
            try:
                while not (await asyncio.wait({coming}, timeout=patience))[0]:
                    patience = seconds
                    yield KEEPALIVE_COMMENT
                patience = seconds
                yield coming.result()
            except StopAsyncIteration:
                return
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
