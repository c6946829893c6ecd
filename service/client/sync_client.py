"""The client that waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
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
from service.client.events import Event, check_stream, iter_events
from service.client.link import TIMEOUT, link, wait_seconds

T = TypeVar("T")


class Client:
    """A service at an address, as methods; to be closed, or used as a context manager. Threads may share it.

    Every method raises a `service.errors.RetouchError` where the service refuses or fails, `ServerError` where the
    answer is not one of a Retouch, and httpx's own errors where the network fails.
    """

    def __init__(
        self,
        base_url: str,
        key: str | None = None,
        *,
        timeout: httpx.Timeout | float | None = TIMEOUT,
        retries: int = 0,
        sleep: Callable[[float], None] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """What is refused as too much or not ready is asked again up to `retries` times, when the service says so.

        Nothing is sent yet. A wait of more than a minute is not waited for. InputError where the address or the key
        cannot be one.
        """
        self._http = httpx.Client(**link(base_url, key, timeout), transport=transport)
        self._retries = retries
        self._sleep = sleep

    def generate(self, prompt: str, **fields: Unpack[GenerateFields]) -> Result:
        """Draw a picture from a prompt, and record how, so that it can be edited."""
        return self._ask(calls.generate(prompt, fields), read_result)

    def edit(self, prompt: str, **fields: Unpack[EditFields]) -> Result:
        """Change the words of a picture: of the one with `image_id`, or the one that `source_prompt` draws.

        With neither it is the kept picture that the new words are the least edit of, or else a new one.
        """
        return self._ask(calls.edit(prompt, fields), read_result)

    @contextmanager
    def stream_generate(self, prompt: str, **fields: Unpack[GenerateStreamFields]) -> Iterator[Iterator[Event]]:
        """The events of `generate`, as they come; leaving the context before the receipt cancels the job."""
        with self._stream(calls.generate(prompt, fields, stream=True)) as events:
            yield events

    @contextmanager
    def stream_edit(self, prompt: str, **fields: Unpack[EditStreamFields]) -> Iterator[Iterator[Event]]:
        """The events of `edit`, as they come; leaving the context before the receipt cancels the job."""
        with self._stream(calls.edit(prompt, fields, stream=True)) as events:
            yield events

    def image(self, image_id: str) -> bytes:
        """The PNG of a picture that is kept. UnknownImageError if it is not."""
        return self._ask(calls.image(image_id), read_png)

    def mask(self, image_id: str) -> bytes:
        """The PNG of what an edit changed, in white. UnknownImageError; NoMaskError if it is no edit."""
        return self._ask(calls.mask(image_id), read_png)

    def lineage(self, image_id: str) -> Lineage:
        """Where a picture comes from, and what was made of it. UnknownImageError if it is not kept."""
        return self._ask(calls.lineage(image_id), read_lineage)

    def delete(self, image_id: str) -> None:
        """Forget a picture and how it was drawn; edits of it stay. UnknownImageError if it is not kept."""
        self._ask(calls.delete(image_id), read_nothing)

    def model(self) -> Model:
        """What the service draws with, and its defaults. NotReadyError while that is loading."""
        return self._ask(calls.model(), read_model)

    def ready(self) -> bool:
        """Whether jobs are taken: the model is loaded, and the service is not shutting down."""
        return self._ask(calls.ready(), read_ready)

    def close(self) -> None:
        """Close what connections are open."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, call: Call, read: Callable[[httpx.Response], T]) -> T:
        with closing(self._answer(call)) as response:
            response.read()
        with understood(response):
            return read(response)

    @contextmanager
    def _stream(self, call: Call) -> Iterator[Iterator[Event]]:
        with closing(self._answer(call)) as response:
            check_stream(response)
            yield iter_events(response)

    def _answer(self, call: Call) -> httpx.Response:
        """One that went well, its body still to come."""
        request = self._http.build_request(call.method, call.path, content=call.content, headers=call.headers)
        num_left = self._retries
        while (response := self._http.send(request, stream=True)).status_code not in call.statuses:
            with closing(response):
                response.read()
            if (seconds := wait_seconds(response, num_left)) is None:
                raise failure(response)
            self._sleep(seconds)
            num_left -= 1
        return response
