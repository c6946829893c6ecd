"""A real Redis that is not there, dies, comes back, forgets and dawdles. Calls go on, and the index heals by itself."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from cache_store.index.redis import RedisIndex, connect

SLOW_SECONDS = 5  # between two heartbeats, and longer than any pause between two tries
SHORT_SECONDS = 0.5  # a tenth of that, and longer than the first pause
PATIENT_SECONDS = 30.0


class Proxy:
    """A TCP port before a server: what it is sent waits while `passing` is not set."""

    def __init__(self, path):
        self.passing = threading.Event()
        self.passing.set()
        self._path = path
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self):
        self.passing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for one in self._sockets:
            _hang_up(one)
        for thread in self._threads[1:]:
            thread.join()
        for one in (self._listener, *self._sockets):
            one.close()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # it was closed
            far = socket.socket(socket.AF_UNIX)
            self._sockets += [near, far]
            far.connect(str(self._path))
            for pair in ((near, far), (far, near)):
                self._threads.append(threading.Thread(target=self._forward, args=pair))
                self._threads[-1].start()

    def _forward(self, source, target):
        with suppress(OSError):  # one end was closed
            while data := source.recv(1 << 16):
                self.passing.wait()
                target.sendall(data)
        _hang_up(target)


def _hang_up(one):
    with suppress(OSError):  # it was done before
        one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(server):
    proxy = Proxy(server.path)
    yield proxy
    proxy.close()


@pytest.fixture
def world(server, world_at):
    """Workers at a Redis that is not started."""
    return world_at(server.client)


@pytest.fixture
def admit(prompt, at, entry, space):
    """admit(index, "one") -> the index has it."""

    def call(index, recording_id):
        index.admit(space, at(prompt, 0.9), entry(recording_id, index.worker))

    return call


@pytest.fixture
def found(space, prompt):
    """found(index) -> the recordings that it finds."""
    return lambda index: {hit.entry.recording_id for hit in index.nearest(space, prompt, 99, 0.5)}


def test_not_there_at_the_start(server, world, admit, found):
    index, other = world.index("a"), world.index("b")
    admit(index, "one")
    world.pass_time(SLOW_SECONDS)
    assert found(index) == {"one"}
    assert found(other) == set()
    assert index.holders("ann", "one")
    assert other.holders("ann", "one") == []
    assert (index.up, other.up) == (False, False)
    assert "connecting" in str(other.fault)
    assert index.counts().lookups == {"hit": 1, "miss": 0, "down": 0}
    assert other.counts().lookups == {"hit": 0, "miss": 0, "down": 1}

    server.start()
    world.pass_time(SLOW_SECONDS)
    assert (index.up, other.up) == (True, True)
    assert found(other) == {"one"}


def test_that_it_goes_and_comes_is_told_once_each(server, world, caplog):
    caplog.set_level("INFO", "cache_store.index")
    server.start()
    world.index("a")
    assert caplog.messages == []
    server.kill()
    for _ in range(3):
        world.pass_time(SLOW_SECONDS)
    told = "Redis does not answer (ConnectionError): the index has this worker's recordings alone"
    assert [(record.levelname, record.message) for record in caplog.records] == [("WARNING", told)]
    server.start()
    for _ in range(3):
        world.pass_time(SLOW_SECONDS)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_what_a_worker_has_itself_is_asked_of_nobody(server, world, admit, space, prompt):
    server.start()
    index = world.index("a")
    admit(index, "one")
    world.settle()
    server.kill()
    (hit,) = index.nearest(space, prompt, 5, 0.5, "a")
    assert hit.entry.recording_id == "one"
    assert index.nearest(space, -prompt, 5, 0.5, "a") == []
    assert index.up  # nobody has noticed
    assert index.counts().lookups == {"hit": 1, "miss": 1, "down": 0}


def test_killed_and_started_again(server, world, admit, found):
    server.start()
    index, other = world.index("a"), world.index("b")
    admit(index, "one")
    admit(index, "two")
    world.settle()
    assert found(other) == {"one", "two"}

    server.kill()
    assert found(other) == set()
    assert not other.up
    assert other.holders("ann", "one") == []
    index.evict("two", "a")
    admit(index, "three")
    world.pass_time(SLOW_SECONDS)
    assert found(index) == {"one", "three"}

    server.start()
    world.pass_time(SLOW_SECONDS)
    assert found(index) == found(other) == {"one", "three"}
    assert other.up


def test_who_sees_it_die_heals_as_soon_as_it_is_back(server, world, admit, found):
    """Without waiting for the next heartbeat, whether it was asked or told something meanwhile."""
    server.start()
    asking, telling, other = world.index("a"), world.index("b"), world.index("c")
    admit(asking, "one")
    admit(telling, "two")
    world.settle()
    server.kill()
    assert found(asking) == {"one"}
    admit(telling, "three")
    world.settle()
    server.start()
    world.pass_time(SHORT_SECONDS)
    assert found(other) == {"one", "two", "three"}


def test_wiped(server, world, admit, found):
    server.start()
    index, other = world.index("a"), world.index("b")
    admit(index, "one")
    admit(other, "two")
    world.settle()
    with server.client() as client:
        client.flushall()
    world.pass_time(SLOW_SECONDS)
    assert found(index) == found(other) == {"one", "two"}
    assert index.up


def test_set_back_to_an_old_snapshot(server, world, admit, found):
    server.start()
    index, other = world.index("a"), world.index("b")
    admit(index, "gone")
    admit(index, "one")
    world.settle()
    with server.client() as client:
        client.save()
    index.evict("gone", "a")
    admit(index, "two")
    world.settle()
    server.kill()
    server.start()
    assert found(other) == {"gone", "one"}  # it remembers what was; who follows a pointer verifies it
    world.pass_time(SLOW_SECONDS)
    assert found(other) == {"one", "two"}


def test_full(server, world, admit, found):
    server.start()
    index, other = world.index("a"), world.index("b")
    with server.client() as client:
        client.config_set("maxmemory", 1)
        admit(index, "one")
        world.pass_time(SLOW_SECONDS)
        assert found(index) == {"one"}
        assert index.num_pending == 1
        assert "maxmemory" in str(index.fault)
        client.config_set("maxmemory", 0)
    world.pass_time(SLOW_SECONDS)
    assert found(other) == {"one"}


def test_slow(server, proxy, world_at, world_clock, admit, found):
    """What a slow Redis would say arrives when the calls have long returned: the test lets it pass only then."""
    server.start()
    world = world_at(server.client)
    admit(world.index("b"), "other")
    world.settle()
    clients = connect(proxy.url, PATIENT_SECONDS), connect(proxy.url, PATIENT_SECONDS)
    index = RedisIndex(*clients, "a", 1, bound_seconds=0.05, clock=world_clock)
    world.indexes.append(index)
    admit(index, "one")
    world.settle()
    assert index.up

    proxy.passing.clear()
    assert found(index) == {"one"}
    assert not index.up
    assert isinstance(index.fault, TimeoutError)
    assert [one.worker for one in index.holders("ann", "one")] == ["a"]
    admit(index, "two")
    index.evict("one", "a")
    assert found(index) == {"two"}

    proxy.passing.set()
    index.bound_seconds = PATIENT_SECONDS  # of a busy machine
    world.pass_time(SLOW_SECONDS)
    assert found(index) == {"two", "other"}
    assert found(world.indexes[0]) == {"two", "other"}


def test_the_thread_does_all_of_it(server, world_at, admit, found):
    """As the service runs it: real clients, a real clock; the test waits for what must come to pass."""
    index = RedisIndex.open(server.url, "a", 1, bound_seconds=PATIENT_SECONDS)
    admit(index, "one")
    assert not index.flush(0)
    server.start()
    assert index.flush(PATIENT_SECONDS)
    world = world_at(server.client)
    other = world.index("b")
    assert found(other) == {"one"}

    server.kill()
    admit(index, "two")
    index.evict("one", "a")
    server.start()
    assert index.flush(PATIENT_SECONDS)
    world.pass_time(SLOW_SECONDS)
    assert found(other) == {"two"}

    index.close()
    assert found(other) == set()


def test_slow_while_the_thread_writes(server, proxy, world_at, admit, found):
    server.start()
    index = RedisIndex.open(proxy.url, "a", 1, bound_seconds=PATIENT_SECONDS)
    admit(index, "one")
    assert index.flush(PATIENT_SECONDS)
    proxy.passing.clear()
    for name in ("two", "three"):
        admit(index, name)
    index.evict("two", "a")
    assert not index.flush(0)
    proxy.passing.set()
    assert index.flush(PATIENT_SECONDS)
    assert found(world_at(server.client).index("b")) == {"one", "three"}
    index.close()


def test_calls_from_many_threads_go_on_while_it_dies_and_comes_back(server, admit, found):
    server.start()
    index = RedisIndex.open(server.url, "a", 1, bound_seconds=PATIENT_SECONDS)
    stopping, started = threading.Event(), threading.Barrier(5)

    def work(number):
        turn = 0
        started.wait()
        while not stopping.is_set() or turn < 50:
            turn += 1
            admit(index, f"{number}.{turn % 7}")
            assert f"{number}.{turn % 7}" in found(index)
            index.evict(f"{number}.{(turn + 3) % 7}", "a")
        return {name for name in found(index) if name.startswith(f"{number}.")}

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(work, number) for number in range(4)]
        started.wait()
        for _ in range(3):
            server.kill()
            server.start()
        stopping.set()
        expected = set().union(*(job.result() for job in jobs))
    assert index.flush(PATIENT_SECONDS)
    index.close()
    assert found(index) == expected
