import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cache_store.tiers.arena import Arena

SIZES = st.lists(st.integers(0, 1000), max_size=4)
ACTIONS = st.lists(st.tuples(st.sampled_from(["take", "take", "drop"]), SIZES, st.integers(0, 99)), max_size=30)


class Taken:
    """Blocks, each filled with a number of its own. No name of a block outlives a method."""

    def __init__(self, arena):
        self.arena = arena
        self.blocks = {}
        self.num_taken = 0

    def take(self, sizes):
        blocks = self.arena.take(sizes)
        if blocks is not None:
            assert [len(block) for block in blocks] == sizes
            for block in blocks:
                self.num_taken += 1
                self.blocks[self.num_taken] = block.fill_(self.num_taken % 251)

    def drop(self, number):
        if self.blocks:
            del self.blocks[list(self.blocks)[number % len(self.blocks)]]

    def check(self):
        assert all((block == number % 251).all() for number, block in self.blocks.items())
        assert self.arena.used_bytes == sum(-(-len(block) // 128) * 128 for block in self.blocks.values())


@given(actions=ACTIONS)
def test_blocks_never_overlap_and_all_bytes_come_back(actions):
    taken = Taken(Arena(4096))
    for action, sizes, number in actions:
        taken.take(sizes) if action == "take" else taken.drop(number)
        taken.check()
    taken.blocks.clear()
    assert taken.arena.used_bytes == 0
    assert taken.arena.take([4096]) is not None  # in one piece


def test_a_block_stays_while_there_is_a_view_of_it():
    arena = Arena(1024)
    (block,) = arena.take([256])
    view = block[128:].view(torch.float32).view(4, 8)[:, 2:]
    del block
    assert arena.used_bytes == 256
    assert arena.take([1024]) is None
    del view
    assert arena.used_bytes == 0


def test_memory_stays_while_there_is_a_block_of_it():
    arena = Arena(1024)
    (block,) = arena.take([256])
    block.fill_(7)
    del arena
    assert (block == 7).all()


def test_all_blocks_are_had_or_none():
    arena = Arena(1024)
    assert arena.take([512, 513]) is None
    assert arena.used_bytes == 0
    assert arena.take([512, 512]) is not None


def test_holes_that_are_scattered_are_not_one():
    arena = Arena(4 * 128)
    blocks = list(arena.take([128] * 4))
    del blocks[2], blocks[0]
    assert arena.free_bytes == 2 * 128
    assert arena.take([256]) is None
    del blocks[0]
    assert arena.take([256]) is not None


def test_the_same_sizes_take_the_same_bytes_again():
    arena, places = Arena(1 << 20), set()
    for _ in range(20):
        blocks = arena.take([3000, 200, 5000])
        places.add(tuple(block.data_ptr() for block in blocks))
        del blocks
    assert len(places) == 1
    assert arena.peak_bytes == 3072 + 256 + 5120


def test_a_large_budget_takes_no_memory_before_it_is_used():
    arena = Arena(1 << 44)
    (block,) = arena.take([1 << 40])
    block[-1] = 1
    assert arena.peak_bytes == 1 << 40


def test_where_a_block_begins_any_number_may_lie():
    blocks = Arena(4096).take([1, 129, 8])
    assert all(block.data_ptr() % 128 == 0 for block in blocks)


@pytest.mark.parametrize("budget_bytes", [0, 127])
def test_an_arena_without_room_gives_what_is_empty(budget_bytes):
    arena = Arena(budget_bytes)
    assert arena.take([1]) is None
    assert [len(block) for block in arena.take([0, 0])] == [0, 0]
    assert arena.take([]) == ()
    assert arena.used_bytes == 0


def test_a_budget_below_zero_is_refused():
    with pytest.raises(ValueError, match="budget_bytes must not be negative, got -1"):
        Arena(-1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="pages are locked there")
def test_without_a_gpu_pages_are_not_locked_and_a_line_says_so(caplog):
    assert not Arena(4096, pinned=True).in_reach
    assert "not page-locked" in caplog.text


def test_threads_take_and_drop_together():
    arena, errors = Arena(64 * 1024), []

    def work(value):
        for size in range(1, 200):
            blocks = arena.take([size * 7, size])
            if blocks is not None:
                for block in blocks:
                    block.fill_(value)
                if any((block != value).any() for block in blocks):
                    errors.append(size)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert arena.used_bytes == 0
