"""The service behind a real port, as OpenAI's own client meets it."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from openai import AsyncOpenAI, OpenAI

from service.app import create_app
from service.settings import Settings

GUARD_SECONDS = 60  # a test that hangs fails


@contextmanager
def served(settings, **options):
    """The address of the application, which answers in a thread of its own and has loaded its model."""
    app = create_app(settings, **options)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            httpx.get(f"{address}/healthz", timeout=GUARD_SECONDS)  # answered when the application has begun
            app.state.worker._batcher.wait_opened()
            yield address
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def address():
    """Of the service over the embedded model."""
    with served(Settings(device="cpu", threads=1)) as found:
        yield found


@pytest.fixture(scope="session")
def openai(address):
    """OpenAI's client of it."""
    with OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=GUARD_SECONDS) as client:
        yield client


@pytest.fixture
def openai_of():
    """OpenAI's client of an application without a port: its answers come whole."""

    def of(client: httpx.AsyncClient, key: str = "none") -> AsyncOpenAI:
        return AsyncOpenAI(base_url="http://localhost/v1", api_key=key, max_retries=0, http_client=client)

    return of
