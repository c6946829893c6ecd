"""One connection of uvicorn's, closed where no request comes over it, and so that the last answer arrives."""

from __future__ import annotations

import asyncio
import resource
from http import HTTPStatus
from typing import Any, cast

import h11
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.api.problems import MEDIA_TYPE, NO_HTTP

HEAD_SECONDS = 15.0
LINGER_SECONDS = 2.0
MOST_CONNECTIONS = 4096  # and no more than half of the files that this process may open
FRAMES = {b"content-length", b"transfer-encoding"}  # a request has one of them
UNANSWERED = {h11.IDLE, h11.SEND_RESPONSE}
UNREAD = {h11.SEND_BODY, h11.ERROR}  # the client sends something that is not to be read any more


class Connection(H11Protocol):
    """uvicorn waits for ever for a request that never comes, or comes letter by letter. Here its head has a time.

    What comes after it, the body, is the application's to wait for. What is no HTTP is a problem, too.

    Where there are too many, who has waited longest without a request makes room: a process that may open no more files
    answers nobody, and says so thousands of times a second.
    """

    head_seconds = HEAD_SECONDS

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._application, self.app = self.app, self._serve
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """As asyncio calls it."""
        super().connection_made(cast(asyncio.Transport, Lingering(transport, self)))
        self._watch()
        if len(self.connections) > most_connections():
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it."""
        if self.transport.is_closing():  # it is read only so that the client can read
            return
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio calls it."""
        self._stop()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # the problem says as much
        """As uvicorn calls it, where h11 understands nothing any more."""
        content = NO_HTTP.model_dump_json(exclude_none=True).encode()
        headers = [("Content-Type", MEDIA_TYPE), ("Content-Length", str(len(content))), ("Connection", "close")]
        if self.conn.our_state in UNANSWERED:
            answer = h11.Response(status_code=400, headers=headers, reason=HTTPStatus.BAD_REQUEST.phrase)
            for event in (answer, h11.Data(content), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    @property
    def waits_since(self) -> float:
        """For a request, by the loop's clock; for ever where it has one."""
        return float("inf") if self._late is None else self._late.when()

    @property
    def is_unread(self) -> bool:
        """Whether the client has more to say that nobody will hear."""
        return self.conn.their_state in UNREAD

    @property
    def is_cut_short(self) -> bool:
        """Whether an answer has begun and will not come to its end."""
        return self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete

    def give_up(self) -> None:
        """As `connection_lost` does: whoever serves the request is told that nobody waits."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application. That it leaves a client that takes nothing is no error of ours, as uvicorn would log it."""
        is_framed_twice = {name for name, _ in scope["headers"]} >= FRAMES
        await self._application(scope, receive, _last(send) if is_framed_twice else send)
        if self.is_cut_short and scope["state"]["exchange"].is_gone:
            self.give_up()
            self.transport.abort()

    def _should_upgrade(self) -> bool:
        """As uvicorn asks, which would warn twice: there is nothing but HTTP/1.1 here, and that is what is answered."""
        return False

    def _make_room(self) -> None:
        """Of those that were closed already some may be there still: the loop has not come to them."""
        open_ones = [one for one in self.connections if isinstance(one, Connection) and not one.transport.is_closing()]
        if len(open_ones) > most_connections():
            min(open_ones, key=lambda one: one.waits_since).transport.abort()

    def _watch(self) -> None:
        """The time for a head begins with its first byte, or with the connection; more bytes give it no more time."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(self.head_seconds, self._close)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        self._late = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def _last(send: Send) -> Send:
    """After this answer the connection is closed: where a body ends was told twice, and who stands between us and the
    client may have believed the other (RFC 9112, 6.1).
    """

    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return closing


def most_connections() -> int:
    """As many as there may be at a time, besides half as many that come at once (`service.server`)."""
    return min(MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


class Lingering:
    """A transport that is closed in two steps where the client still sends.

    Who closes a socket with something unread in it resets the connection, and then the client may lose the answer that
    it was sent before. So first our side alone ends, and what comes is thrown away until the client has ended its own,
    or for `LINGER_SECONDS`.
    """

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection
        self._lingers = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether it is closed, as far as the application is concerned."""
        return self._lingers or self._transport.is_closing()

    def close(self) -> None:
        """At once where nothing is unread. Of an answer that is cut short nothing is kept for who does not take it."""
        if self.is_closing():
            return
        if self._connection.is_cut_short:
            self._transport.abort()
        elif not self._connection.is_unread:
            self._transport.close()
        else:
            self._linger()

    def _linger(self) -> None:
        self._lingers = True
        self._connection.give_up()
        self._transport.write_eof()
        self._transport.resume_reading()
        self._connection.loop.call_later(LINGER_SECONDS, self._transport.close)
