"""Plans of many masks in few shapes."""

from __future__ import annotations

import pytest
import torch

from loadtests.shapes import synthetic_mask
from sparse_ops.buckets import Bucket, blind, bucket_of, pack, shapes_of, unpack
from sparse_ops.plan import active_positions, make_plans

RATIOS = [ratio / 100 for ratio in range(4, 44, 2)]


def active(mask):
    return active_positions(mask.expand(2, -1, -1), 4)


@pytest.fixture(scope="module")
def masks():
    return [active(synthetic_mask(96, ratio, seed)[None]) for ratio in RATIOS for seed in range(3)]


def test_masks_of_all_sizes_share_few_shapes(masks):
    shapes = {shapes_of(make_plans(levels, capacity=bucket_of(make_plans(levels)))) for levels in masks}
    assert len(masks) == 60
    assert len(shapes) <= 30


def test_lists_are_not_much_longer_than_they_must_be(masks):
    for levels in masks:
        plans = make_plans(levels)
        padded = make_plans(levels, capacity=bucket_of(plans))
        rows = [(len(long.rows), len(plan.rows)) for long, plan in zip(padded, plans, strict=True)]
        assert all(long >= short for long, short in rows)
        assert rows[0][0] <= 1.25 * rows[0][1] + 64
        assert all(long <= 1.9 * short + 64 for long, short in rows)


def test_whatever_the_mask_it_fits():
    chequered = (
        torch.arange(96)[:, None] + torch.arange(96)
    ) % 7 == 0  # every cell of the lower resolutions is touched
    levels = active(chequered[None])
    padded = make_plans(levels, capacity=bucket_of(make_plans(levels)))
    assert all(len(plan.rows) >= plan.rows.offsets[-1] for plan in padded)


@pytest.mark.parametrize("size", [32, 64, 96])
@pytest.mark.parametrize("num_dense", [0, 1, 2])
def test_each_list_has_room_for_what_there_is(size, num_dense):
    """Low rows that are reached, too: where resolutions below are dense, or a scattered mask makes them complete."""
    blocks = (1,) * (4 - num_dense) + (None,) * num_dense
    scattered = (torch.arange(size)[:, None] % 5 == 0) & (torch.arange(size) % 5 == 0)
    masks = [scattered, *(synthetic_mask(size, ratio, seed) for ratio in (0.02, 0.1, 0.3) for seed in range(3))]
    for mask in masks:
        levels = active_positions(mask.expand(2, -1, -1), 4, blocks)
        plans = make_plans(levels)
        for own, padded in zip(plans, make_plans(levels, capacity=bucket_of(plans)), strict=True):
            for name in ("rows", "rest", "attended", "halo", "keys"):
                assert len(getattr(padded, name)) >= getattr(own, name).offsets[-1]
            if own.down is not None:
                assert len(padded.down.neighbors) >= len(own.down.neighbors)
                assert len(padded.down.fill) >= len(own.down.fill)


def test_a_capacity_that_cuts_a_list_off_is_refused():
    levels = active(synthetic_mask(32, 0.2)[None])
    with pytest.raises(ValueError, match=r"capacity must leave room for what there is: a list of \d+ was given 5"):
        make_plans(levels, capacity=lambda what, _, count: 5 if what == "reached" else count)


def test_nothing_stays_nothing():
    assert Bucket(64, 1.0, 2, (128, 32))("rows", 0, 0) == 0
    assert Bucket(64, 1.0, 2, (128, 32))("fill", 0, 0) == 0


def test_plans_are_what_they_were_packed_from(masks):
    levels = masks[7]
    plans = make_plans(levels, capacity=bucket_of(make_plans(levels)))
    again = unpack(plans, pack(plans))
    assert shapes_of(again) == shapes_of(plans)
    assert torch.equal(pack(again), pack(plans))
    assert again[1].rows.offsets == plans[1].rows.offsets


def test_another_mask_of_the_bucket_is_one_copy(masks):
    by_shape = {}
    for levels in masks:
        plans = make_plans(levels, capacity=bucket_of(make_plans(levels)))
        by_shape.setdefault(shapes_of(plans), []).append(plans)
    first, second = next(group for group in by_shape.values() if len(group) > 1)[:2]
    packed = pack(first)
    held = unpack(first, packed)
    packed.copy_(pack(second))
    assert torch.equal(held[0].same, second[0].same)
    assert torch.equal(held[2].keys.starts, second[2].keys.starts)


def test_a_blind_plan_does_not_tell_counts(masks):
    plan = blind(make_plans(masks[0]))[0]
    for ask in (plan.rows.counts, plan.rows.images, lambda: plan.keys.offsets[0], lambda: len(plan.halo.offsets)):
        with pytest.raises(RuntimeError, match="a captured pass asked the host for the counts of one mask"):
            ask()
