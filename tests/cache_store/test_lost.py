"""Who listens is told which recordings cannot be read any more, before their bytes are another's."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from cache_store.store import Store

GUARD_SECONDS = 60


@dataclass
class Listener:
    """Whom it was told of, and what could be seen then."""

    look: Callable[[], Any] = lambda: None
    ids: list[str] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)

    def __call__(self, recording_id: str) -> None:
        self.ids.append(recording_id)
        self.seen.append(self.look())


@pytest.fixture
def listener():
    return Listener()


@pytest.fixture
def heard(archive_of, listener):
    """Makes an archive that is listened to."""
    return lambda num_bytes=1 << 20, **limits: archive_of(num_bytes, on_lost=listener, **limits)


def test_it_is_told_before_the_memory_is_anothers(heard, listener, num_bytes):
    archive = heard(2 * num_bytes)
    listener.look = lambda: (archive.store.num_bytes, archive.store.ids())
    for name in "abcd":
        archive.record(name)
    assert listener.ids == ["a", "b"]
    assert listener.seen == [(2 * num_bytes, ["a", "b"]), (2 * num_bytes, ["a", "b", "c"])]
    assert [archive.has_rows(name) for name in "abcd"] == [False, False, True, True]


def test_it_is_told_before_the_file_is_removed(heard, listener, disk_of, files, num_bytes):
    archive = heard(num_bytes, disk=disk_of(13 * 4096))  # a core takes 2 pages, rows 3
    listener.look = files
    archive.record("a")
    archive.settle()
    rows = archive.rows_name("a")
    for name in "bc":
        archive.record(name)
        archive.settle()
    assert listener.ids == ["a"]
    assert rows in listener.seen[0]
    assert rows not in files()


def test_who_leaves_one_of_two_tiers_is_not_lost(heard, listener, disk_of, num_bytes):
    archive = heard(num_bytes, disk=disk_of())
    for name in "abc":
        archive.record(name)
        archive.settle()
    assert archive.store.counts()["evictions"] == {("host", "demoted"): 2}
    assert listener.ids == []


def test_all_who_read_from_what_leaves_are_told_of(heard, listener, num_bytes):
    archive = heard(num_bytes + 1000)
    archive.record("a")
    archive.record("b", "a", [0])
    archive.record("c", "b", [1])
    archive.record("d")
    assert listener.ids == ["c", "b", "a"]
    assert [archive.has_rows(name) for name in "abcd"] == [False, False, False, True]


def test_rows_that_are_damaged_are_those_of_all_their_readers(heard, listener, disk_of, tmp_path):
    archive = heard(disk=disk_of())
    archive.record("a")
    archive.record("b", "a", [0])
    archive.record("c")
    rows = archive.rows_name("a")
    assert archive.store.close(GUARD_SECONDS)
    path = tmp_path / "cache" / rows
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    archive.store = Store(1 << 20, disk=disk_of(), on_lost=listener)
    listener.look = path.exists
    for name in "cba":
        archive.has_rows(name)
    assert sorted(listener.ids) == ["a", "b"]
    assert listener.seen == [True, True]
    archive.settle()
    assert not path.exists()


def test_who_is_evicted_on_request_is_told_of_once(heard, listener):
    archive = heard()
    archive.record("a")
    assert [archive.store.evict("a") for _ in range(2)] == [True, False]
    assert listener.ids == ["a"]


def test_who_is_deleted_is_told_of_though_others_read_its_rows(heard, listener):
    archive = heard()
    archive.record("a")
    archive.record("b", "a", [0])
    assert [archive.store.delete("a") for _ in range(2)] == [True, False]
    assert listener.ids == ["a"]
    archive.check("b")


@pytest.mark.parametrize("limit", [{"max_recordings": 2}, {"core_bytes": 2}])
def test_who_is_forgotten_for_others_is_told_of(heard, listener, limit):
    archive = heard(**limit)
    listener.look = archive.store.ids
    for name in "abc":  # a byte each
        archive.record(name)
    assert archive.store.ids() == ["b", "c"]
    assert listener.ids == ["a"]
    assert listener.seen == [["a", "b", "c"]]


def test_who_was_open_when_it_was_deleted_is_told_of_again(heard, listener):
    """Its reader may have announced it meanwhile."""
    archive = heard()
    archive.record("a")
    with archive.store.open("a"):
        archive.store.delete("a")
        assert listener.ids == ["a"]
    assert listener.ids == ["a", "a"]


def test_who_was_made_again_meanwhile_is_not(heard, listener):
    archive = heard()
    archive.record("a")
    with archive.store.open("a"):
        archive.store.delete("a")
        archive.record("a")
    assert listener.ids == ["a"]
    archive.check("a")


def test_what_was_never_whole_is_not_told_of(heard, listener, num_bytes):
    archive = heard(num_bytes)
    archive.draft("a").abort()
    with archive.draft("b"):
        archive.record("c")  # for which there is no room
    assert not archive.has_rows("c")
    assert listener.ids == []
