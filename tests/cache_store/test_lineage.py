"""Random trees of edits in a small store, beside a plain model that knows who computed each row."""

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_store.store import Store
from cache_store.tiers.disk import Disk

NUM_ROWS, ROW_BYTES, OTHER_BYTES = 6, 256, 128

POSITIONS = st.sets(st.integers(0, NUM_ROWS - 1)).map(sorted)
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["generate", "edit", "edit", "edit", "delete", "evict", "open", "close", "abort"]),
        st.integers(0, 99),  # which recording
        POSITIONS,
    ),
    max_size=25,
)


class Tree:
    """Carries actions out on a store, and on dictionaries."""

    def __init__(self, archive):
        self.archive = archive
        self.store = archive.store
        self.kept = {}  # by name: the rows that it computed
        self.owners = {}  # by name: who computed each of its rows
        self.present = []
        self.pins = []

    def act(self, action, number, positions):
        name = self.present[number % len(self.present)] if self.present else None
        if action == "generate":
            self.record(None, list(range(NUM_ROWS)))
        elif action == "close" and self.pins:
            self.pins.pop(number % len(self.pins)).close()
        elif name and action == "edit" and self.archive.has_rows(name):
            self.record(name, positions)
        elif name and action == "abort" and self.archive.has_rows(name):
            self.archive.draft("aborted", name, positions).abort()
        elif name and action == "delete":
            self.present.remove(name)
            assert self.store.delete(name)
        elif name and action == "evict":
            self.store.evict(name)
        elif name and action == "open":
            self.pins.append(self.store.open(name))

    def record(self, parent, positions):
        name = f"{len(self.kept)}"
        self.kept[name] = positions
        self.owners[name] = [
            name if parent is None or row in positions else self.owners[parent][row] for row in range(NUM_ROWS)
        ]
        self.archive.record(name, parent, positions if parent else None)
        self.present.append(name)

    def num_bytes(self):
        """Of all who are there, are open, or have computed a row of somebody who is."""
        reading = {name for name in self.present if self.archive.has_rows(name)}
        reading |= {pin.id for pin in self.pins if pin.activations}
        living = reading | {owner for name in reading for owner in self.owners[name]}
        return sum(len(self.kept[name]) * ROW_BYTES + OTHER_BYTES for name in living)


@pytest.mark.parametrize("num_recordings", [1, 2, 100])
@settings(max_examples=60, deadline=None)
@given(actions=ACTIONS)
def test_rows_bytes_and_budget_are_right_after_every_action(archive_of, num_recordings, actions):
    tree = Tree(archive_of(num_recordings * (NUM_ROWS * ROW_BYTES + OTHER_BYTES)))
    for action in actions:
        tree.act(*action)
        assert tree.store.num_bytes == tree.num_bytes() <= tree.store.budget_bytes
        assert set(tree.store.ids()) == set(tree.present)
    for name in tree.present:
        if tree.archive.has_rows(name):
            tree.archive.check(name)
    for pin in tree.pins:
        pin.close()
    for name in tree.present:
        tree.store.delete(name)
    assert tree.store.num_bytes == 0


@pytest.mark.parametrize("num_recordings", [1, 2, 100])
@settings(max_examples=60, deadline=None)
@given(actions=ACTIONS)
def test_who_is_told_of_losses_knows_what_can_be_read(archive_of, num_recordings, actions):
    known = set()
    tree = Tree(archive_of(num_recordings * (NUM_ROWS * ROW_BYTES + OTHER_BYTES), on_lost=known.discard))
    for action in actions:
        num_made = len(tree.kept)
        tree.act(*action)
        if len(tree.kept) > num_made and tree.archive.has_rows(tree.present[-1]):
            known.add(tree.present[-1])
        assert known == {name for name in tree.present if tree.archive.has_rows(name)}


@settings(max_examples=60, deadline=None)
@given(actions=ACTIONS)
def test_an_open_recording_never_changes(archive_of, actions):
    tree = Tree(archive_of(2 * (NUM_ROWS * ROW_BYTES + OTHER_BYTES)))
    tree.record(None, list(range(NUM_ROWS)))
    rows = tree.archive.expected["0"][1, "rows"].clone()
    with tree.store.open("0") as recording:
        for action in actions:
            tree.act(*action)
            assert recording.rows(1, "rows", torch.arange(NUM_ROWS)).equal(rows)


@settings(max_examples=40, deadline=None)
@given(actions=ACTIONS)
def test_a_restart_changes_nothing(archive_of, actions):
    with tempfile.TemporaryDirectory() as name:
        disk_bytes = 100 * 4096  # all cores, some rows
        tree = Tree(archive_of(disk=Disk(Path(name), disk_bytes)))
        for action in actions:
            tree.act(*action)
        for pin in tree.pins:
            pin.close()
        on_disk = {one for one, tiers in tree.archive.tiers().items() if "disk" in tiers}
        assert tree.store.close()
        tree.archive.store = Store(2000, disk=Disk(Path(name), disk_bytes))
        assert set(tree.archive.store.ids()) == set(tree.present)
        for one in tree.present:
            assert tree.archive.has_rows(one) == (one in on_disk)
            if one in on_disk:
                tree.archive.check(one)
        assert tree.archive.store.close()
