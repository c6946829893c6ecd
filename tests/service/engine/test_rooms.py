from __future__ import annotations

import torch

from service.engine.rooms import Rooms

HALVES = torch.empty(0, dtype=torch.float16)


def test_one_use_is_one_memory_and_two_uses_are_two():
    rooms = Rooms()
    large = rooms.room("rows", 10, 8, HALVES)
    large.fill_(1)
    small, other = rooms.room("rows", 3, 4, torch.empty(0)), rooms.room("keys", 3, 4, HALVES)
    assert (small.shape, small.dtype) == ((3, 4), torch.float32)
    assert small.data_ptr() == large.data_ptr()
    other.fill_(2)
    assert (large == 1).all()


def test_who_was_there_before_it_grew_stays_there():
    rooms = Rooms()
    before = rooms.room("rows", 2, 4, HALVES).fill_(1)
    rooms.room("rows", 3, 4, HALVES).fill_(2)
    assert (before == 1).all()


def test_it_grows_at_least_to_twice_so_that_little_is_outgrown():
    rooms = Rooms()
    for num_rows in range(1, 101):
        rooms.room("rows", num_rows, 4, HALVES)
    assert rooms.num_bytes < 3 * 128 * 8


def test_of_no_rows_there_is_room():
    assert Rooms().room("rows", 0, 4, HALVES).shape == (0, 4)
