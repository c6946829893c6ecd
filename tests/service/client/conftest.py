"""The real application behind a real port, over the embedded model or a worker that says what a test wants."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, Self

import numpy as np
import pytest
from PIL import Image

from service.batching.states import State, check_ready
from service.client import AsyncClient, Client
from service.errors import UnknownImageError
from service.jobs import Accepted, EditJob, Failed, ImageReady, MaskFound, Preview, Receipt
from service.settings import Settings


class ScriptedWorker:
    """Answers each job with a grey picture, or as a test has it."""

    state: State = "ready"

    def __init__(self) -> None:
        self.jobs: list[Any] = []
        self.refusals: list[Exception] = []  # of the next jobs, before they begin
        self.error: Exception | None = None  # by which all jobs fail when they have begun
        self.receipt: Receipt | None = None  # instead of the usual one
        self.is_held = False  # jobs that have begun do not go on
        self.begun = threading.Event()
        self.ended = threading.Event()

    def check_ready(self) -> None:
        check_ready(self.state)

    async def submit(self, jobs: Sequence[Any]) -> Any:
        async with aclosing(self._run(*jobs)) as events:
            async for event in events:
                yield 0, event

    async def _run(self, job: Any) -> Any:
        self.jobs.append(job)
        if self.refusals:
            raise self.refusals.pop(0)
        source_id = "source" if isinstance(job, EditJob) else None
        try:
            yield Accepted("id", source_id, 2)
            self.begun.set()
            if self.is_held:
                await asyncio.Event().wait()
            if self.error is not None:
                yield Failed(self.error)
                return
            if source_id:
                yield MaskFound(np.eye(8, dtype=bool), 0.125)
            if job.preview_every:
                yield Preview(1, Image.new("RGB", (24, 16), "grey"), (8, 16, 32, 32))
            yield ImageReady("id", Image.new("RGB", (64, 64), "grey"))
            yield self.receipt or Receipt("id", source_id, edited_ratio=0.125, seconds={"total": 1.0})
        finally:
            self.ended.set()

    async def read(self, image_id: str, *_: str) -> bytes:
        raise UnknownImageError(image_id)

    def numbers(self) -> Any:
        raise NotImplementedError

    async def close(self) -> None:
        pass


class Awaited:
    """An AsyncClient, each method awaited at once: what holds of `Client` is shown of both."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(*arguments, **options)

    def __enter__(self) -> Self:
        self._run(self._client.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self._run(self._client.__aexit__(*error))
        self._runner.close()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name.startswith("stream_"):
            return lambda *arguments, **fields: self._stream(method(*arguments, **fields))
        return lambda *arguments, **fields: self._run(method(*arguments, **fields))

    @contextmanager
    def _stream(self, entered: Any) -> Iterator[Any]:
        events = self._run(entered.__aenter__())
        try:
            yield self._events(events)
        finally:
            self._run(entered.__aexit__(None, None, None))

    def _events(self, events: Any) -> Iterator[Any]:
        while True:
            try:
                yield self._run(anext(events))
            except StopAsyncIteration:
                return

    def _run(self, work: Any) -> Any:
        async def awaited() -> Any:
            return await work

        return self._runner.run(awaited())


@pytest.fixture(params=[Client, Awaited])
def open_client(request):
    """Opens either client."""
    return request.param


@pytest.fixture(scope="module")
def open_server(listen):
    """Opens the application over a scripted worker, with settings as named: its address and its worker."""

    @contextmanager
    def opening(**settings: Any) -> Iterator[tuple[str, ScriptedWorker]]:
        worker = ScriptedWorker()
        with listen(Settings(**settings), open_worker=lambda _: worker) as server:
            yield server.url, worker

    return opening


@pytest.fixture(scope="module")
def scripted_server(open_server):
    """The same with the usual settings."""
    with open_server() as opened:
        yield opened


@pytest.fixture
def worker(scripted_server):
    _, made = scripted_server
    made.__init__()
    yield made
    made.__init__()


@pytest.fixture
def client(scripted_server, worker, open_client):
    """Of the scripted worker."""
    del worker
    with open_client(scripted_server[0]) as opened:
        yield opened


@pytest.fixture(scope="module")
def postcard_url(listen):
    """The address of the application over the embedded model."""
    with listen(Settings(device="cpu", threads=1)) as server:
        server.app.state.worker._batcher.wait_opened()
        yield server.url


@pytest.fixture
def postcard(postcard_url, open_client):
    with open_client(postcard_url) as opened:
        yield opened


@pytest.fixture
def unused_url():
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
