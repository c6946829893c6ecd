"""Eight threads on a store with room for a few recordings."""

import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cache_store.layout import Plane
from cache_store.store import MemoryStore

NUM_THREADS, NUM_TURNS, NUM_IDS = 8, 150, 6
LAYOUT = {"rows": Plane.of(64, {"a": 3, "b": 5}, torch.float32, num_steps=2)}
NUM_BYTES = 2 * 64 * 8 * 4
POSITIONS = torch.arange(64)
KEPT = torch.arange(0, 64, 3)


def work(store, number, start):
    """Records, edits, reads, evicts and deletes at random; returns how many whole recordings it has read."""
    choose, num_read = random.Random(number), 0
    start.wait()
    for turn in range(NUM_TURNS):
        name, other = (str(choose.randrange(NUM_IDS)) for _ in range(2))
        recording = store.open(name)
        if recording is None or recording.activations is None:
            make(store, name, float(number * NUM_TURNS + turn), None)
        else:
            make(store, other, float(number * NUM_TURNS + turn), recording)
            num_read += read(recording)
        if choose.random() < 0.3:
            choose.choice([store.delete, store.evict])(name)
        if recording:
            num_read += read(recording)  # it is pinned: deleting it, or a full store, changes nothing
            recording.close()
        assert store.num_bytes <= store.budget_bytes
    return num_read


def make(store, name, value, parent):
    """All rows, or every third of a parent's child, are one value; the core says which."""
    kept = {"rows": KEPT} if parent else None
    draft = store.create(name, LAYOUT, parent, kept)
    for step in range(2):
        for column, width in (("a", 3), ("b", 5)):
            draft.write(step, "rows", column, torch.full((len(KEPT) if parent else 64, width), value))
    draft.put("own", str(value).encode())
    draft.put("others", parent.blob("others") if parent else str(value).encode())
    draft.commit()


def read(recording):
    """Whether it had rows; they are the two values of its core."""
    if recording.activations is None:
        return False
    expected = torch.full((64, 8), float(recording.blob("others")))
    expected[KEPT] = float(recording.blob("own"))
    for step in range(2):
        assert recording.rows(step, "rows", POSITIONS).equal(expected)
    return True


def num_bytes_reached(store):
    """Of all that the store's recordings can read."""
    living = set()
    for name in store.ids():
        with store.open(name) as recording:
            if recording.activations:
                living |= {recording.activations} | recording.activations.owners
    return sum(one.num_bytes for one in living)


@pytest.fixture
def _many_switches():
    """Threads change a thousand times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 1000)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_many_switches")
def test_nothing_is_torn_and_no_byte_is_lost():
    store = MemoryStore(6 * NUM_BYTES, max_recordings=4)
    start = threading.Barrier(NUM_THREADS)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        jobs = [pool.submit(work, store, number, start) for number in range(NUM_THREADS)]
        assert sum(job.result() for job in jobs) > 0
    assert len(store.ids()) <= 4
    assert store.num_bytes == num_bytes_reached(store)
    for name in store.ids():
        store.delete(name)
    assert store.num_bytes == 0
