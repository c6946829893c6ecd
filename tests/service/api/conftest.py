"""The real application without a socket, and with the engine or scripts that stand in for it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from cache_store.store import Store
from service.api.keys import digest_of
from service.app import create_app
from service.batching.batcher import Batcher
from service.batching.policy import Limits
from service.batching.runner import Runner
from service.jobs import Accepted, EditJob, ImageReady, MaskFound, Preview, Receipt
from service.settings import Settings
from service.workers.local import LocalWorker

GUARD_SECONDS = 30  # a test that hangs fails


@asynccontextmanager
async def serving(settings: Settings, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, whose lifespan runs meanwhile."""
    app = create_app(settings, **options)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            client.app = app
            yield client


class Call:
    """One request as a server makes it, and its answer message by message: httpx's transport waits for the last one."""

    def __init__(self, app: Any, path: str, body: Any, **headers: str) -> None:
        self.gone = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self._ended = False
        self._incoming = [{"type": "http.request", "body": json.dumps(body).encode()}]
        named = {"host": "localhost", "content-type": "application/json", **headers}
        scope = {
            "type": "http", "method": "POST", "path": path, "query_string": b"",
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()],
        }  # fmt: skip
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> Any:
        if self._incoming:
            return self._incoming.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.reads.wait()
        self.messages.put_nowait(message)

    async def message(self) -> Any:
        return await asyncio.wait_for(self.messages.get(), GUARD_SECONDS)

    async def start(self) -> tuple[int, dict[str, str]]:
        message = await self.message()
        return message["status"], {name.decode(): value.decode() for name, value in message["headers"]}

    async def event(self) -> tuple[str, Any] | None:
        """The next event's name and data; a comment's name is empty. None at the end."""
        body = ""
        while not body:
            if self._ended:
                return None
            message = await self.message()
            body, self._ended = message["body"].decode(), not message.get("more_body", False)
        if body.startswith(":"):
            return "", body
        name, data, *rest = body.split("\n")
        assert rest == ["", ""]
        return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    async def events(self) -> dict[str, Any]:
        """All events that are left; of two with one name the later."""
        found = {}
        while (event := await self.event()) is not None:
            found[event[0]] = event[1]
        return found


class Scripts:
    """Stands in for the engine: each job makes two network calls and answers with a grey picture."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []
        self.error: Exception | None = None
        self.receipt: Receipt | None = None  # instead of the usual one
        self.may_load = threading.Event()
        self.may_load.set()
        self.begun = threading.Event()
        self.may_step = threading.Event()
        self.may_step.set()
        self.closed = threading.Event()

    def start(self, model: Any, store: Any, job: Any) -> Any:
        del model, store
        self.jobs.append(job)
        source_id = "source" if isinstance(job, EditJob) else None
        try:
            yield Accepted("id", source_id, 1)
            for _ in range(2):
                yield SimpleNamespace(shape_key=0, num_images=1, num_rows=1)
            if self.error is not None:
                raise self.error
            if source_id:
                yield MaskFound(np.eye(8, dtype=bool), 0.125)
            if job.preview_every:
                yield Preview(1, Image.new("RGB", (24, 16), "grey"), (8, 16, 32, 32))
            yield ImageReady("id", Image.new("RGB", (64, 64), "grey"))
            usual = Receipt("id", source_id, edited_ratio=0.125, seconds={"total": 1.0}, unknown_words=("zebra",))
            yield self.receipt or usual
        except GeneratorExit:
            self.closed.set()
            raise

    def predict(self, unet: Any, calls: Any) -> Any:
        del unet
        self.begun.set()
        assert self.may_step.wait(GUARD_SECONDS)
        return calls

    def open_worker(self, settings: Settings) -> LocalWorker:
        store = Store(budget_bytes=0)

        def open_runner() -> Runner:
            assert self.may_load.wait(GUARD_SECONDS)
            limits = Limits(settings.running_jobs, settings.step_images)
            return Runner(SimpleNamespace(unet=None), store, limits, start=self.start, predict=self.predict)

        max_jobs = settings.running_jobs + settings.queue_jobs
        return LocalWorker(Batcher(open_runner, max_jobs=max_jobs, running_jobs=settings.running_jobs), store)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def serve() -> Any:
    """Makes clients of applications: `serving`."""
    return serving


@pytest.fixture
def call_of():
    """Makes a `Call` of a client's application; what still runs is gone at the end."""
    made = []

    def begin(client: Any, path: str, body: Any, **headers: str) -> Call:
        made.append(Call(client.app, path, body, **headers))
        return made[-1]

    yield begin
    for one in made:
        one.gone.set()


@pytest.fixture
def call(client, call_of):
    """The same of `client`'s."""
    return partial(call_of, client)


@pytest.fixture
def scripts():
    made = Scripts()
    yield made
    made.may_load.set()
    made.may_step.set()


@pytest.fixture
async def loading(scripts):
    """The application, which loads its model until `scripts.may_load`."""
    scripts.may_load.clear()
    async with serving(Settings(), open_worker=scripts.open_worker) as opened:
        yield opened
        scripts.may_load.set()


@pytest.fixture
def open_client(scripts):
    """Opens the application over `scripts`, with settings as named; one job at a time, none may wait."""

    @asynccontextmanager
    async def opening(traces: Any = None, **named: Any) -> AsyncIterator[httpx.AsyncClient]:
        settings = Settings(**{"running_jobs": 1, "queue_jobs": 0, **named})
        async with serving(settings, open_worker=scripts.open_worker, traces=traces) as opened:
            opened.app.state.worker._batcher.wait_opened()
            yield opened
            scripts.may_step.set()  # else its end waits

    return opening


@pytest.fixture
async def client(open_client):
    """The same with the usual settings."""
    async with open_client() as opened:
        yield opened


@pytest.fixture
async def keyed(scripts):
    """The application over `scripts`, for the keys ann-key and bob-key; one job of each at a time."""
    entries = ",".join(f"{name}:{digest_of(name + '-key')}" for name in ("ann", "bob"))
    settings = Settings(running_jobs=1, queue_jobs=9, api_keys=entries, key_jobs=1, key_requests_per_minute=10)
    async with serving(settings, open_worker=scripts.open_worker) as opened:
        opened.app.state.worker._batcher.wait_opened()
        yield opened


@pytest.fixture(scope="session")
async def postcard():
    """The application over the embedded model."""
    async with serving(Settings(device="cpu", threads=1)) as opened:
        opened.app.state.worker._batcher.wait_opened()
        yield opened
