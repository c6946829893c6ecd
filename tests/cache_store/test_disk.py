"""A directory of files: whole or not there; on, off and on again."""

import errno
import logging
import os

import pytest
import torch

from cache_store.tiers.disk import Disk

SECTIONS = {"some": torch.arange(100, dtype=torch.uint8)}


def put(disk, name):
    """Whether it was written."""
    return disk.prepare(name, {}, SECTIONS) and disk.publish(name) is not None and disk.synchronise()


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "new" / "cache", 1 << 20)
    assert disk.start()
    return disk


def test_a_file_is_there_when_it_is_published(disk):
    assert disk.prepare("a.rows", {"one": 1}, SECTIONS)
    assert "a.rows" not in disk
    assert disk.find("a.rows") is None
    file = disk.publish("a.rows")
    assert file.section("some").equal(SECTIONS["some"])
    assert disk.find("a.rows").meta == {"one": 1}
    assert disk.used_bytes == file.num_bytes == disk.path("a.rows").stat().st_size


def test_a_name_appears_after_its_bytes_and_then_for_ever(tmp_path):
    """Killing a process cannot show it: what was not synchronised is lost with the power only."""
    calls = []

    class Noting:
        def __getattr__(self, call):
            calls.append(call)
            return getattr(os, call)

    disk = Disk(tmp_path, 1 << 20, system=Noting())
    assert disk.start()
    assert put(disk, "a.rows")
    expected = ["open", "write", "write", "write", "fsync", "close", "rename", "open", "fsync", "close"]
    assert calls == expected  # the header, a section, zeros; the directory


def test_what_is_written_again_counts_once(disk):
    assert put(disk, "a.rows")
    used = disk.used_bytes
    assert put(disk, "a.rows")
    assert disk.used_bytes == used


def test_what_is_removed_is_gone(disk):
    assert put(disk, "a.rows")
    assert put(disk, "b.rows")
    assert disk.keep_only(["b.rows", "c.rows"]) == disk.used_bytes > 0
    assert disk.names() == ["b.rows"]
    assert disk.remove("a.rows") == 0
    assert sorted(path.name for path in disk.directory.iterdir()) == ["b.rows", "retouch.lock"]


def test_what_was_removed_by_somebody_else_is_no_error(disk):
    assert put(disk, "a.rows")
    disk.path("a.rows").unlink()
    disk.remove("a.rows")
    assert disk.is_on
    assert disk.names() == []


def test_a_restart_finds_what_was_published_and_removes_the_rest(disk):
    assert put(disk, "a.rows")
    assert disk.prepare("b.rows", {}, SECTIONS)
    half = disk.path("b.rows.part").stat().st_size
    disk.close()
    again = Disk(disk.directory, 1 << 20)
    assert again.start()
    assert again.names() == ["a.rows"]
    assert again.reclaimed_bytes == half
    assert not again.path("b.rows.part").exists()


def test_a_directory_has_one_owner(disk, caplog):
    other = Disk(disk.directory, 1 << 20)
    assert not other.start()
    assert "another process has it" in caplog.text
    disk.close()
    assert other.start()
    assert other.is_on


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path, caplog):
    for name in ("thesis.txt", "nuclear.core", "half.rows.part"):
        (tmp_path / name).write_text("mine")
    assert not Disk(tmp_path, 1 << 20).start()
    assert "it holds something else" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.rows.part", "nuclear.core", "thesis.txt"]


def test_what_somebody_put_beside_it_stays(disk):
    disk.close()
    (disk.directory / "notes.txt").write_text("mine")
    (disk.directory / "folder.rows").mkdir()
    again = Disk(disk.directory, 1 << 20)
    assert again.start()
    assert again.names() == []
    assert again.keep_only([]) == 0
    assert (disk.directory / "notes.txt").exists()


def test_who_is_forgotten_owns_nothing(tmp_path):
    for _ in range(2):
        assert Disk(tmp_path, 0).start()


def test_what_is_closed_touches_nothing(disk):
    assert put(disk, "a.rows")
    disk.close()
    disk.close()
    assert disk.remove("a.rows") == 0
    assert disk.path("a.rows").exists()


def test_a_directory_that_cannot_be_made_turns_it_off(tmp_path, caplog):
    (tmp_path / "file").touch()
    disk = Disk(tmp_path / "file" / "cache", 1 << 20)
    assert not disk.start()
    assert not disk.is_on
    assert "the disk tier is off, nothing is written to" in caplog.text


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
def test_an_error_turns_it_off_with_one_line_and_it_comes_back(tmp_path, failing, caplog, number, call):
    caplog.set_level(logging.INFO)
    system = failing()
    disk = Disk(tmp_path, 1 << 20, system=system, retry_seconds=1.0, max_retry_seconds=3.0)
    assert disk.start()
    assert put(disk, "before.rows")
    system.fail(number, call)
    waits = []
    for _ in range(4):
        assert not put(disk, "a.rows")
        assert not disk.is_on
        waits.append(disk.wait_seconds)
    assert waits == [1.0, 2.0, 3.0, 3.0]
    assert disk.find("before.rows").section("some").equal(SECTIONS["some"])
    assert [record.message for record in caplog.records] == [
        f"the disk tier is off, nothing is written to {tmp_path} for now: [Errno {number}] {os.strerror(number)}"
    ]
    assert disk.num_failures == 1
    assert not list(tmp_path.glob("*.part"))
    system.recover()
    assert put(disk, "a.rows")
    assert disk.is_on
    assert caplog.records[-1].message == f"the disk tier is on again: {tmp_path}"


def test_a_write_that_takes_a_part_is_continued(tmp_path, failing):
    disk = Disk(tmp_path, 1 << 20, system=failing(most=7))
    assert disk.start()
    assert put(disk, "a.rows")
    disk.find("a.rows").check()


def test_what_cannot_be_removed_stays_known(tmp_path, failing):
    system = failing()
    disk = Disk(tmp_path, 1 << 20, system=system)
    assert disk.start()
    assert put(disk, "a.rows")
    system.fail(errno.EROFS, "unlink")
    assert disk.keep_only([]) == 0
    assert disk.names() == ["a.rows"]
    assert not disk.is_on
    system.recover()
    disk.probe()
    assert disk.is_on
    assert disk.keep_only([]) > 0


def test_a_budget_below_zero_is_refused(tmp_path):
    with pytest.raises(ValueError, match="budget_bytes must not be negative, got -1"):
        Disk(tmp_path, -1)
