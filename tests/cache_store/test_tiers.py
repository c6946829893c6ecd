"""Recordings move between the host, the disk and a device."""

import torch

from cache_store.layout import Plane
from cache_store.tiers.arena import Arena

GUARD_SECONDS = 60
ROW_BYTES, NORM_BYTES = 256, 128
POSITIONS = torch.arange(6)


def test_who_leaves_the_host_is_read_from_the_disk_and_comes_back(archive_of, disk_of, num_bytes):
    archive = archive_of(2 * num_bytes, disk=disk_of())
    for name in "abc":
        archive.record(name)
        archive.settle()
    assert archive.tiers() == {"a": {"disk"}, "b": {"disk", "host"}, "c": {"disk", "host"}}
    with archive.store.open("a") as recording:
        assert recording.tier == "disk"
        assert not recording.activations.in_reach
    assert archive.tiers() == {"a": {"disk", "host"}, "b": {"disk"}, "c": {"disk", "host"}}
    archive.check("a")
    counts = archive.store.counts()
    assert counts["evictions"] == {("host", "demoted"): 2}
    assert counts["transfer_bytes"] == {("host", "disk"): 3 * num_bytes, ("disk", "host"): num_bytes}
    assert counts["reads"] == {("disk", "hit"): 1, ("host", "hit"): 1}


def test_an_open_recording_is_not_moved_away(archive_of, disk_of, num_bytes):
    archive = archive_of(2 * num_bytes, disk=disk_of())
    archive.record("a")
    archive.record("b", "a", [0])
    archive.settle()
    with archive.store.open("b"):
        archive.record("c")
        archive.settle()
        assert archive.store.describe()[0].pinned is archive.store.describe()[1].pinned is True
        assert archive.tiers() == {"a": {"disk", "host"}, "b": {"disk", "host"}, "c": set()}
    archive.record("d")
    assert archive.tiers()["d"] == {"disk", "host"}
    archive.check("b")


def test_what_was_deleted_leaves_the_disk_when_its_last_reader_closes_it(stored, files):
    stored.record("a")
    stored.settle()
    with stored.store.open("a") as recording:
        stored.store.delete("a")
        stored.settle()
        assert recording.rows(0, "rows", POSITIONS).equal(stored.expected["a"][0, "rows"])
        assert len(files()) == 1
    stored.settle()
    assert files() == []


def test_what_was_let_go_of_late_leaves_the_disk_at_the_next_commit(stored, files):
    stored.record("a")
    stored.settle()
    with stored.store.open("a") as recording:
        rows = recording.activations.own
        stored.store.delete("a")
    stored.settle()
    assert len(files()) == 1
    del rows, recording
    stored.record("b")
    stored.settle()
    assert len(files()) == 2


def test_a_deleted_ancestor_leaves_the_host_too(archive_of, disk_of, num_bytes):
    archive = archive_of(2 * num_bytes, disk=disk_of())
    archive.record("a")
    archive.record("b", "a", [0])
    archive.settle().delete("a")
    for name in "cd":
        archive.record(name)
        archive.settle()
    assert archive.store.num_bytes == sum(one.bytes_by_tier.get("host", 0) for one in archive.store.describe())
    archive.check("b")


def test_a_recording_larger_than_the_host_keeps_its_core(archive_of, disk_of, num_bytes, restart):
    archive = archive_of(num_bytes - 1, disk=disk_of())
    archive.record("a")
    assert not archive.has_rows("a")
    assert archive.settle().counts()["shed"] == {("host",): 1}
    restart(archive)
    assert archive.store.ids() == ["a"]


def test_a_recording_larger_than_the_disk_is_kept_in_memory(archive_of, disk_of, files):
    archive = archive_of(disk=disk_of(3 * 4096))
    archive.record("a")
    assert archive.tiers() == {"a": {"host"}}
    assert files() == ["a.core"]
    archive.check("a")
    assert archive.settle().counts()["shed"] == {("disk",): 1}
    assert archive.store.counts()["disk_on"] == {(): 1}


def test_a_full_disk_loses_readers_before_whom_they_read(archive_of, disk_of, restart):
    archive = archive_of(disk=disk_of(40 * 4096))
    archive.record("a")
    for number in range(8):
        archive.record(f"{number}", "a", [number % 6])
        archive.settle()
    assert archive.settle().counts()["used_bytes"]["disk",] <= 40 * 4096
    restart(archive)
    there = [name for name in archive.store.ids() if archive.has_rows(name)]
    assert "a" in there
    assert 1 < len(there) < 9
    for name in there:
        archive.check(name)


def test_who_is_worth_little_stays_on_the_disk_for_a_reader_who_is_worth_much(archive_of, disk_of, restart):
    archive = archive_of(disk=disk_of(18 * 4096))  # three of rows, 3 pages each, and four cores of 2 or 3
    archive.record("a")
    archive.record("b", "a", [0])
    archive.record("c")
    archive.settle()
    for name, seconds in (("a", 1e-9), ("b", 1e9), ("c", 1.0)):
        archive.store._entries[name].activations.own.seconds_saved = seconds
    archive.record("d")
    assert [sorted(tiers) for tiers in archive.tiers().values()] == [["disk", "host"]] * 2 + [
        ["host"],
        ["disk", "host"],
    ]
    restart(archive)
    for name in "abd":
        archive.check(name)


def test_a_store_without_memory_of_its_own_reads_from_the_disk(stored, restart):
    stored.record("a")
    stored.record("b", "a", [0, 4])
    restart(stored, num_bytes=0)
    for _ in range(2):
        stored.check("b")
        assert stored.tiers()["b"] == {"disk"}
    assert stored.store.counts()["shed"]["host",] > 0


def test_after_warming_up_recordings_use_the_same_memory(archive_of, disk_of, num_bytes):
    archive = archive_of(3 * num_bytes, disk=disk_of())
    for number in range(20):
        archive.record(f"{number}")
        archive.settle()
        if number == 3:
            peak_bytes = archive.store._host.peak_bytes
    assert archive.store._host.peak_bytes == peak_bytes <= 3 * num_bytes


def test_scattered_holes_do_not_keep_a_recording_out(archive_of, num_bytes):
    archive = archive_of(4 * num_bytes)
    for name in "abcd":
        archive.record(name)
    for name in "ac":
        archive.store.evict(name)
    archive.layout = {"rows": Plane.of(6 * 5, {"a": 24, "b": 40}, torch.float16, num_steps=1)}  # in one piece
    archive.record("e")
    assert archive.has_rows("e")
    archive.check("e")


def test_holes_that_are_very_scattered_are_filled_in_few_rounds(archive_of, disk_of, num_bytes):
    """Each looks at all who are there, and at the clock once: who leaves is on the disk, too."""
    looks = []
    archive = archive_of(64 * num_bytes, disk=disk_of(), clock=lambda: looks.append(0) or float(len(looks)))
    for number in range(64):
        archive.record(str(number))
    archive.settle()
    for number in range(0, 64, 2):
        archive.check(str(number))
    archive.settle()
    archive.layout = {"rows": Plane.of(6 * 16, {"a": 24, "b": 40}, torch.float16, num_steps=1)}  # in one piece
    before = len(looks)
    with archive.draft("large") as draft:
        assert draft.activations is not None
    assert len(looks) - before < 8


def test_what_is_read_often_is_copied_to_the_device(archive_of, disk_of, num_bytes):
    device = Arena(num_bytes + ROW_BYTES + NORM_BYTES)
    archive = archive_of(device=device, disk=disk_of())
    archive.record("a")
    archive.record("b", "a", [1])
    assert device.used_bytes == 0  # a was read once, to make b of it
    for _ in range(2):
        archive.check("b")
    assert archive.tiers() == {name: {"device", "host", "disk"} for name in "ab"}
    with archive.store.open("b") as recording:
        assert recording.tier == "device"
        assert 0 <= recording.activations.array(0, "rows").data_ptr() - device._begin < device.budget_bytes
    archive.check("b")
    for name in "ab":
        archive.store.delete(name)
    assert archive.settle().num_bytes == device.used_bytes == 0


def test_a_device_that_comes_later_gets_what_is_read_then(archive, num_bytes):
    archive.record("a")
    for _ in range(2):
        archive.check("a")
    assert archive.tiers() == {"a": {"host"}}
    archive.store.add_device(Arena(num_bytes))
    archive.check("a")
    assert archive.tiers() == {"a": {"device", "host"}}
    archive.check("a")
    assert archive.store.counts()["budget_bytes"]["device",] == num_bytes


def test_a_full_device_takes_others_or_nothing(archive_of, num_bytes):
    device = Arena(num_bytes)
    archive = archive_of(device=device)
    archive.record("a")
    for _ in range(2):
        archive.check("a")
    archive.record("b")
    archive.settle()
    with archive.store.open("a") as recording:
        assert recording.tier == "device"
        for _ in range(2):
            archive.check("b")
        assert archive.tiers() == {"a": {"device", "host"}, "b": {"host"}}
        assert archive.store.counts()["shed"] == {("device",): 1}
    archive.check("b")
    assert archive.tiers() == {"a": {"host"}, "b": {"device", "host"}}
    for name in "ab":
        archive.check(name)


def test_who_leaves_the_host_for_ever_leaves_the_device(archive_of, num_bytes):
    device = Arena(1 << 20)
    archive = archive_of(num_bytes, device=device)
    archive.record("a")
    for _ in range(3):
        archive.check("a")
    assert archive.settle().counts()["transfer_bytes"] == {("host", "device"): num_bytes}
    archive.record("b")
    assert not archive.has_rows("a")
    assert device.used_bytes == 0


def test_on_a_disk_full_of_cores_the_least_recently_used_makes_room_for_a_new_one(archive_of, disk_of, restart):
    archive = archive_of(disk=disk_of(1 << 20))
    for name in "abcdefghijkl":
        with archive.draft(name) as draft:
            draft.put("image", name.encode())
            draft.put("latents", bytes(100_000))
            draft.commit()
        archive.settle()
        archive.check("a")
    ids = archive.store.ids()
    assert ids == [*"efghijkl", "a"]
    restart(archive)
    assert sorted(archive.store.ids()) == sorted(ids)
    for name in ids:
        with archive.store.open(name) as recording:
            assert recording.blob("image") == name.encode()


def test_a_core_that_no_disk_has_room_for_makes_nobody_leave(archive_of, disk_of):
    archive = archive_of(disk=disk_of(1 << 20))
    archive.record("a")
    archive.store.evict("a")
    with archive.store.create("b", {}) as draft:
        draft.put("latents", bytes(1 << 20))
        draft.commit()
    archive.settle()
    assert archive.store.ids() == ["a", "b"]
    assert archive.store.counts()["shed"] == {("disk",): 1}
