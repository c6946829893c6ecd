"""What is not as it was written is dropped and counted, and the request goes on without it."""

import torch

GUARD_SECONDS = 60
ROW_BYTES, NORM_BYTES = 256, 128
POSITIONS = torch.arange(6)


def flip(path, place):
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 16]))


def places(path):
    """In the header, in what it says, in each page, at the end."""
    size = path.stat().st_size
    return [0, 9, 13, 17, 25, 60, *range(4096, size, 1000), size - 1]


def test_a_damaged_core_is_no_recording(stored, restart, tmp_path):
    stored.record("a")
    stored.record("b", "a", [0, 4])
    assert stored.store.close(GUARD_SECONDS)
    path = tmp_path / "cache" / "b.core"
    whole = path.read_bytes()
    for place in places(path):
        path.write_bytes(whole)
        flip(path, place)
        restart(stored)
        assert stored.store.ids() == ["a"]
        assert sum(stored.settle().counts()["damaged"].values()) == 1
        assert not path.exists()
        stored.check("a")


def test_damaged_rows_are_dropped_when_they_are_opened(stored, restart, tmp_path):
    stored.record("a")
    stored.record("b", "a", [0, 4])
    stored.record("c")
    assert stored.store.close(GUARD_SECONDS)
    path = tmp_path / "cache" / stored.rows_name("a")
    wholes = {one: one.read_bytes() for one in path.parent.glob("*.rows")}
    for place in places(path):
        for one, whole in wholes.items():
            one.write_bytes(whole)
        flip(path, place)
        restart(stored)
        assert stored.store.ids() == ["a", "b", "c"]
        for name in "ab":  # b reads from a
            with stored.store.open(name) as recording:
                assert recording.activations is None
                assert recording.tier is None
                assert recording.blob("image") == name.encode()
        stored.check("c")
        counts = stored.settle().counts()
        assert sum(counts["damaged"].values()) == 1
        assert not path.exists()


def test_damage_after_the_restart_is_found_when_the_host_has_no_copy(archive_of, disk_of, num_bytes, tmp_path):
    archive = archive_of(2 * num_bytes, disk=disk_of())
    for name in "abc":
        archive.record(name)
        archive.settle()
    flip(tmp_path / "cache" / archive.rows_name("a"), 5000)
    assert not archive.has_rows("a")
    counts = archive.settle().counts()
    assert counts["damaged"] == {("checksum",): 1}
    assert counts["reads"] == {("disk", "damaged"): 1}
    assert counts["evictions"]["disk", "damaged"] == 1
    archive.record("a")  # densely, as after any miss
    archive.check("a")


def test_damage_to_what_was_deleted_while_it_was_open_is_found_by_who_has_it(stored, restart, tmp_path):
    stored.record("a")
    assert stored.store.close(GUARD_SECONDS)
    flip(tmp_path / "cache" / stored.rows_name("a"), 5000)
    restart(stored)
    with stored.store.open("a") as recording:
        stored.store.delete("a")
        assert recording.activations is None


def test_files_of_another_version_are_removed(stored, restart, tmp_path, files):
    stored.record("a")
    assert stored.store.close(GUARD_SECONDS)
    for path in (tmp_path / "cache").glob("a.core"):
        flip(path, 8)
    restart(stored)
    assert stored.store.ids() == []
    assert stored.store.counts()["damaged"] == {("version",): 1}
    assert files() == []


def test_rows_that_are_not_there_make_a_core(stored, restart, tmp_path):
    stored.record("a")
    stored.record("b", "a", [0])
    assert stored.store.close(GUARD_SECONDS)
    (tmp_path / "cache" / stored.rows_name("a")).unlink()
    restart(stored)
    assert not stored.has_rows("a")
    assert not stored.has_rows("b")
    assert stored.settle().ids() == ["a", "b"]
