"""Shells: a stack of convolutions on shrinking rows is the stack on the whole map."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sparse_ops import reference as ops
from sparse_ops.shells import make_shells


def whole(image, layers, weights, sizes):
    """[1, C, h, w], layer by layer."""
    for layer, weight, size in zip(layers, weights, sizes, strict=True):
        upsampled = F.interpolate(image, size, mode="nearest") if layer == "up" else image
        image = F.conv2d(upsampled, weight, padding=1)
    return image


def on_rows(image, shells, weights):
    rows = image.permute(0, 2, 3, 1).flatten(0, 2)
    for shell, weight in zip(shells, weights, strict=True):
        rows = ops.conv3x3(rows, [], shell.neighbors, weight, torch.zeros(len(weight), dtype=rows.dtype))
    return rows


def sizes_of(height, width, layers):
    """The size before the first layer, and after each."""
    sizes = [(height, width)]
    for layer in reversed(layers):
        last = sizes[0]
        sizes.insert(0, (-(-last[0] // 2), -(-last[1] // 2)) if layer == "up" else last)
    return sizes


@settings(max_examples=60, deadline=None)
@given(
    layers=st.lists(st.sampled_from(["same", "up"]), min_size=1, max_size=5),
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    ratio=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_needed_positions_get_what_the_whole_map_gives_them(layers, height, width, ratio, seed):
    """In integers, so equal means equal."""
    generator = torch.Generator().manual_seed(seed)
    sizes = sizes_of(height, width, layers)
    needed = torch.rand(height, width, generator=generator) < ratio
    image = torch.randint(-3, 4, (1, 2, *sizes[0]), generator=generator).double()
    weights = [torch.randint(-2, 3, (2, 2, 3, 3), generator=generator).double() for _ in layers]
    shells = make_shells(needed, layers)
    expected = whole(image, layers, weights, sizes[1:])[0].permute(1, 2, 0)[needed]
    assert torch.equal(on_rows(image, shells, weights), expected)
    assert torch.equal(shells[-1].places >= 0, needed)
    assert torch.equal(shells[-1].places[needed], torch.arange(len(shells[-1]), dtype=torch.int32))


@given(height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 99))
def test_centers_are_the_rows_own_places(height, width, seed):
    needed = torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < 0.2
    first, second = make_shells(needed, ["same", "same"])
    assert torch.equal(second.centers, first.places[needed].long())
    assert torch.equal(first.centers, (first.places >= 0).flatten().nonzero().squeeze(1))  # all are there before it


def test_one_position_grows_by_one_a_convolution_and_halves_at_an_upsampling():
    needed = torch.zeros(16, 16, dtype=torch.bool)
    needed[7, 7] = True
    shells = make_shells(needed, ["same", "up", "same", "same"])
    assert [len(shell) for shell in shells] == [16, 25, 9, 1]


def test_nothing_needed_is_nothing_computed():
    shells = make_shells(torch.zeros(8, 8, dtype=torch.bool), ["up", "same"])
    assert [len(shell) for shell in shells] == [0, 0]


@pytest.mark.parametrize("needed", [torch.ones(4, 4), torch.ones(1, 4, 4, dtype=torch.bool)])
def test_what_is_no_map_is_refused(needed):
    with pytest.raises(ValueError, match="needed must be bool"):
        make_shells(needed, ["same"])
