"""Cells: the statistics of a map are those of its cells, and complete cells are told from others."""

from __future__ import annotations

import pytest
import torch

from sparse_ops import reference as ops
from sparse_ops.cells import all_cells, complete_cells, of_all


def everywhere(height, width):
    return torch.arange(height * width).view(height, width)


def by_cell(rows, cells, num_groups):
    return ops.group_norm_statistics(rows[cells.rows], num_groups)


@pytest.mark.parametrize("offset", [0, 1000])
def test_statistics_of_all_cells_are_those_of_the_map(offset):
    """Far from zero, too: squares of 1000 taken from another would leave no digit of a variance of 1 in float32."""
    rows = offset + torch.randn(12 * 8, 6)
    found = of_all(by_cell(rows, complete_cells(everywhere(12, 8), 4), 3))
    expected = ops.group_norm_statistics(rows.double()[None], 3)[0]
    torch.testing.assert_close(found, expected, atol=1e-6 * max(1, offset), rtol=1e-4)  # rounding of rows near 1000


def test_a_cell_with_a_position_that_has_no_row_is_not_complete():
    places = torch.full((4, 6), -1)
    present = torch.zeros(4, 6, dtype=torch.bool)
    present[1:4, 1:5] = True
    places[present] = torch.arange(12)
    cells = complete_cells(places, 2)
    assert cells.index.tolist() == [4]  # of 2 x 3 cells the middle one below
    assert cells.rows.tolist() == [[5, 6, 9, 10]]


@pytest.mark.parametrize(("height", "width", "side"), [(12, 8, 4), (4, 6, 2), (3, 5, 1)])
def test_where_all_rows_are_there_all_cells_are(height, width, side):
    cells, found = all_cells(height, width, side, torch.device("cpu")), complete_cells(everywhere(height, width), side)
    assert torch.equal(cells.index, found.index)
    assert torch.equal(cells.rows, found.rows)


def test_no_row_is_no_cell():
    assert complete_cells(torch.full((4, 4), -1), 2).rows.shape == (0, 4)


def test_changed_cells_take_the_place_of_the_recorded_ones():
    """Where a change stays within complete cells, the statistics are the changed map's own."""
    before, after = torch.randn(64, 4), torch.randn(64, 4)
    everything = complete_cells(everywhere(8, 8), 2)
    places = torch.full((8, 8), -1)
    places[2:6, 4:8] = torch.arange(16).view(4, 4)
    changed = (places >= 0).flatten()
    cells = complete_cells(places, 2)
    merged = by_cell(before, everything, 2).index_copy(0, cells.index, by_cell(after[changed], cells, 2))
    whole = torch.where(changed[:, None], after, before)
    torch.testing.assert_close(of_all(merged), ops.group_norm_statistics(whole[None], 2)[0])
