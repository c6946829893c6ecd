"""A disk that is full, read-only, slow or not there costs no request anything."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from cache_store.tiers.disk import Disk

GUARD_SECONDS = 60
ROW_BYTES, NORM_BYTES = 256, 128
POSITIONS = torch.arange(6)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_failing_disk_is_turned_off_and_on_again_and_nobody_notices(
    archive_of, disk_of, failing, restart, caplog, number
):
    system = failing()
    archive = archive_of(disk=disk_of(system=system, retry_seconds=3600.0))
    archive.record("before")
    archive.settle()
    system.fail(number, *(("write",) if number == errno.ENOSPC else ("open", "rename", "unlink")))
    for name in "abc":
        archive.record(name)
    archive.record("d", "a", [1])
    archive.store.delete("before")
    for name in "abcd":
        archive.check(name)
    assert archive.settle().counts()["disk_on"] == {(): 0}
    assert archive.store.counts()["disk_failures"] == {(): 1}
    assert [os.strerror(number) in record.message for record in caplog.records] == [True]
    system.recover()
    archive.hurry()
    assert archive.tiers() == {name: {"host", "disk"} for name in "abcd"}
    assert archive.store.counts()["disk_on"] == {(): 1}
    assert "on again" in caplog.records[-1].message
    restart(archive)
    assert archive.store.ids() == list("abcd")
    for name in "abcd":
        archive.check(name)


def test_a_disk_that_fails_while_there_is_nothing_to_write_comes_back(archive_of, disk_of, failing):
    system = failing()
    archive = archive_of(disk=disk_of(system=system, retry_seconds=3600.0))
    archive.record("a")
    archive.settle()
    system.fail(errno.EROFS, "unlink", "open")
    archive.store.delete("a")
    assert archive.settle().counts()["disk_on"] == {(): 0}
    archive.hurry()
    assert archive.settle().counts()["disk_on"] == {(): 0}
    system.recover()
    archive.hurry()
    assert archive.settle().counts()["disk_on"] == {(): 1}
    assert archive.store.counts()["used_bytes"]["disk",] == 0


def test_who_is_made_again_stays_on_the_disk_until_that_is_written(archive_of, disk_of, failing, files):
    system = failing()
    archive = archive_of(disk=disk_of(system=system, retry_seconds=3600.0))
    archive.record("a")
    archive.settle().evict("a")
    archive.settle()
    system.fail(errno.ENOSPC, "write")
    archive.record("a")
    archive.settle()
    assert files() == ["a.core"]
    system.recover()
    archive.hurry()
    assert files() == sorted(["a.core", archive.rows_name("a")])


def test_a_log_that_is_kept_keeps_no_rows(archive_of, disk_of, failing, caplog):
    """An error would: by its frames, which hold what was to be written."""
    system = failing()
    archive = archive_of(disk=disk_of(system=system, retry_seconds=3600.0))
    system.fail(errno.ENOSPC, "write")
    archive.record("a")
    archive.settle().delete("a")
    assert archive.settle().num_bytes == 0
    assert len(caplog.records) == 1


def test_a_directory_that_cannot_be_had_costs_no_request(archive_of, tmp_path):
    (tmp_path / "file").touch()
    archive = archive_of(disk=Disk(tmp_path / "file" / "cache", 1 << 20))
    archive.record("a")
    archive.check("a")
    assert archive.settle().counts()["disk_on"] == {(): 0}
    assert archive.store.delete("a")
    archive.store.close(GUARD_SECONDS)


class Slow:
    """A system that is slow to synchronise."""

    def __init__(self):
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.renamed = []

    def fsync(self, fd):
        self.begun.set()
        assert self.may_end.wait(GUARD_SECONDS)
        os.fsync(fd)

    def rename(self, part, path):
        self.renamed.append(Path(path).name)
        Path(part).rename(path)

    def __getattr__(self, call):
        return getattr(os, call)


def test_what_is_deleted_while_it_is_written_is_never_there(archive_of, disk_of):
    system = Slow()
    archive = archive_of(disk=disk_of(system=system))
    archive.record("a")
    assert system.begun.wait(GUARD_SECONDS)
    archive.record("b")  # nobody waits for the disk
    archive.check("a")
    assert archive.store.delete("a")
    assert not archive.store.close(0)
    system.may_end.set()


def test_what_is_deleted_while_it_is_written_leaves_no_file(archive_of, disk_of, files):
    system = Slow()
    archive = archive_of(disk=disk_of(system=system))
    archive.record("a")
    assert system.begun.wait(GUARD_SECONDS)
    assert archive.store.delete("a")
    archive.record("a")  # and made again
    assert archive.store.delete("a")
    system.may_end.set()
    archive.settle()
    assert system.renamed == []  # killed at any time, it would not be back
    assert files() == []
    assert archive.store.num_bytes == 0


class Stuck:
    """A system of which one call does not return before it may."""

    def __init__(self, call):
        self.call = call
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.num_ended = 0

    def __getattr__(self, call):
        def function(*arguments):
            if call == self.call:
                self.begun.set()
                self.may_end.wait(GUARD_SECONDS)
                self.num_ended += 1
            return getattr(os, call)(*arguments)

        return function


def goes_on(archive, system):
    """Whatever needs no disk, while that does not answer."""
    assert system.begun.wait(GUARD_SECONDS)
    archive.check("a")
    archive.record("c", "a", [1])
    archive.check("c")
    assert archive.store.open("unknown") is None
    assert archive.store.counts()["recordings"]
    assert archive.store.evict("c")
    assert system.num_ended == 0


def test_a_disk_that_does_not_rename_stops_nobody(archive_of, disk_of):
    system = Stuck("rename")
    archive = archive_of(disk=disk_of(system=system))
    archive.record("a")
    goes_on(archive, system)
    system.may_end.set()
    assert archive.settle().ids() == ["a", "c"]


def test_a_disk_that_does_not_unlink_stops_only_who_deletes(archive_of, disk_of, files):
    system = Stuck("unlink")
    archive = archive_of(disk=disk_of(system=system))
    archive.record("a")
    archive.record("b")
    archive.settle()
    with ThreadPoolExecutor(1) as pool:
        deleting = pool.submit(archive.store.delete, "b")
        goes_on(archive, system)
        assert archive.store.open("b") is None
        assert not deleting.done()
        system.may_end.set()
        assert deleting.result(GUARD_SECONDS)
    assert "b.core" not in files()


def test_who_is_forgotten_for_others_waits_for_no_disk(archive_of, disk_of, files):
    system = Stuck("unlink")
    archive = archive_of(disk=disk_of(system=system), max_recordings=2)
    for name in "ba":
        archive.record(name)
    archive.settle()
    archive.record("new")  # for which b is forgotten
    goes_on(archive, system)
    system.may_end.set()
    archive.settle()
    assert "b.core" not in files()


def test_who_is_forgotten_and_then_deleted_is_gone_from_the_disk_at_once(archive_of, disk_of, files):
    archive = archive_of(disk=disk_of(), max_recordings=1)
    archive.record("a")
    archive.settle()
    begun, may_end = threading.Event(), threading.Event()
    archive.store._movement.mover.put("busy", lambda: begun.set() or may_end.wait(GUARD_SECONDS))
    assert begun.wait(GUARD_SECONDS)
    archive.record("b")  # for which a is forgotten
    assert "a.core" in files()
    assert not archive.store.delete("a")
    assert "a.core" not in files()
    may_end.set()


def test_a_cancelled_draft_leaves_no_file(stored, files):
    stored.record("a")
    stored.draft("b", "a", [1]).abort()
    stored.settle()
    assert len(files()) == 2


def test_the_same_recording_twice_is_written_once(stored, files):
    first, second = stored.draft("a"), stored.draft("a")
    for draft in (first, second):
        draft.put("image", b"a")
        draft.commit()
    stored.settle()
    assert len(files()) == 2


def test_a_store_that_is_closed_serves_from_memory(stored, files):
    stored.record("a")
    assert stored.store.close(GUARD_SECONDS)
    there = files()
    stored.record("b")
    for name in "ab":
        stored.check(name)
    assert stored.store.delete("a")
    assert files() == there
