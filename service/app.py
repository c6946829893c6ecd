"""The service: opens everything once, and closes it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI, HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import problems
from service.api.routes import router
from service.batching.policy import Limits
from service.engine.catalog import Nearness
from service.observation import Observation
from service.settings import Settings, read_settings
from service.traces import Traces
from service.workers import Worker
from service.workers.local import open_catalog, open_local, open_model, open_store

DESCRIPTION = "Edit a generated image by editing its prompt; only what the new words change is computed again."


def create_app(
    settings: Settings | None = None,
    open_worker: Callable[[Settings], Worker] | None = None,
    traces: Traces | None = None,
) -> FastAPI:
    """The ASGI application. Its worker is opened when the server starts, and closed when it has stopped.

    Draining is the server's: it waits for the requests that run, and with them for their jobs.
    """
    settings = settings or read_settings()
    open_worker = open_worker or open_local_worker
    observation = Observation(settings, traces)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.worker = worker = open_worker(settings)
        try:
            async with observation.of(worker):
                yield
        finally:
            await worker.close()

    app = FastAPI(title="Retouch", version=version("retouch"), description=DESCRIPTION, lifespan=lifespan)
    app.add_middleware(BodyLimit, max_bytes=settings.body_bytes)
    app.include_router(router)
    problems.install(app)
    observation.install(app)
    return app


def open_local_worker(settings: Settings) -> Worker:
    """The worker of one process on one device."""
    name = settings.worker or f"{socket.gethostname()}:{settings.port}"
    catalog = open_catalog(
        name,
        Nearness(settings.min_similarity, settings.max_changed_words),
        settings.redis_url,
        settings.embedding_model,
    )
    on_disk = settings.disk_path, settings.disk_bytes
    store = open_store(settings.device, settings.cache_bytes, *on_disk, on_lost=catalog.withdraw)
    return open_local(
        partial(open_model, settings.model, max_pixels=settings.max_pixels, **settings.model_options),
        store,
        queue_jobs=settings.queue_jobs,
        limits=Limits(running_jobs=settings.running_jobs, step_images=settings.step_images),
        catalog=catalog,
        graph_bytes=settings.graph_bytes,
        device_cache_bytes=settings.device_cache_bytes,
    )


class BodyLimit:
    """ASGI middleware: a body that is too large is refused with 413 when it is read, announced or not."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app, reading through a counter."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        num_bytes = 0

        async def limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if max(num_bytes, int(announced) if announced.isdigit() else 0) > self._max_bytes:
                raise HTTPException(413, f"the body must be at most {self._max_bytes} bytes")
            return message

        await self._app(scope, limited, send)
