"""The service behind a real port, in a thread of the tests' own process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.app import create_app
from service.server import Server
from service.settings import Settings

GUARD_SECONDS = 60  # a test that hangs fails


class Listening(Server):
    """Tells when it listens, and where."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.has_begun = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.has_begun.set()

    @property
    def app(self) -> Any:
        return self.config.app

    @property
    def port(self) -> int:
        return int(self.servers[0].sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def listening(settings: Settings, **options: Any) -> Iterator[Listening]:
    """The application of `create_app` on any free port. Its log is kept from stdout."""
    settings = settings.model_copy(update={"port": 0})
    server = Listening(create_app(settings, **options), settings)
    with capture_logs():
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            assert server.has_begun.wait(GUARD_SECONDS)
            assert server.started
            yield server
        finally:
            server.should_exit = True
            thread.join(GUARD_SECONDS)
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def listen() -> Callable[..., AbstractContextManager[Listening]]:
    """Opens services: `listening`."""
    return listening
