"""Who watches a store is told of what is there, and of what a late disk brings."""

import threading

import pytest

GUARD_SECONDS = 60


@pytest.fixture
def kept(stored, restart):
    """Three recordings that were used in this order, after a restart."""
    for name in "abc":
        stored.record(name)
        stored.settle()
    restart(stored)
    return stored


def test_the_last_used_is_told_first(kept):
    told = []
    kept.store.watch(told.append)
    kept.settle()
    assert told == ["c", "b", "a"]
    again = []
    kept.store.watch(again.append)
    kept.record("d")
    kept.settle()
    assert (told, again) == (["c", "b", "a"], ["c", "b", "a"])  # d's maker knows of it


def test_what_a_late_disk_brings_is_told(stored, disk_of, archive_of):
    for name in "abc":
        stored.record(name)
        stored.settle()
    late, told = archive_of(disk=disk_of()), []  # another process still has the directory
    late.record("b")
    late.settle()
    late.store.watch(told.append)
    late.settle()
    assert told == ["b"]
    assert stored.store.close(GUARD_SECONDS)
    late.hurry()
    assert told == ["b", "c", "a"]
    for name in "ac":
        assert late.has_rows(name)


def test_what_is_written_does_not_wait_until_all_is_told(kept, files):
    begun, may_go_on, there = threading.Event(), threading.Event(), []

    def watch(name):
        begun.set()
        assert may_go_on.wait(GUARD_SECONDS)
        there.append((name, "d.core" in files()))

    kept.store.watch(watch)
    assert begun.wait(GUARD_SECONDS)
    kept.record("d")
    may_go_on.set()
    kept.settle()
    assert there == [("c", False), ("b", True), ("a", True)]


def test_a_watcher_that_fails_is_told_of_the_next(kept, caplog):
    told = []

    def watch(name):
        told.append(name)
        raise ValueError(name)

    kept.store.watch(watch)
    kept.settle()
    assert told == ["c", "b", "a"]
    assert len(caplog.records) == 3


def test_a_store_that_closes_tells_nobody_the_rest(kept):
    begun, may_go_on, told = threading.Event(), threading.Event(), []

    def watch(name):
        told.append(name)
        begun.set()
        assert may_go_on.wait(GUARD_SECONDS)

    kept.store.watch(watch)
    assert begun.wait(GUARD_SECONDS)
    assert not kept.store.close(0)
    may_go_on.set()
    assert kept.store.settle(GUARD_SECONDS)
    assert told == ["c"]
