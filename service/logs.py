"""Logs: one rich line per request, nothing per step, no prompts."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.stdlib.get_logger("service.requests")


def configure(level: str) -> None:
    """Send all logs, the standard library's included, to stderr: JSON lines, or readable ones on a terminal."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    on_terminal = sys.stderr.isatty()
    endings: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if on_terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *endings],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


class RequestLog:
    """ASGI middleware: the canonical line of each request. Whoever serves it adds fields to `request.state.log`."""

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app, and then the line."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = self._clock()
        fields: dict[str, Any] = {"status": 500}
        scope.setdefault("state", {})["log"] = fields

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields["status"] = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            seconds = round(self._clock() - begin, 4)
            log.info("request", method=scope["method"], route=_route(scope), seconds=seconds, **fields)


def _route(scope: Scope) -> str | None:
    """The route's template, not the path: few values, and no ids."""
    path: str | None = getattr(scope.get("route"), "path", None)
    return path
