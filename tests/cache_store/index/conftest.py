"""Indexes of some workers: in one process, on fakeredis, on a real Redis 8."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fakeredis
import numpy as np
import pytest
import redis

from cache_store.index import Array, Entry, Index, Space
from cache_store.index.ledger import Lifetimes
from cache_store.index.memory import MemoryIndex
from cache_store.index.redis import RedisIndex, connect

INSTALL = Path(__file__).parents[2] / "redis8.sh"
PATIENT_SECONDS = 30.0  # for what comes at once, on a busy machine
NUM_DIMENSIONS = 24
SPACE = Space("ann", "postcard", 256, 256, "ddim 20 steps")


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class RedisServer:
    """A real Redis 8 at a socket of its own; it keeps nothing over a restart."""

    def __init__(self, executable: Path, folder: Path) -> None:
        self._command = [executable, "--port", "0", "--unixsocket", folder / "redis", "--save", "", "--dir", folder]
        self._process: subprocess.Popen[str] | None = None
        self.path = folder / "redis"
        self.url = f"unix://{self.path}"

    def start(self) -> None:
        """Returns when it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)  # noqa: S603  # our own words
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "Ready to accept connections" in line:
                return
        raise AssertionError(f"redis-server ended with {self._process.wait()}")

    def kill(self) -> None:
        """It has no time for a farewell."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def client(self) -> redis.Redis:
        return connect(self.url, PATIENT_SECONDS)


@dataclass
class World:
    """Workers and their indexes. Time stands still, and the indexes' threads are `settle`."""

    clock: Clock
    client: Callable[[], redis.Redis] | None  # None: all share one index in memory

    def __post_init__(self) -> None:
        self.indexes: list[Index] = []

    def index(self, worker: str = "a", epoch: int = 1, **limits: Any) -> Index:
        """Of a worker that starts now."""
        if self.client is None:
            index: Index = self.indexes[0] if self.indexes else MemoryIndex(**limits)
        else:
            clients = self.client(), self.client()
            index = RedisIndex(*clients, worker, epoch, bound_seconds=PATIENT_SECONDS, clock=self.clock, **limits)
        self.indexes.append(index)
        self.settle()
        return index

    def settle(self) -> None:
        """All have announced what they have to."""
        for index in self.indexes:
            if isinstance(index, RedisIndex):
                settle(index)

    def pass_time(self, seconds: float) -> None:
        """And all do what has become due."""
        self.clock.seconds += seconds
        self.settle()

    def close(self) -> None:
        for index in self.indexes:
            index.close()


def settle(index: RedisIndex) -> None:
    """Turns until nothing is due."""
    for _ in range(1000):
        if index.turn() > 0:
            return
    raise AssertionError(f"{index.num_pending} changes are still pending, {index.fault!r}")


@pytest.fixture(scope="session")
def redis_executable(pytestconfig: pytest.Config) -> Path:
    """A redis-server, kept in pytest's cache; an error where it cannot be had."""
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("redis8")
    if not (folder / "redis-server").exists():
        subprocess.run([INSTALL, folder], check=True)  # noqa: S603  # our own script
    return folder / "redis-server"


@pytest.fixture(scope="session")
def session_server(redis_executable: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(redis_executable, tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(redis_executable: Path, tmp_path: Path) -> Iterator[RedisServer]:
    """One of the test's own, not started."""
    server = RedisServer(redis_executable, tmp_path)
    yield server
    server.kill()


@pytest.fixture
def world_clock() -> Clock:
    return Clock()


@pytest.fixture
def fake_client() -> Callable[[], redis.Redis]:
    shared = fakeredis.FakeServer(version=(8,))
    return lambda: fakeredis.FakeRedis(server=shared, protocol=3)


@pytest.fixture
def real_client(session_server: RedisServer) -> Callable[[], redis.Redis]:
    """Of a Redis with nothing in it."""
    with session_server.client() as client:
        client.flushall()
        client.config_resetstat()  # who makes a client may count its commands
    return session_server.client


@pytest.fixture(params=["fake", "real"])
def client(request: pytest.FixtureRequest) -> Callable[[], redis.Redis]:
    """Makes clients of one Redis."""
    made: Callable[[], redis.Redis] = request.getfixturevalue(f"{request.param}_client")
    return made


@pytest.fixture
def world_at(world_clock: Clock) -> Iterator[Callable[[Callable[[], redis.Redis] | None], World]]:
    """world_at(client) -> workers that share what the clients are of, or without one an index in memory."""
    worlds: list[World] = []

    def make(client: Callable[[], redis.Redis] | None) -> World:
        worlds.append(World(world_clock, client))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


@pytest.fixture(params=["memory", "fake", "real"])
def world(request: pytest.FixtureRequest, world_at: Callable[..., World]) -> World:
    """Workers that share an index of one of the kinds."""
    return world_at(None if request.param == "memory" else request.getfixturevalue(f"{request.param}_client"))


@pytest.fixture
def workers(client: Callable[[], redis.Redis], world_at: Callable[..., World]) -> World:
    """Workers that share a Redis."""
    return world_at(client)


@pytest.fixture
def real_workers(real_client: Callable[[], redis.Redis], world_at: Callable[..., World]) -> World:
    """Workers that share a real Redis."""
    return world_at(real_client)


@pytest.fixture
def space() -> Space:
    return SPACE


@pytest.fixture
def lifetimes() -> Lifetimes:
    return Lifetimes()


@pytest.fixture
def prompt() -> Array:
    """An embedding."""
    return np.random.default_rng(0).standard_normal(NUM_DIMENSIONS).astype(np.float32)


@pytest.fixture
def at() -> Callable[..., Array]:
    """at(embedding, cosine) -> another embedding, of another length, at this cosine."""

    def turn(embedding: Array, cosine: float, seed: int = 1) -> Array:
        unit = embedding / np.linalg.norm(embedding)
        other = np.random.default_rng(seed).standard_normal(len(unit))
        other -= (other @ unit) * unit
        return (3 * (cosine * unit + np.sqrt(1 - cosine**2) * other / np.linalg.norm(other))).astype(np.float32)

    return turn


@pytest.fixture
def entry() -> Callable[..., Entry]:
    """entry(recording, worker) -> an entry."""

    def make(recording_id: str, worker: str = "a", epoch: int = 1, tier: str = "host", created: float = 0.5) -> Entry:
        return Entry(recording_id, worker, epoch, tier, 1000, created)

    return make
