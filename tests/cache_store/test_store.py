"""What stays and what leaves: budget, pins, order, lineage."""

import weakref

import pytest
import torch

from cache_store.layout import Plane
from cache_store.store import Store

ROW_BYTES, NORM_BYTES = 256, 128


def test_a_miss_is_none(archive):
    assert archive.store.open("a") is None
    assert not archive.store.delete("a")
    assert not archive.store.evict("a")


@pytest.mark.parametrize(
    ("limits", "message"),
    [({"num_bytes": -1}, "budget_bytes must not"), ({"max_recordings": 0}, "max_recordings must")],
)
def test_an_impossible_limit_is_refused(archive_of, limits, message):
    with pytest.raises(ValueError, match=message):
        archive_of(**limits)


def test_bytes_are_counted_while_rows_live(archive, num_bytes):
    store = archive.store
    draft = archive.draft("a")
    assert store.num_bytes == num_bytes
    draft.commit()
    assert store.num_bytes == num_bytes
    archive.record("b", "a", [0, 1, 5])
    assert store.num_bytes == num_bytes + 3 * ROW_BYTES + NORM_BYTES
    store.delete("a")
    assert store.num_bytes == num_bytes + 3 * ROW_BYTES + NORM_BYTES  # b reads three rows of it
    store.delete("b")
    assert store.num_bytes == 0


def test_an_aborted_draft_leaves_nothing(archive, num_bytes):
    archive.record("a")
    archive.draft("b").abort()
    archive.draft("c", "a", [1, 2]).abort()
    assert archive.store.ids() == ["a"]
    assert archive.store.num_bytes == num_bytes
    assert archive.store.evict("a")


def test_a_forgotten_draft_leaves_nothing(archive):
    archive.draft("a")
    assert archive.store.num_bytes == 0


def test_of_two_drafts_of_one_id_the_first_stays(archive, num_bytes):
    first = archive.draft("a")
    expected = archive.expected["a"]
    second = archive.draft("a")
    assert archive.store.num_bytes == 2 * num_bytes
    for draft in (first, second):
        draft.put("image", b"a")
        draft.commit()
    archive.expected["a"] = expected
    archive.check("a")
    assert archive.store.num_bytes == num_bytes


def test_an_evicted_recording_may_be_made_again_while_it_is_open(archive, num_bytes):
    archive.record("a")
    archive.store.evict("a")
    old = archive.store.open("a")
    archive.record("a")
    archive.check("a")
    assert old.activations is None
    assert old.blob("image") == b"a"
    old.close()
    assert archive.store.num_bytes == num_bytes


def test_a_core_does_not_replace_a_whole_recording(archive):
    archive.record("a")
    draft = archive.store.create("a", {})
    draft.commit()
    archive.check("a")


def test_the_least_recently_used_leaves_first(full):
    assert full.has_rows("a")
    full.record("d")
    assert full.store.ids() == ["b", "c", "a", "d"]
    full.record("b")  # its core is there, its rows are not
    assert [name for name in "abcd" if full.has_rows(name)] == ["a", "b", "d"]
    for name in "abd":
        full.check(name)


def test_evicting_keeps_the_core(full):
    assert full.store.evict("a")
    assert not full.store.evict("a")
    assert not full.has_rows("a")
    with full.store.open("a") as recording:
        assert recording.blob("image") == b"a"


def test_the_pinned_stay(full):
    with full.store.open("a"), full.store.open("a") as twice:
        full.record("d")
        twice.close()
        full.record("e")
        assert not full.store.evict("a")
    full.check("a")
    assert not full.has_rows("b")
    assert not full.has_rows("c")
    assert full.store.evict("a")


def test_a_draft_without_room_keeps_the_core_only(full):
    pins = [full.store.open(name) for name in "abc"]
    full.record("d")
    assert not full.has_rows("d")
    for pin in pins:
        pin.close()
    full.record("d")
    full.check("d")


def test_nobody_leaves_in_vain(full):
    """One of three could leave, two are needed: none does."""
    wide = {"rows": Plane.of(6, {"a": 128}, torch.float16, num_steps=2)}
    with full.store.open("a"), full.store.open("b"):
        assert full.store.create("d", wide).activations is None
    assert all(full.has_rows(name) for name in "abc")


def test_a_draft_larger_than_the_store_evicts_nobody(full):
    wide = {f"rows.{number}": full.layout["rows"] for number in range(4)}
    assert full.store.create("d", wide).activations is None
    assert all(full.has_rows(name) for name in "abc")


def test_a_store_without_room_keeps_cores(archive_of):
    archive = archive_of(0)
    archive.record("a")
    assert not archive.has_rows("a")
    assert archive.store.num_bytes == 0


def test_children_leave_before_their_parents(archive_of, num_bytes):
    small = ROW_BYTES + NORM_BYTES
    archive = archive_of(num_bytes + 2 * small)
    archive.record("a")
    archive.record("b", "a", [0])
    archive.record("c", "b", [1])
    assert not archive.store.evict("a")
    assert not archive.store.evict("b")
    archive.record("d", "a", [2])  # a is the most recently used now, b the least: c reads from it and leaves
    assert [archive.has_rows(name) for name in "abcd"] == [True, True, False, True]
    archive.record("e")
    assert [archive.has_rows(name) for name in "abde"] == [False, False, False, True]


def test_who_lost_a_child_that_is_still_open_stays(archive):
    archive.record("a")
    archive.record("b", "a", [0])
    child = archive.store.open("b")
    archive.store.delete("b")
    assert not archive.store.evict("a")
    child.close()
    assert archive.store.evict("a")


def test_a_deleted_parents_rows_stay_for_its_children(archive):
    archive.record("a")
    archive.record("b", "a", [0, 4])
    assert archive.store.delete("a")
    assert archive.store.open("a") is None
    archive.check("b")
    archive.record("c", "b", [4, 5])
    archive.check("c")
    archive.store.delete("b")
    archive.check("c")
    archive.store.delete("c")
    assert archive.store.num_bytes == 0


def test_a_deleted_ancestor_that_nobody_reads_from_leaves(archive, num_bytes):
    archive.record("a")
    archive.record("b", "a", [2, 3])
    archive.record("c", "b", [1, 2, 3])
    archive.store.delete("b")
    assert archive.store.num_bytes == num_bytes + 3 * ROW_BYTES + NORM_BYTES
    archive.check("c")


def test_a_child_that_computed_all_rows_needs_no_parent(archive, num_bytes):
    archive.record("a")
    archive.record("b", "a", [0, 1, 2, 3, 4, 5])
    archive.store.delete("a")
    archive.check("b")
    assert archive.store.num_bytes == num_bytes


def test_a_child_that_computed_no_row_is_its_parent(archive, num_bytes):
    archive.record("a")
    archive.record("b", "a", [])
    archive.check("b")
    assert archive.store.num_bytes == num_bytes + NORM_BYTES


def test_a_parent_may_be_deleted_under_a_draft(archive):
    archive.record("a")
    draft = archive.draft("b", "a", [1])
    assert not archive.store.evict("a")
    archive.store.delete("a")
    draft.put("image", b"b")
    draft.commit()
    archive.check("b")


def test_a_deleted_open_recording_can_be_read(archive):
    archive.record("a")
    with archive.store.open("a") as recording:
        archive.store.delete("a")
        rows = archive.expected["a"][0, "rows"]
        assert recording.rows(0, "rows", torch.arange(6)).equal(rows)
    assert archive.store.num_bytes == 0


def test_only_so_many_recordings_are_remembered(archive_of, num_bytes):
    archive = archive_of(max_recordings=2)
    for name in "abc":
        archive.record(name)
    assert archive.store.ids() == ["b", "c"]
    assert archive.store.num_bytes == 2 * num_bytes
    with archive.store.open("b"), archive.store.open("c"):
        archive.record("d")
        assert archive.store.ids() == ["b", "c", "d"]  # the pinned are not forgotten, nor is the newest
    assert archive.store.ids() == ["b", "d"]  # c was closed first


def test_only_so_many_bytes_of_cores_are_remembered():
    store = Store(0, core_bytes=2500)
    for name in "abc":
        with store.create(name, {}) as draft:
            draft.put("image", bytes(1000))
            draft.commit()
    assert store.ids() == ["b", "c"]


def test_a_draft_that_is_left_without_commit_is_aborted(archive_of, num_bytes):
    archive = archive_of()
    with archive.store.create("a", archive.layout) as draft:
        assert archive.store.num_bytes == num_bytes
    assert draft.activations is None
    assert archive.store.ids() == []
    assert archive.store.num_bytes == 0


def test_a_store_that_nobody_has_any_more_is_freed(archive_of):
    archive = archive_of()
    archive.record("a")
    with archive.store.open("a") as recording:
        activations = weakref.ref(recording.activations)
    del recording, archive
    assert activations() is None


def test_ten_edits_deep_every_row_is_right(archive):
    archive.record("0")
    for depth in range(1, 11):
        archive.record(str(depth), str(depth - 1), sorted({depth % 6, (depth * 2) % 6}))
    for depth in range(11):
        archive.check(str(depth))
