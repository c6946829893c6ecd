"""X-Request-Id: what client, log and support call one request."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-Id"
SANE = re.compile(r"[A-Za-z0-9._:-]{1,100}")  # nothing that a log or a terminal takes for more than a name


class RequestIds:
    """ASGI middleware: `request.state.request_id` is the client's if it is sane, else a new one; answers have it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app, its answers named."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        came = Headers(scope=scope).get(HEADER, "")
        request_id = came if SANE.fullmatch(came) else uuid.uuid4().hex
        scope["state"]["request_id"] = scope["state"]["log"]["request_id"] = request_id

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        await self._app(scope, receive, named)
