import pytest
import torch

from cache_store.layout import Plane


def test_columns_lie_side_by_side_in_their_order():
    plane = Plane.of(10, {"b": 3, "a": 2, "c": 1}, torch.float16, num_steps=4)
    assert plane.columns == {"b": slice(0, 3), "a": slice(3, 5), "c": slice(5, 6)}
    assert plane.width == plane.width_of(None) == 6
    assert [plane.width_of(name) for name in "bac"] == [3, 2, 1]


def test_bytes_are_those_of_all_steps():
    plane = Plane.of(10, {"a": 2, "b": 3}, torch.float32, num_steps=4)
    assert plane.num_bytes() == 4 * 10 * 5 * 4
    assert plane.num_bytes(3) == 4 * 3 * 5 * 4
    assert plane.num_bytes(0) == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_rows": 0}, "num_rows must be at least 1, got 0"),
        ({"num_steps": -1}, "num_steps must not be negative, got -1"),
        ({"widths": {}}, "widths must name columns"),
        ({"widths": {"a": 2, "b": 0}}, "widths must name columns of at least 1"),
    ],
)
def test_an_impossible_plane_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        Plane.of(**{"num_rows": 1, "widths": {"a": 1}, "dtype": torch.float16, "num_steps": 1} | changed)
