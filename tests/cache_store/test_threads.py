"""32 threads on a store with room for a few recordings, in memory alone and in three tiers."""

import errno
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cache_store.layout import Plane
from cache_store.store import Store
from cache_store.tiers.arena import Arena
from cache_store.tiers.disk import Disk

NUM_THREADS, NUM_TURNS, NUM_IDS = 32, 40, 6
LAYOUT = {"rows": Plane.of(64, {"a": 3, "b": 5}, torch.float32, num_steps=2)}
NUM_BYTES = 2 * 64 * 8 * 4
POSITIONS = torch.arange(64)
KEPT = torch.arange(0, 64, 3)


def work(store, known, number, start):
    """Records, edits, reads, evicts and deletes at random; returns how many whole recordings it has read.

    What it has recorded it announces to all who know which can be read.
    """
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
        announce(store, known, name, other)
        if choose.random() < 0.3:
            choose.choice([store.delete, store.evict])(name)
        if recording:
            num_read += read(recording)  # it is pinned: deleting it, or a full store, changes nothing
            recording.close()
        counts = store.counts()
        for tier, used_bytes in counts["used_bytes"].items():
            assert used_bytes <= counts["budget_bytes"][tier] + (NUM_BYTES if tier == ("disk",) else 0)
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


def announce(store, known, *names):
    """Those that can be read now."""
    for name in names:
        recording = store.open(name, uses=False)
        if recording is not None:
            with recording:
                if recording.activations is not None:
                    known.add(name)


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
    """In the host's memory, of all that the store's recordings can read."""
    living = set()
    for name in store.ids():
        with store.open(name) as recording:
            living.update(recording.holds)
    return sum(rows.lie.num_bytes for rows in living if "host" in rows.copies)


@pytest.fixture
def _many_switches():
    """Threads change a thousand times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 1000)
    yield
    sys.setswitchinterval(before)


def disturb(store, known):
    """32 threads at once; how many whole recordings they read."""
    start = threading.Barrier(NUM_THREADS)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        jobs = [pool.submit(work, store, known, number, start) for number in range(NUM_THREADS)]
        return sum(job.result() for job in jobs)


def end(store, known):
    """Nothing is open and nothing moves: all bytes are those of recordings, and without recordings there are none.

    What is known is what can be read.
    """
    assert store.settle()
    assert known == {one.id for one in store.describe() if one.bytes_by_tier}
    assert len(store.ids()) <= 4
    assert store.num_bytes == num_bytes_reached(store)
    make(store, "last", 0.0, None)
    for name in store.ids():
        store.delete(name)
    assert store.settle()
    assert not any(store.counts()["used_bytes"].values())


@pytest.mark.usefixtures("_many_switches")
def test_nothing_is_torn_and_no_byte_is_lost():
    known = set()
    store = Store(6 * NUM_BYTES, max_recordings=4, on_lost=known.discard)
    assert disturb(store, known) > 0
    end(store, known)


@pytest.mark.usefixtures("_many_switches")
def test_nothing_is_torn_and_no_byte_is_lost_in_three_tiers(tmp_path, failing):
    """The host has room for three recordings, the device for one, the disk for five; it fails a while."""
    system, known = failing(), set()
    disk = Disk(tmp_path, 5 * NUM_BYTES + 40 * 4096, system=system, retry_seconds=0.001)
    store = Store(3 * NUM_BYTES, max_recordings=4, device=Arena(NUM_BYTES), disk=disk, on_lost=known.discard)
    assert disturb(store, known) > 0
    assert store.settle()
    system.fail(errno.ENOSPC, "write")
    assert disturb(store, known) > 0
    system.recover()
    assert disturb(store, known) > 0
    store._movement.mover.hurry()
    assert store.settle()
    counts = store.counts()
    assert counts["disk_on"] == {(): 1}
    assert "damaged" not in counts
    assert counts["transfer_bytes"]["host", "disk"] > 0
    end(store, known)
    assert [path.name for path in tmp_path.iterdir()] == ["retouch.lock"]
