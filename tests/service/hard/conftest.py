"""The whole service, from its port to the embedded model; a test counts network calls, holds them, or lets them die."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest

from cache_store.index.memory import MemoryIndex
from cache_store.store import Store
from service.batching.policy import Limits
from service.engine.catalog import Catalog, Nearness
from service.engine.weights import Model, load_model
from service.settings import Settings
from service.workers import Worker
from service.workers.local import open_local

GUARD_SECONDS = 60  # a test that hangs fails
POLL_SECONDS = 0.001  # who looks all the time holds up what is to come
SIZE, STEPS = 64, 3  # of pictures where nothing else is asked
STORE_BYTES = 256 << 20


@dataclass
class Hold:
    """A place in the engine that may be passed as often as it is let."""

    num_reached: int = 0  # times that it was reached
    error: BaseException | None = None  # that is raised there, once
    _num_left: int = 1 << 60
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def reach(self, *_: object) -> None:
        """What the device thread does there."""
        with self._changed:
            self.num_reached += 1
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._num_left > 0, GUARD_SECONDS)
            self._num_left -= 1
            error, self.error = self.error, None
        if error is not None:
            raise error

    def let(self, times: int) -> None:
        """From now on only so often."""
        with self._changed:
            self._num_left = times
            self._changed.notify_all()

    def let_all(self) -> None:
        """As often as it is reached."""
        self.let(1 << 60)

    def wait_reached(self, times: int) -> None:
        """Until it was reached so often in all."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.num_reached >= times, GUARD_SECONDS)


@dataclass
class Device:
    """One model, and the service's own worker over it."""

    model: Model
    calls: Hold = field(default_factory=Hold)  # of the network
    decodings: Hold = field(default_factory=Hold)
    openings: Hold = field(default_factory=Hold)  # of the model

    def open_worker(self, settings: Settings) -> Worker:
        limits = Limits(settings.running_jobs, settings.step_images)
        nearness = Nearness(settings.min_similarity, settings.max_changed_words)
        catalog = Catalog(MemoryIndex(), "tests", 1, nearness)
        store = Store(STORE_BYTES, on_lost=catalog.withdraw)
        return open_local(self._open, store, queue_jobs=settings.queue_jobs, limits=limits, catalog=catalog)

    def _open(self) -> Model:
        self.openings.reach()
        return self.model

    @contextmanager
    def hooked(self) -> Iterator[None]:
        network = self.model.unet.register_forward_pre_hook(self.calls.reach)
        decoder = self.model.vae.decoder.conv_in.register_forward_pre_hook(self.decodings.reach)
        with network, decoder:
            yield

    def let_all(self) -> None:
        for hold in (self.calls, self.decodings, self.openings):
            hold.let_all()


def until(is_so: Callable[[], bool]) -> None:
    """Returns when it is so."""
    nothing, end = threading.Event(), time.monotonic() + GUARD_SECONDS
    while not is_so():
        assert time.monotonic() < end
        nothing.wait(POLL_SECONDS)


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], bool]], None]:
    return until


@pytest.fixture(scope="session")
def small_model() -> Model:
    """The embedded model, drawing small pictures in few steps."""
    model = load_model(max_pixels=SIZE * SIZE)
    defaults = replace(model.defaults, width=SIZE, height=SIZE, num_inference_steps=STEPS)
    return replace(model, defaults=defaults)


@pytest.fixture(scope="session")
def serve(listen: Any) -> Callable[..., AbstractContextManager[Any]]:
    """Opens the service over a device, with settings as named, when its model is loaded."""

    @contextmanager
    def serving(device: Device, **settings: Any) -> Iterator[Any]:
        with device.hooked(), listen(Settings(**settings), open_worker=device.open_worker) as server:
            until(lambda: server.app.state.worker.state == "ready")
            try:
                yield server
            finally:
                device.let_all()

    return serving


@pytest.fixture
def device(small_model: Model) -> Device:
    return Device(small_model)


@pytest.fixture
def open_service(device: Device, serve: Any) -> Callable[..., AbstractContextManager[Any]]:
    """The same over the test's device."""
    return partial(serve, device)


@pytest.fixture(scope="module")
def open_shared(small_model: Model, serve: Any) -> Callable[..., AbstractContextManager[Any]]:
    """The same over one that serves many tests."""
    return partial(serve, Device(small_model))
