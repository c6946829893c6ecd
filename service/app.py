"""The service: opens everything once, and closes it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI

from service.api import description, health, model, page, pictures, problems, reference, routes
from service.api.bodies import Bodies
from service.api.browsers import ForBrowsers
from service.api.deadlines import Deadlines
from service.api.draining import Drain
from service.api.gates import Gate
from service.api.keys import Keys
from service.api.openai import errors as openai_errors
from service.api.openai import models as openai_models
from service.api.openai import routes as openai
from service.api.quotas import Quotas
from service.api.repeats import Repeats
from service.api.request_ids import RequestIds
from service.batching.policy import Limits
from service.engine.catalog import Nearness
from service.errors import InputError
from service.observation import Observation
from service.settings import Settings, read_settings
from service.traces import Traces
from service.workers import Worker
from service.workers.local import open_local
from service.workers.models import open_model
from service.workers.stores import open_catalog, open_store

DESCRIPTION = "Edit a generated image by editing its prompt; only what the new words change is computed again."


def create_app(
    settings: Settings | None = None,
    open_worker: Callable[[Settings], Worker] | None = None,
    traces: Traces | None = None,
) -> FastAPI:
    """The ASGI application. Its worker is opened when the server starts, and closed when it has stopped.

    When it ends is the server's to say (`service.server`): it begins the application's `Drain`, and waits.
    InputError where a setting cannot be.
    """
    settings = settings or read_settings()
    if settings.bodies_bytes < settings.body_bytes:
        raise InputError("RETOUCH_BODIES_BYTES", "must be at least RETOUCH_BODY_BYTES, or the largest body never fits")
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

    app = FastAPI(
        title="Retouch",
        version=version("retouch"),
        description=DESCRIPTION,
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,  # it would send whoever asks to the Host that was named, before any gate
    )
    app.state.drain = Drain()
    app.state.gate = _gate(settings)
    app.state.deadlines = Deadlines(settings.max_deadline_seconds)
    app.state.repeats = Repeats(settings.idempotency_bytes)
    app.state.send_seconds = settings.send_seconds
    openai_routers = openai.router, openai_models.router
    others = health.router, reference.router, page.router
    for router in (routes.router, pictures.router, model.router, *openai_routers, *others):
        app.include_router(router)
    app.add_middleware(
        Bodies, max_bytes=settings.body_bytes, seconds=settings.body_seconds, room_bytes=settings.bodies_bytes
    )
    app.add_middleware(ForBrowsers)
    app.add_middleware(RequestIds)
    problems.install(app, {openai.PREFIX: openai_errors.answer_of})
    observation.install(app)
    description.complete(app, needs_key=bool(settings.api_keys))
    return app


def _gate(settings: Settings) -> Gate:
    return Gate(
        Keys.parse(settings.api_keys),
        Quotas(jobs=settings.key_jobs, requests_per_minute=settings.key_requests_per_minute),
        is_open=settings.open,
        hosts=frozenset(name.strip().lower() for name in settings.hosts.split(",") if name.strip()),
    )


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
    store = open_store(
        settings.device, settings.cache_bytes, *on_disk, core_bytes=settings.core_bytes, on_lost=catalog.withdraw
    )
    return open_local(
        partial(open_model, settings.model, max_pixels=settings.max_pixels, **settings.model_options),
        store,
        queue_jobs=settings.queue_jobs,
        limits=Limits(running_jobs=settings.running_jobs, step_images=settings.step_images),
        step_seconds=settings.step_seconds,
        catalog=catalog,
        graph_bytes=settings.graph_bytes,
        device_cache_bytes=settings.device_cache_bytes,
    )
