"""uvicorn, ending in the order that clients and load balancers need.

At SIGTERM it would close its port, cut idle connections and wait. A service that is being replaced is asked whether it
is ready until whoever balances has seen that it is not: so here the port stays open for as long as jobs run, and
/readyz and new jobs are answered 503. Jobs that run when their time is over are ended, and their clients are told so.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.api.draining import Drain
from service.connections import Connection, most_connections
from service.errors import InputError
from service.settings import Settings, is_loopback

log = logging.getLogger(__name__)

START_FAILED = 3  # exit code
POLL_SECONDS = 0.1  # uvicorn's own: a signal handler wakes nobody
FLUSH_SECONDS = 5  # for last bytes, when the jobs have ended
LINE_SECONDS = 2.0  # beyond the time that a client may take nothing


class Server(uvicorn.Server):
    """Serves one application of `service.app.create_app`."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http=Connection,
            ws="none",
            backlog=most_connections() // 2,  # asyncio accepts so many before it looks at the first
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=FLUSH_SECONDS,
        )
        super().__init__(config)
        self._drain: Drain = app.state.drain
        self._drain_seconds = settings.drain_seconds
        self._send_seconds = settings.send_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn calls it, in a signal handler."""
        self._drain.begin()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens. A client that takes nothing is cut off by the kernel, which alone has what was sent to it."""
        await super().startup(sockets)
        milliseconds = round((self._send_seconds + LINE_SECONDS) * 1000)
        for listener in (one for server in self.servers for one in server.sockets):
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted connections inherit it
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Waits for jobs, ends what still runs, and closes the port."""
        self._drain.begin()
        if not await self._jobs_end():
            for task in self.server_state.tasks:
                task.cancel()
        await super().shutdown(sockets)

    async def _jobs_end(self) -> bool:
        """Whether they do in their time."""
        log.info("no more jobs are taken; %d run", self._drain.num_jobs)
        for _ in range(round(self._drain_seconds / POLL_SECONDS)):
            if self._drain.num_jobs == 0 or self.force_exit:
                break
            await asyncio.sleep(POLL_SECONDS)
        return self._drain.num_jobs == 0


def check_exposure(settings: Settings) -> None:
    """InputError where whoever reaches the port could use it, and nobody said that this is meant."""
    if not (settings.api_keys or settings.open or is_loopback(settings.host)):
        raise InputError(
            "host",
            f"{settings.host} is reached from elsewhere, and no key is needed: set RETOUCH_API_KEYS (by `retouch key`),"
            " or RETOUCH_OPEN=true where others keep strangers away",
        )


def serve(app: FastAPI, settings: Settings) -> None:
    """Until it is told to end. Leaves the process where it cannot start."""
    server = Server(app, settings)
    try:
        server.run()
    except KeyboardInterrupt:
        return
    if not server.started:
        sys.exit(START_FAILED)
