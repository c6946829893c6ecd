"""What a chain of edits costs, counted."""

import pytest
import torch

from cache_store.layout import Plane
from cache_store.rows import Rows
from cache_store.store import Store
from cache_store.tiers.disk import Disk

GUARD_SECONDS = 60
POSITIONS = torch.arange(6)


def test_a_chain_of_ten_reads_as_many_rows_as_one_edit(archive, monkeypatch):
    asked = []
    gather = Rows.gather
    monkeypatch.setattr(
        Rows, "gather", lambda self, *where: asked.append((self, len(where[2]))) or gather(self, *where)
    )
    archive.record("0")
    for depth in range(1, 11):
        archive.record(str(depth), str(depth - 1), [depth % 3])
    for name, depth in (("1", 1), ("10", 10)):
        asked.clear()
        with archive.store.open(name) as recording:
            assert recording.depth == depth
            recording.rows(0, "rows", POSITIONS)
            owners = {rows for rows, _ in asked}
            assert len(asked) == len(owners) <= len(recording.activations.read) <= 4
            assert sum(count for _, count in asked) == 6
            asked.clear()
            recording.rows(0, "rows", POSITIONS[3:])  # one owner: one gather
            assert len(asked) == 1


def test_how_much_edits_have_replaced_is_told_whoever_is_left(stored, restart):
    """Of six rows; the same after a restart, and when the one that computed all of them is deleted."""
    stored.record("0")
    for name, positions in (("1", [0, 1]), ("2", [1]), ("3", [4]), ("4", [0, 1, 2, 3, 4, 5])):
        stored.record(name, str(int(name) - 1), positions)
    stored.record("5", "3", [0, 2, 3, 5])
    stored.record("6", "4", [3])
    expected = {"0": 0, "1": 2 / 6, "2": 2 / 6, "3": 3 / 6, "4": 0, "5": 1, "6": 1 / 6}
    assert replaced_ratios(stored) == pytest.approx(expected)
    stored.settle()
    stored.store.delete("0")
    del expected["0"]
    assert replaced_ratios(stored) == pytest.approx(expected)
    restart(stored)
    assert replaced_ratios(stored) == pytest.approx(expected)


def test_a_plane_that_is_not_kept_is_refused(archive):
    archive.record("0")
    with archive.store.open("0") as recording, pytest.raises(KeyError, match="other"):
        recording.activations.replaced_ratio("other")


def replaced_ratios(archive):
    ratios = {}
    for name in archive.store.ids():
        with archive.store.open(name) as recording:
            ratios[name] = recording.activations.replaced_ratio("rows")
            assert recording.activations.replaced_ratio("norms") == 0
    return ratios


def test_an_edit_stores_little_more_than_the_rows_it_computed(tmp_path):
    """Of the embedded model at 256 x 256, 11 % of the picture changed, in fp16; bytes in memory and on the disk."""
    by_level = [(2048, 576, 192, 216), (512, 1024, 384, 64), (128, 2048, 192, 24)]  # rows, columns, rows kept
    widths = {f"rows.{level}": (rows, width, count) for level, (rows, width, _, count) in enumerate(by_level)}
    widths |= {f"attention.{level}": (rows, width, count) for level, (rows, _, width, count) in enumerate(by_level)}
    layout = {name: Plane.of(rows, {"all": width}, torch.float16, 4) for name, (rows, width, _) in widths.items()}
    kept = {name: torch.arange(count) for name, (_, _, count) in widths.items()}
    store = Store(1 << 26, disk=Disk(tmp_path, 1 << 30))
    for name, positions in (("a", None), ("b", kept)):
        parent = store.open("a")
        with store.create(name, layout, parent, positions) as draft:
            for step in range(4):
                for plane, (rows, width, count) in widths.items():
                    draft.write(step, plane, None, torch.zeros(count if positions else rows, width))
            draft.commit()
    computed = sum(4 * count * width * 2 for _, width, count in widths.values())
    assert store.settle(GUARD_SECONDS)
    edit = store.describe()[1]
    assert computed <= edit.bytes_by_tier["host"] <= 1.01 * computed
    on_disk = sum(path.stat().st_size for path in tmp_path.iterdir() if path.name in {"b.core", rows_file(store, "b")})
    assert on_disk <= 1.1 * computed


def rows_file(store, name):
    return f"{store._entries[name].activations.own.name}.rows"
