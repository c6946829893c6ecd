"""Block sizes: rounding out, and the choice by cost."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sparse_ops.blocks import BLOCKS, BlockCost, choose_blocks, pyramid, round_out, touched_blocks

CHEAP_BYTES = BlockCost(320, macs_per_second=1, bytes_per_second=1e9)
DEAR_BYTES = BlockCost(320, macs_per_second=1e9, bytes_per_second=1)


def random_masks(height, width):
    return torch.rand(2, height, width) < 0.02


@pytest.mark.parametrize("size", [(24, 32), (21, 27), (1, 5)])
@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_are_max_pooling_and_rounding_out_is_its_opposite(size, block):
    masks = random_masks(*size)
    pooled = F.max_pool2d(masks.float(), block, ceil_mode=True).bool()
    assert torch.equal(touched_blocks(masks, block), pooled)
    rounded = round_out(masks, block)
    assert torch.equal(rounded, F.interpolate(pooled[None].float(), scale_factor=block)[0, :, : size[0], : size[1]] > 0)
    assert not (masks & ~rounded).any()


def test_lower_resolutions_are_pooled_from_the_mask_itself():
    masks = random_masks(21, 27)
    assert [list(mask.shape) for mask in pyramid(masks, 3)] == [[2, 21, 27], [2, 11, 14], [2, 6, 7]]
    assert torch.equal(pyramid(masks, 3)[2], F.max_pool2d(masks.float(), 4, ceil_mode=True).bool())


def test_cheap_bytes_choose_few_rows_and_dear_bytes_choose_large_blocks():
    ragged = random_masks(96, 96)[:1]
    assert choose_blocks(ragged, [CHEAP_BYTES]) == (1,)
    mask = torch.zeros(1, 96, 96, dtype=torch.bool)
    mask[0, 10:34, 20:50] = True
    (block,) = choose_blocks(mask, [DEAR_BYTES])
    assert block > 1


def test_a_full_mask_is_dense_at_every_resolution():
    everything = torch.ones(1, 96, 96, dtype=torch.bool)
    assert choose_blocks(everything, [BlockCost(320, 1e12, 1e12, dense_advantage=1.2)] * 3) == (None,) * 3


def test_a_resolution_is_dense_only_if_all_lower_ones_are():
    """The middle one alone would be dense: a dense convolution is said to be far faster there."""
    mask = random_masks(96, 96)[:1]
    eager = BlockCost(320, 1e12, 1e12, dense_advantage=1e3)
    assert choose_blocks(mask, [CHEAP_BYTES, eager, CHEAP_BYTES])[1] is not None
    assert choose_blocks(mask, [CHEAP_BYTES, eager, eager])[1:] == (None, None)


def test_the_choice_weighs_all_images_of_the_mask():
    masks = random_masks(96, 96)
    assert choose_blocks(masks, [CHEAP_BYTES] * 2) == (1, 1)
