"""How an application is watched: what hears of its requests and jobs, and where its metrics are read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any
from wsgiref.simple_server import WSGIServer

from fastapi import APIRouter, FastAPI, Request, Response

from service import logs
from service.api.description import documented
from service.api.gates import NamedRoute
from service.errors import InputError
from service.exchange import Exchange, Exchanges
from service.metrics import Metrics
from service.settings import Settings
from service.traces import Traces, open_traces
from service.workers import Worker

TEXT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The metrics"},
    **documented(403),
}


class Observation:
    """Logs, metrics and traces of one application."""

    def __init__(self, settings: Settings, traces: Traces | None = None) -> None:
        """`traces` None: as the environment says. InputError where it says what cannot be done."""
        self._settings = settings
        self._traces = traces or open_traces(os.environ)
        self.metrics = Metrics()

    def install(self, app: FastAPI) -> None:
        """To be called last: the outermost middleware also sees what the others refuse."""
        write = partial(logs.write, prompts=self._settings.log_prompts)
        spans = [] if self._traces is None else [self._traces.record]  # first: the line has the trace's id
        on_end: list[Callable[[Exchange], None]] = [*spans, self.metrics.count_exchange, write]
        app.add_middleware(Exchanges, on_end=on_end, on_job=[self.metrics.count_job])
        if self._settings.has_open_metrics:
            app.include_router(_router(self.metrics))

    @asynccontextmanager
    async def of(self, worker: Worker) -> AsyncIterator[None]:
        """While the application runs on this worker. InputError where the port for metrics cannot be had."""
        async with AsyncExitStack() as stack:
            if self._traces is not None:
                stack.push_async_callback(asyncio.to_thread, self._traces.close)
            stack.enter_context(self.metrics.watching(worker.numbers))
            if isinstance(self._settings.metrics, int):
                server = _served(self.metrics, self._settings.host, self._settings.metrics)
                stack.push_async_callback(asyncio.to_thread, _stop, server)
            yield


def _served(metrics: Metrics, host: str, port: int) -> WSGIServer:
    try:
        return metrics.serve(host, port)
    except OSError as error:
        raise InputError("RETOUCH_METRICS", f"port {port} of {host} cannot be had: {error.strerror}") from error


def _stop(server: WSGIServer) -> None:
    server.shutdown()
    server.server_close()


def _router(metrics: Metrics) -> APIRouter:
    router = APIRouter(route_class=NamedRoute)

    @router.get("/metrics", response_class=Response, responses=TEXT, tags=["service"])
    def metrics_(request: Request) -> Response:
        """For Prometheus: what the service counts, as text or, where that is asked for, as OpenMetrics."""
        body, media_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(body, media_type=media_type)

    return router
