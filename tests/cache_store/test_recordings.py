"""One recording: what is written, what is refused, what is read."""

import pytest
import torch

from cache_store.layout import Plane
from cache_store.store import Store

POSITIONS = torch.arange(6)


def test_what_is_written_is_read(archive):
    archive.record("a")
    archive.check("a")


def test_rows_are_copies(archive):
    archive.record("a")
    with archive.store.open("a") as recording:
        recording.rows(0, "rows", POSITIONS).zero_()
        recording.rows(0, "rows", POSITIONS, "b").zero_()
    archive.check("a")


def test_what_is_written_is_copied():
    store = Store(1 << 10)
    draft = store.create("a", {"rows": Plane.of(6, {"a": 2}, torch.float32, 1)})
    rows, latents = torch.ones(6, 2), torch.ones(3)
    draft.write(0, "rows", "a", rows)
    draft.put("latents", latents)
    rows.zero_()
    latents.zero_()
    draft.commit()
    with store.open("a") as recording:
        assert recording.rows(0, "rows", POSITIONS).equal(torch.ones(6, 2))
        assert recording.blob("latents").equal(torch.ones(3))


def test_rows_are_kept_in_the_planes_dtype(archive):
    archive.record("a")
    with archive.store.open("a") as recording:
        assert recording.rows(0, "rows", POSITIONS, "a").dtype == torch.float16
        assert recording.rows(0, "norms", POSITIONS[:1]).dtype == torch.float32


def test_positions_may_repeat_and_may_be_none_at_all(archive):
    archive.record("a")
    archive.record("b", "a", [1, 2])
    for name in "ab":
        rows = archive.expected[name][1, "rows"]
        with archive.store.open(name) as recording:
            assert recording.rows(1, "rows", torch.tensor([2, 0, 2])).equal(rows[[2, 0, 2]])
            assert recording.rows(1, "rows", POSITIONS[:0]).shape == (0, 64)
            assert recording.rows(1, "rows", POSITIONS[:0], "b").shape == (0, 40)


@pytest.mark.parametrize("positions", [[6], [-1], [0, 99]])
@pytest.mark.parametrize("name", ["root", "child"])
def test_a_position_out_of_range_is_refused(archive, name, positions):
    archive.record("root")
    archive.record("child", "root", [0, 3])
    with archive.store.open(name) as recording, pytest.raises((IndexError, RuntimeError), match="out of range"):
        recording.rows(0, "rows", torch.tensor(positions))


@pytest.mark.parametrize(
    ("where", "message"),
    [((2, "rows", None), "step 2, plane 'rows'"), ((0, "cols", None), "plane 'cols'"), ((0, "rows", "c"), "'c'")],
)
@pytest.mark.parametrize("name", ["root", "child"])
def test_reading_what_the_layout_has_not_is_a_key_error(archive, name, where, message):
    archive.record("root")
    archive.record("child", "root", [0, 3])
    step, plane, column = where
    with archive.store.open(name) as recording, pytest.raises(KeyError, match=message):
        recording.rows(step, plane, POSITIONS, column)


@pytest.mark.parametrize(
    ("error", "message", "where", "shape"),
    [
        (KeyError, r"plane must be one of \['norms', 'rows'\], got 'cols'", (0, "cols", "a"), (6, 24)),
        (KeyError, "column must be one of plane 'rows', got 'c'", (0, "rows", "c"), (6, 24)),
        (ValueError, "step must be below 2 in plane 'rows', got 2", (2, "rows", "a"), (6, 24)),
        (ValueError, "step must be below 2 in plane 'rows', got -1", (-1, "rows", "a"), (6, 24)),
        (
            ValueError,
            r"column 'a' of 'rows' must be \(6, 24\), got \(1, 24\)",
            (0, "rows", "a"),
            (1, 24),
        ),  # no broadcast
        (ValueError, r"column 'a' of 'rows' must be \(6, 24\), got \(6, 1\)", (0, "rows", "a"), (6, 1)),
        (ValueError, r"column 'a' of 'rows' must be \(6, 24\), got \(24,\)", (0, "rows", "a"), (24,)),
    ],
)
def test_a_wrong_write_is_refused_by_name(archive, error, message, where, shape):
    draft = archive.store.create("a", archive.layout)
    with pytest.raises(error, match=message):
        draft.write(*where, torch.zeros(shape))


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (torch.tensor([3, 1]), "'rows' must rise within 0 .. 5"),
        (torch.tensor([1, 1]), "'rows' must rise within 0 .. 5"),
        (torch.tensor([-1, 1]), "'rows' must rise within 0 .. 5"),
        (torch.tensor([1, 6]), "'rows' must rise within 0 .. 5"),
        (torch.tensor([1, 2], dtype=torch.int32), r"'rows' must be int64 \[N\], got torch.int32 \[2\]"),
        (torch.tensor([[1, 2]]), r"'rows' must be int64 \[N\], got torch.int64 \[1, 2\]"),
    ],
)
def test_wrong_positions_are_refused(archive, positions, message):
    archive.record("a")
    with archive.store.open("a") as parent, pytest.raises(ValueError, match=message):
        archive.store.create("b", archive.layout, parent, {"rows": positions})


def test_positions_of_an_unknown_plane_are_refused(archive):
    archive.record("a")
    with archive.store.open("a") as parent, pytest.raises(KeyError, match="got 'cols'"):
        archive.store.create("b", archive.layout, parent, {"cols": POSITIONS[:2]})


def test_positions_need_a_parent_with_activations(archive):
    archive.record("a")
    archive.store.evict("a")
    with archive.store.open("a") as evicted:
        for parent in (None, evicted):
            with pytest.raises(ValueError, match="no parent's activations have the others"):
                archive.store.create("b", archive.layout, parent, {"rows": POSITIONS[:2]})


def test_a_plane_that_is_not_like_the_parents_is_refused(archive):
    archive.record("a")
    other = archive.layout | {"rows": Plane.of(6, {"a": 5}, torch.float16, 2)}
    with archive.store.open("a") as parent, pytest.raises(ValueError, match="plane 'rows' must be like its parent's"):
        archive.store.create("b", other, parent, {"rows": POSITIONS[:2]})


def test_a_column_that_was_not_written_is_named(archive):
    draft = archive.store.create("a", archive.layout)
    for step in (0, 1):
        draft.write(step, "rows", "a", torch.zeros(6, 24))
    draft.write(0, "rows", "b", torch.zeros(6, 40))
    draft.write(0, "norms", "norm", torch.zeros(1, 32))
    with pytest.raises(ValueError, match="1 columns are missing, the first is 'b' of 'rows', step 1"):
        draft.commit()
    assert archive.store.ids() == []
    draft.write(1, "rows", "b", torch.zeros(6, 40))
    draft.commit()
    assert archive.store.ids() == ["a"]


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_an_ended_draft_takes_nothing(archive, end):
    draft = archive.draft("a")
    getattr(draft, end)()
    ids = archive.store.ids()
    for late in (
        draft.commit,
        lambda: draft.put("image", b""),
        lambda: draft.write(0, "rows", "a", torch.zeros(6, 24)),
    ):
        with pytest.raises(ValueError, match="the draft of 'a' was committed or aborted"):
            late()
    draft.abort()
    assert archive.store.ids() == ids


def test_an_empty_layout_keeps_the_core_only(archive):
    draft = archive.store.create("a", {})
    draft.write(0, "rows", "a", torch.zeros(6, 24))  # as where there is no room
    draft.put("image", b"png")
    assert draft.activations is None
    draft.commit()
    with archive.store.open("a") as recording:
        assert recording.activations is None
        assert recording.blob("image") == b"png"
        assert recording.blob("latents") is None
        with pytest.raises(KeyError, match="'a' is closed, or has no activations"):
            recording.rows(0, "rows", POSITIONS)


def test_a_closed_recording_reads_nothing(archive):
    archive.record("a")
    recording = archive.store.open("a")
    recording.close()
    recording.close()
    with pytest.raises(ValueError, match="'a' is closed"):
        recording.blob("image")
    with pytest.raises(KeyError, match="'a' is closed"):
        recording.rows(0, "rows", POSITIONS)
