"""What is on the disk is there again after a restart."""

import pytest
import torch

GUARD_SECONDS = 60
ROW_BYTES, NORM_BYTES = 256, 128
POSITIONS = torch.arange(6)


def test_a_restart_finds_what_was_committed(stored, restart):
    stored.record("a")
    stored.record("b", "a", [0, 4])
    stored.record("c", "b", [4, 5])
    restart(stored)
    assert stored.store.ids() == ["a", "b", "c"]
    for name in "abc":
        stored.check(name)
    with stored.store.open("c") as recording:
        assert recording.depth == 2
        assert recording.blob("nothing") is None
    assert stored.tiers() == {name: {"host", "disk"} for name in "abc"}  # they were read


def test_an_edit_of_what_a_restart_found_is_right(stored, restart):
    stored.record("a")
    stored.record("b", "a", [0, 4])
    restart(stored)
    stored.record("c", "b", [4, 5])
    restart(stored)
    stored.store.delete("a")
    stored.store.delete("b")
    stored.check("c")
    restart(stored)
    stored.check("c")
    stored.store.delete("c")
    assert stored.settle().counts()["used_bytes"] == {("host",): 0, ("disk",): 0}


def test_blobs_are_what_they_were(stored, restart):
    blobs = {
        "bytes": bytes(range(256)) * 20, "nothing": b"", "half": torch.randn(3, 5).half(), "scalar": torch.tensor(7),
        "flags": torch.tensor([[True, False]]), "empty": torch.empty(0, 4), "turned": torch.randn(3, 5).T,
    }  # fmt: skip
    with stored.store.create("ä/..", {}) as draft:
        for name, blob in blobs.items():
            draft.put(name, blob)
        draft.commit()
    restart(stored)
    with stored.store.open("ä/..") as recording:
        for name, blob in blobs.items():
            found = recording.blob(name)
            assert type(found) is type(blob)
            assert found.equal(blob) if isinstance(blob, torch.Tensor) else found == blob
            assert found.dtype == blob.dtype if isinstance(blob, torch.Tensor) else True
        core_bytes = recording.entry.core_bytes
    assert core_bytes == sum(blob.nbytes if isinstance(blob, torch.Tensor) else len(blob) for blob in blobs.values())


def test_a_deleted_recording_does_not_come_back(stored, restart, files):
    stored.record("a")
    stored.record("b")
    stored.settle().delete("a")
    assert "a.core" not in files()  # at once
    restart(stored)
    assert stored.store.ids() == ["b"]
    assert len(files()) == 2


def test_a_deleted_parents_rows_stay_on_the_disk_as_long_as_a_child_needs_them(stored, restart, files):
    stored.record("a")
    stored.record("b", "a", [0, 4])
    stored.settle().delete("a")
    stored.settle()
    assert sum(name.endswith(".rows") for name in files()) == 2
    restart(stored)
    stored.check("b")
    stored.store.delete("b")
    stored.settle()
    assert files() == []


def test_a_deleted_recording_between_two_others_lets_go_of_what_only_it_read(stored, num_bytes):
    stored.record("a")
    stored.record("b", "a", [1])
    stored.record("c", "b", [0, 2, 3, 4, 5])
    stored.store.delete("a")
    stored.store.delete("b")
    stored.settle()
    stored.check("c")
    assert stored.store.num_bytes == num_bytes + NORM_BYTES  # c's own, one row of b, and the norms beside it


def test_what_was_evicted_is_a_core_after_a_restart(stored, restart, files):
    stored.record("a")
    assert stored.settle().evict("a")
    stored.settle()
    assert files() == ["a.core"]
    restart(stored)
    assert not stored.has_rows("a")
    stored.record("a")  # made again
    restart(stored)
    stored.check("a")


def test_leftovers_are_removed_and_counted(stored, restart, tmp_path, files):
    stored.record("a")
    stored.settle()
    directory = tmp_path / "cache"
    (directory / "b.core.part").write_bytes(bytes(1000))
    (directory / "0123456789abcdef0123.rows").write_bytes((directory / files()[0]).read_bytes())
    (directory / "b.core").write_bytes(b"half")
    left = 1000 + (directory / "0123456789abcdef0123.rows").stat().st_size
    restart(stored)
    counts = stored.store.counts()
    assert counts["reclaimed_bytes"] == {(): left}
    assert counts["damaged"] == {("short",): 1}
    assert len(files()) == 2
    stored.check("a")


def test_rows_are_at_hand_when_they_are_in_memory_or_checked(stored, restart):
    stored.record("a")
    stored.record("b", "a", [1])
    assert stored.store.is_at_hand("b")
    restart(stored)
    assert not stored.store.is_at_hand("b")
    assert stored.has_rows("b")
    for name in ("a", "b", "unknown"):
        assert stored.store.is_at_hand(name)


def test_what_a_recording_says_of_itself_is_in_memory_after_a_restart(stored, restart, tmp_path):
    draft = stored.draft("a")
    draft.put("words", b"of its own")
    draft.commit()
    restart(stored)
    (path,) = (tmp_path / "cache").glob("*.core")
    path.write_bytes(bytes(path.stat().st_size))  # as a disk that cannot be read
    with stored.store.open("a") as recording:
        assert recording.blob("words") == b"of its own"


def test_a_smaller_disk_keeps_what_fits(stored, restart, tmp_path):
    for name in "abc":
        stored.record(name)
    one = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) if stored.settle() else 0
    restart(stored, disk_bytes=one - 1)
    assert [stored.has_rows(name) for name in "abc"] == [False, True, True]
    assert stored.store.counts()["used_bytes"]["disk",] < one


@pytest.mark.parametrize("num_bytes", [0, 1, 4096, 3 * 8192])
def test_a_disk_too_small_for_its_cores_keeps_nothing_else(stored, restart, files, num_bytes):
    for name in "abc":
        stored.record(name)
    restart(stored, disk_bytes=num_bytes)
    stored.settle()
    assert files() == ["a.core", "b.core", "c.core"]
    assert not any(stored.has_rows(name) for name in "abc")


def test_a_late_start_finds_recordings_beside_those_of_the_meantime(stored, disk_of, archive_of):
    stored.record("a")
    stored.settle()
    late = archive_of(disk=disk_of())  # another process still has the directory
    late.record("b")
    late.record("a")
    assert late.settle().counts()["disk_on"] == {(): 0}
    assert stored.store.close(GUARD_SECONDS)
    late.hurry()
    assert late.tiers() == {"b": {"host", "disk"}, "a": {"host", "disk"}}
    for name in "ab":
        late.check(name)


def test_what_a_late_start_finds_is_older_than_what_was_made_meanwhile(stored, disk_of, archive_of):
    for name in "abc":
        stored.record(name)
    stored.settle()
    late = archive_of(disk=disk_of(), max_recordings=4)
    for name in "cd":
        late.record(name)
    late.settle()
    assert stored.store.close(GUARD_SECONDS)
    late.hurry()
    assert late.store.ids() == ["a", "b", "c", "d"]
    late.record("e")
    assert late.store.ids() == ["b", "c", "d", "e"]
