"""The service behind a real port, as OpenAI's own client meets it."""

from __future__ import annotations

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

from service.settings import Settings

GUARD_SECONDS = 60  # a test that hangs fails


@pytest.fixture(scope="session")
def address(listen):
    """Of the service over the embedded model."""
    with listen(Settings(device="cpu", threads=1)) as server:
        server.app.state.worker._batcher.wait_opened()
        yield server.url


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
