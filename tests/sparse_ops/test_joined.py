"""Joined plans are those that are made of all images at once: every integer, type and length."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loadtests.shapes import synthetic_mask
from sparse_ops.buckets import bucket_of
from sparse_ops.joined import join
from sparse_ops.plan import active_positions, dense_plans, make_plans

SIZES = [(24, 32), (7, 9), (13, 6), (1, 3), (16, 16)]
BLOCKS = st.sampled_from([1, 1, 2, 3, None])
SHARES = ["one position", 0.0, 0.03, 0.2, 0.7, "everything"]
many = settings(max_examples=120, deadline=None, derandomize=True)


def leaves(tree, name="plans"):
    """All that a plan is made of, by where it is; a tensor as its type, shape and integers."""
    if isinstance(tree, Tensor):
        yield name, (tree.dtype, tuple(tree.shape), tree.tolist())
    elif isinstance(tree, list):
        for i, part in enumerate(tree):
            yield from leaves(part, f"{name}[{i}]")
    elif is_dataclass(tree):
        yield name, type(tree)
        for field in fields(tree):
            yield from leaves(getattr(tree, field.name), f"{name}.{field.name}")
    else:
        yield name, tree


def assert_equal(plans, expected):
    found = dict(leaves(plans))
    assert not [name for name, what in leaves(expected) if found.pop(name) != what]
    assert not found
    assert [plan.attended is plan.rest for plan in plans] == [plan.attended is plan.rest for plan in expected]


def edit_mask(size, share, seed):
    if share == "everything":
        return torch.ones(1, *size, dtype=torch.bool)
    random = torch.Generator().manual_seed(seed)
    if share == "one position":
        return (torch.randperm(size[0] * size[1], generator=random) == 0).view(1, *size)
    return torch.rand(1, *size, generator=random) < share


@st.composite
def parts_of_a_batch(draw, blocks=BLOCKS):
    """For each part its active positions and whether its images attend to what is recorded."""
    size, num_levels = draw(st.sampled_from(SIZES)), draw(st.integers(1, 4))
    parts = []
    for _ in range(draw(st.integers(1, 5))):
        own = sorted((draw(blocks) for _ in range(num_levels)), key=lambda block: block is None)
        branches = draw(st.integers(1, 2))
        if draw(st.booleans()):  # one mask for all guidance branches, as jobs have it
            mask = edit_mask(size, draw(st.sampled_from(SHARES)), draw(st.integers(0, 99)))
            active = [level.expand(branches, -1, -1) for level in active_positions(mask, num_levels, own)]
        else:
            images = [edit_mask(size, draw(st.sampled_from(SHARES)), draw(st.integers(0, 99))) for _ in range(branches)]
            active = active_positions(torch.cat(images), num_levels, own)
        parts.append((active, draw(st.lists(st.booleans(), min_size=branches, max_size=branches))))
    return parts


def of_each(parts):
    return [make_plans(active, attend) for active, attend in parts]


def of_all(parts, **capacity):
    levels = [torch.cat(level) for level in zip(*(active for active, _ in parts), strict=True)]
    return make_plans(levels, [image for _, attend in parts for image in attend], **capacity)


@given(parts_of_a_batch())
@many
def test_they_are_what_is_made_of_all_images(parts):
    assert_equal(join(of_each(parts)), of_all(parts))


@given(parts_of_a_batch())
@many
def test_they_are_as_long_as_their_bucket_says(parts):
    bucket = bucket_of(join(of_each(parts)))
    assert_equal(join(of_each(parts), bucket), of_all(parts, capacity=bucket))


@given(parts_of_a_batch(), st.integers(0, 2))
@many
def test_each_list_has_a_length_of_its_own(parts, extra):
    """Lists of nothing too, and each of another length than its neighbours."""

    def capacity(what, level, count):
        return count + extra * len(what) + level

    assert_equal(join(of_each(parts), capacity), of_all(parts, capacity=capacity))


@given(parts_of_a_batch(blocks=st.just(None)))
@many
def test_dense_parts_are_dense_together(parts):
    joined = join(of_each(parts), lambda _, __, count: count + 5)
    assert_equal(joined, of_all(parts))
    assert all(plan.dense for plan in joined)


@given(parts_of_a_batch())
@many
def test_what_is_joined_may_be_joined_again(parts):
    plans = of_each(parts)
    bucket = bucket_of(join(plans))
    assert_equal(join([join(plans[:2]), *plans[2:]]), of_all(parts))
    assert_equal(join([join(plans)], bucket), of_all(parts, capacity=bucket))


@pytest.mark.parametrize("num_levels", [1, 2, 4])
def test_a_dense_part_beside_a_sparse_one_reads_its_own_rows(num_levels):
    everything = [torch.ones(2, *size, dtype=torch.bool) for size in [(24, 32), (12, 16), (6, 8), (3, 4)][:num_levels]]
    sparse = active_positions(edit_mask((24, 32), 0.1, 0), num_levels)
    for parts in ([everything, sparse], [sparse, everything, sparse]):
        batch = [(active, [True] * len(active[0])) for active in parts]
        assert_equal(join(of_each(batch)), of_all(batch))
        assert not join(of_each(batch))[0].dense


def test_eight_jobs_of_ragged_masks_fill_their_bucket():
    masks = [synthetic_mask(96, (0.05, 0.11)[seed % 2], seed) for seed in range(8)]
    parts = [([level.expand(2, -1, -1) for level in active_positions(mask[None], 4)], [True, True]) for mask in masks]
    bucket = bucket_of(join(of_each(parts)))
    joined = join(of_each(parts), bucket)
    assert_equal(joined, of_all(parts, capacity=bucket))
    assert len(joined[0].rows) > joined[0].rows.offsets[-1]


def test_parts_stay_as_they_are():
    mask = edit_mask((24, 32), 0.1, 0)
    part = make_plans(active_positions(mask, 3))
    join([part, part], bucket_of(join([part, part])))
    assert_equal(part, make_plans(active_positions(mask, 3)))


def test_parts_that_do_not_fit_are_refused():
    plans = dense_plans(1, 24, 32, 2)
    with pytest.raises(
        ValueError, match=r"parts must be plans of the same resolutions, got \[\(\(24, 32\), \(12, 16\)"
    ):
        join([plans, dense_plans(1, 24, 33, 2)])
    with pytest.raises(ValueError, match="parts must be plans of the same resolutions"):
        join([plans, plans[:1]])
    with pytest.raises(ValueError, match=r"parts must be plans of the same resolutions, got \[\]"):
        join([])


@pytest.mark.parametrize("what", ["rows", "rest", "attended", "halo", "keys"])
def test_padded_parts_are_refused(what):
    active = active_positions(edit_mask((24, 32), 0.1, 0).expand(2, -1, -1), 2)
    padded = make_plans(active, [True, False], lambda which, _, count: count + (which == what))
    with pytest.raises(ValueError, match="parts must be plans without padding"):
        join([padded])
