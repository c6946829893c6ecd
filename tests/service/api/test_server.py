"""The service behind a real port: in this process, and as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager

import httpx
import pytest

from service.app import create_app
from service.connections import Connection
from service.errors import InputError
from service.server import Server, check_exposure
from service.settings import Settings

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 120  # a test that hangs fails
DRAW = {"prompt": "a snow mountain under a night sky"}
LONG = DRAW | {"num_inference_steps": 1000}


class Opened(Server):
    """Says when it listens."""

    def __init__(self, app, settings):
        super().__init__(app, settings)
        self.is_up = asyncio.Event()

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.is_up.set()

    @property
    def listener(self):
        return self.servers[0].sockets[0]

    @property
    def port(self):
        return self.listener.getsockname()[1]


@asynccontextmanager
async def served(scripts, **options):
    settings = Settings(port=0, **options)
    server = Opened(create_app(settings, open_worker=scripts.open_worker), settings)
    running = asyncio.create_task(server.serve())
    await server.is_up.wait()
    server.config.app.state.worker._batcher.wait_opened()
    try:
        yield server, httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=GUARD_SECONDS)
    finally:
        scripts.may_step.set()
        server.should_exit = True
        await asyncio.wait_for(running, GUARD_SECONDS)


async def test_jobs_that_run_are_done_while_new_ones_are_refused(scripts):
    scripts.may_step.clear()
    async with served(scripts) as (server, client), client:
        running = asyncio.create_task(client.post("/generate", json=DRAW))
        await asyncio.to_thread(scripts.begun.wait, GUARD_SECONDS)
        server._drain.begin()  # as its signal handler does
        server.should_exit = True
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["detail"]) == (503, "the service is shutting down")
        assert (await client.post("/generate", json=DRAW)).status_code == 503
        assert (await client.get("/healthz")).json() == {"state": "draining"}
        scripts.may_step.set()
        assert (await running).status_code == 200


async def test_a_job_that_outlives_its_time_is_told_so(scripts):
    scripts.may_step.clear()
    async with served(scripts, drain_seconds=0) as (server, client), client:
        answer = asyncio.create_task(client.post("/generate", json=DRAW))
        await asyncio.to_thread(scripts.begun.wait, GUARD_SECONDS)
        server.should_exit = True
        response = await answer
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert scripts.closed.is_set()


async def test_a_stream_that_outlives_its_time_is_told_so(scripts):
    scripts.may_step.clear()
    stream = {"method": "POST", "url": "/generate", "json": DRAW | {"stream": True}}
    async with served(scripts, drain_seconds=0) as (server, client), client, client.stream(**stream) as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == "event: accepted"
        server.should_exit = True
        assert "event: error" in [line async for line in lines]
    assert scripts.closed.is_set()


@asynccontextmanager
async def connected(server):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    yield reader, writer
    writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"POST /generate HTTP/1.1\r\nHost: localhost\r\n"])
async def test_a_connection_without_a_request_is_closed(scripts, monkeypatch, sent):
    monkeypatch.setattr(Connection, "head_seconds", 0.01)
    async with served(scripts) as (server, _), connected(server) as (reader, writer):
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), GUARD_SECONDS) == b""


async def test_a_connections_second_request_has_its_time_too(scripts, monkeypatch):
    monkeypatch.setattr(Connection, "head_seconds", 0.1)
    async with served(scripts) as (server, _), connected(server) as (reader, writer):
        server.config.timeout_keep_alive = GUARD_SECONDS  # uvicorn's own, which ends with the first byte
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"}")
        writer.write(b"GET /hea")
        assert await asyncio.wait_for(reader.read(), GUARD_SECONDS) == b""


async def test_a_request_may_take_longer_than_its_head(scripts, monkeypatch):
    monkeypatch.setattr(Connection, "head_seconds", 0.01)
    scripts.may_step.clear()
    async with served(scripts) as (_, client), client:
        running = asyncio.create_task(client.post("/generate", json=DRAW))
        await asyncio.to_thread(scripts.begun.wait, GUARD_SECONDS)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(running), 0.05)
        scripts.may_step.set()
        assert (await running).status_code == 200


async def test_what_a_client_takes_nothing_of_is_dropped_by_the_kernel(scripts):
    async with served(scripts, send_seconds=3) as (server, _):
        assert server.listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5000


@pytest.mark.parametrize("options", [{"api_keys": f"ann:{'0' * 64}"}, {"open": True}])
def test_a_service_that_others_reach_has_keys_or_is_meant_to_be_open(options):
    with pytest.raises(InputError, match=r"0\.0\.0\.0"):
        check_exposure(Settings(host="0.0.0.0"))  # noqa: S104  # that is the point
    check_exposure(Settings(host="0.0.0.0", **options))  # noqa: S104
    check_exposure(Settings())


@contextmanager
def process(log, **settings):
    """`retouch serve`; its log goes into a file, for a pipe that nobody reads holds it up."""
    environment = {f"RETOUCH_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "service.cli", "serve", "--device", "cpu", "--port", "0"]
    with log.open("w") as file, subprocess.Popen(command, stderr=file, env=os.environ | environment) as opened:  # noqa: S603  # our own words
        try:
            yield opened
        finally:
            opened.kill()


def address_of(opened, log):
    """Reads until it is there."""
    while (found := re.search(r"http://127.0.0.1:\d+\b", log.read_text())) is None:
        assert opened.poll() is None
    return found[0]


def answers(client, path, status):
    """Asks until it is so."""
    while (response := client.get(path)).status_code != status:
        pass
    return response


def test_a_process_that_is_told_to_end_tells_its_clients(tmp_path):
    log = tmp_path / "log"
    with process(log, drain_seconds=1, threads=1) as opened:
        with httpx.Client(base_url=address_of(opened, log), timeout=GUARD_SECONDS) as client:
            answers(client, "/readyz", 200)
            with client.stream("POST", "/generate", json=LONG | {"stream": True}) as stream:
                events = stream.iter_lines()
                assert next(line for line in events if line.startswith("event:")) == "event: accepted"
                opened.send_signal(signal.SIGTERM)
                refused = answers(client, "/readyz", 503)
                assert refused.headers["retry-after"] == "5"
                assert client.post("/generate", json=DRAW).status_code == 503
                *_, name, data, _ = events
                assert name == "event: error"
                assert json.loads(data.removeprefix("data: "))["type"] == "urn:retouch:problem:not-ready"
        assert opened.wait(GUARD_SECONDS) == -signal.SIGTERM


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/openapi.json", "/docs"])
async def test_who_asks_for_the_head_alone_is_told_it(scripts, path):
    async with served(scripts) as (_, client), client:
        whole, head = await client.get(path), await client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert head.headers["content-length"] == str(len(whole.content))
