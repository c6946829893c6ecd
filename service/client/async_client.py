"""The client that is awaited; `service.client.sync_client` says what its methods do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx

from service.client import calls
from service.client.answers import (
    Lineage,
    Model,
    Result,
    read_lineage,
    read_model,
    read_nothing,
    read_png,
    read_ready,
    read_result,
)
from service.client.calls import Call, EditFields, EditStreamFields, GenerateFields, GenerateStreamFields
from service.client.errors import failure, understood
from service.client.events import Event, aiter_events, check_stream
from service.client.link import TIMEOUT, link, wait_seconds

T = TypeVar("T")


class AsyncClient:
    """As `Client`, for one event loop."""

    def __init__(
        self,
        base_url: str,
        key: str | None = None,
        *,
        timeout: httpx.Timeout | float | None = TIMEOUT,
        retries: int = 0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """As `Client`."""
        self._http = httpx.AsyncClient(**link(base_url, key, timeout), transport=transport)
        self._retries = retries
        self._sleep = sleep

    async def generate(self, prompt: str, **fields: Unpack[GenerateFields]) -> Result:
        """As `Client.generate`."""
        return await self._ask(calls.generate(prompt, fields), read_result)

    async def edit(self, prompt: str, **fields: Unpack[EditFields]) -> Result:
        """As `Client.edit`."""
        return await self._ask(calls.edit(prompt, fields), read_result)

    @asynccontextmanager
    async def stream_generate(
        self, prompt: str, **fields: Unpack[GenerateStreamFields]
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """As `Client.stream_generate`."""
        async with self._stream(calls.generate(prompt, fields, stream=True)) as events:
            yield events

    @asynccontextmanager
    async def stream_edit(self, prompt: str, **fields: Unpack[EditStreamFields]) -> AsyncIterator[AsyncIterator[Event]]:
        """As `Client.stream_edit`."""
        async with self._stream(calls.edit(prompt, fields, stream=True)) as events:
            yield events

    async def image(self, image_id: str) -> bytes:
        """As `Client.image`."""
        return await self._ask(calls.image(image_id), read_png)

    async def mask(self, image_id: str) -> bytes:
        """As `Client.mask`."""
        return await self._ask(calls.mask(image_id), read_png)

    async def lineage(self, image_id: str) -> Lineage:
        """As `Client.lineage`."""
        return await self._ask(calls.lineage(image_id), read_lineage)

    async def delete(self, image_id: str) -> None:
        """As `Client.delete`."""
        await self._ask(calls.delete(image_id), read_nothing)

    async def model(self) -> Model:
        """As `Client.model`."""
        return await self._ask(calls.model(), read_model)

    async def ready(self) -> bool:
        """As `Client.ready`."""
        return await self._ask(calls.ready(), read_ready)

    async def close(self) -> None:
        """As `Client.close`."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, call: Call, read: Callable[[httpx.Response], T]) -> T:
        async with aclosing(await self._answer(call)) as response:
            await response.aread()
        with understood(response):
            return read(response)

    @asynccontextmanager
    async def _stream(self, call: Call) -> AsyncIterator[AsyncIterator[Event]]:
        async with aclosing(await self._answer(call)) as response:
            check_stream(response)
            async with aclosing(aiter_events(response)) as events:
                yield events

    async def _answer(self, call: Call) -> httpx.Response:
        """One that went well, its body still to come."""
        request = self._http.build_request(call.method, call.path, content=call.content, headers=call.headers)
        num_left = self._retries
        while (response := await self._http.send(request, stream=True)).status_code not in call.statuses:
            async with aclosing(response):
                await response.aread()
            if (seconds := wait_seconds(response, num_left)) is None:
                raise failure(response)
            await self._sleep(seconds)
            num_left -= 1
        return response
