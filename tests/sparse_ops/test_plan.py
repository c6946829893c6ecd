"""Plans are integers: every fact about them is exact."""

from __future__ import annotations

from functools import partial
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_ops import reference as ops
from sparse_ops.plan import active_positions, dense_plans, make_plans
from sparse_ops.positions import Positions

SIZES = [(24, 32), (21, 27), (7, 5)]


def fragmented(height, width, seed=0, batch=2, density=0.05):
    """Noise, and a blob in the first image."""
    masks = torch.rand(batch, height, width, generator=torch.Generator().manual_seed(seed)) < density
    masks[0, height // 3 : height // 2 + 1, 1 : width // 2] = True
    return masks


def plans_of(edit_mask, blocks, **attention):
    return make_plans(active_positions(edit_mask, len(blocks), blocks), **attention)


@st.composite
def batches(draw):
    """Plans of a batch of random masks of random sizes, rounded out to random blocks."""
    size = draw(st.integers(1, 13)), draw(st.integers(1, 13))
    density = draw(st.sampled_from([0.0, 0.03, 0.2, 0.7, 1.0]))
    edit_mask = fragmented(*size, draw(st.integers(0, 2**31)), draw(st.integers(1, 3)), density)
    blocks = draw(st.lists(st.sampled_from([1, 1, 2, 3]), min_size=1, max_size=4))
    num_dense = draw(st.integers(0, len(blocks)))
    blocks = blocks[: len(blocks) - num_dense] + [None] * num_dense
    attend = draw(st.lists(st.booleans(), min_size=len(edit_mask), max_size=len(edit_mask)))
    active = active_positions(edit_mask, len(blocks), blocks)
    return edit_mask, active, attend, make_plans(active, attend)


many = settings(max_examples=150, deadline=None, derandomize=True)


@given(batches())
@many
def test_rows_and_rest_are_every_position_once(batch):
    _, active, _, plans = batch
    for here, plan in zip(active, plans, strict=True):
        everything = torch.cat([plan.rows.index, plan.rest.index])
        assert plan.size == tuple(here.shape)
        assert torch.equal(here.flatten()[everything], torch.arange(len(everything)) < len(plan.rows))
        assert torch.equal(everything.sort().values, torch.arange(here.numel(), dtype=torch.int32))
        assert torch.equal(everything[plan.scatter], torch.arange(here.numel(), dtype=torch.int32))


@given(batches())
@many
def test_rows_cover_the_mask(batch):
    edit_mask, active, _, _ = batch
    assert not (edit_mask & ~active[0]).any()
    for level, here in enumerate(active):
        for image, y, x in edit_mask.nonzero().tolist():
            assert here[image, y >> level, x >> level]


def read_by(plan, above, below):
    """For each table: the position that each tap of each output reads, told by coordinates alone."""

    def taps(outputs, size, stride, upscale):
        height, width = size
        for position in outputs:
            image, y, x = position // (height * width), position // width % height, position % width
            for dy, dx in product((-1, 0, 1), repeat=2):
                v, u = y * stride + dy, x * stride + dx
                seen = (height, width) if upscale == 2 else (plan.height, plan.width)
                inside = 0 <= v < seen[0] and 0 <= u < seen[1]
                yield (image * plan.height + v // upscale) * plan.width + u // upscale if inside else None

    own = (plan.height, plan.width)
    if plan.same is not None:
        yield plan.same, taps(plan.rows.index.tolist(), own, 1, 1)
    if plan.down is not None:
        filled = set(plan.down.fill.index.tolist())
        reached = [position for position in below.rows.index.tolist() if position not in filled]
        yield plan.down.neighbors, taps(reached, (below.height, below.width), 2, 1)
    if plan.up is not None:
        yield plan.up, taps(above.rows.index.tolist(), (above.height, above.width), 1, 2)


@given(batches())
@many
def test_each_neighbour_is_at_the_right_position(batch):
    plans = batch[-1]
    for level, plan in enumerate(plans):
        sources = [*plan.rows.index.tolist(), *plan.halo.index.tolist(), None]
        above, below = (plans[i] if 0 <= i < len(plans) else None for i in (level - 1, level + 1))
        for table, expected in read_by(plan, above, below):
            assert [sources[place] for place in table.flatten().tolist()] == list(expected)


@given(batches())
@many
def test_the_halo_is_what_is_read_and_not_computed(batch):
    for plan in batch[-1]:
        tables = (plan.same, plan.up, None if plan.down is None else plan.down.neighbors)
        read = {place for table in tables if table is not None for place in table.flatten().tolist()}
        halo = range(len(plan.rows), len(plan.rows) + len(plan.halo))
        assert set(halo) <= read
        assert not set(plan.halo.index.tolist()) & set(plan.rows.index.tolist())


@given(batches())
@many
def test_offsets_are_equal_on_host_and_device_and_count_each_image(batch):
    for plan in batch[-1]:
        for positions in (plan.rows, plan.rest, plan.attended, plan.halo):
            assert positions.starts.dtype == positions.index.dtype == torch.int32
            assert tuple(positions.starts.tolist()) == positions.offsets
            assert len(positions) == len(positions.index)
            for image, part in enumerate(positions.images()):
                own = positions.index[part]
                assert (own // positions.per_image == image).all()
                assert torch.equal(positions.local(image), own % positions.per_image)


@given(batches())
@many
def test_an_image_attends_to_all_of_its_rest_or_to_none(batch):
    _, _, attend, plans = batch
    for plan in plans:
        for image, attends in enumerate(attend):
            assert torch.equal(plan.attended.local(image), plan.rest.local(image)[: None if attends else 0])
        pairs = zip(plan.rows.counts(), plan.attended.counts(), strict=True)
        assert plan.keys.counts() == [fresh + read for fresh, read in pairs]
        assert tuple(plan.keys.starts.tolist()) == plan.keys.offsets
        begins = zip(plan.keys.offsets, plan.rows.counts(), strict=False)
        assert plan.keys.fresh.tolist() == [begin + row for begin, count in begins for row in range(count)]
        assert len(plan.keys) == plan.keys.offsets[-1]
        assert torch.equal(plan.keys.index[plan.keys.index >= 0], plan.attended.index)
        assert (plan.keys.index[plan.keys.fresh] == -1).all()


@given(batches())
@many
def test_a_resolution_is_dense_when_it_and_all_lower_ones_are_complete(batch):
    _, active, _, plans = batch
    for level, plan in enumerate(plans):
        assert plan.dense == all(bool(here.all()) for here in active[level:])
        if plan.dense:
            assert plan.same is None
            assert plan.down is None
            assert len(plan.rest) == len(plan.halo) == 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("blocks", [(1, 1, 1), (2, 3, 1), (1, 8, 2), (4, 1, None), (1, None, None)])
def test_each_table_is_the_convolution_it_stands_for(size, blocks):
    """Integers in float64 convolve exactly, so a wrong neighbour cannot hide."""
    plans = plans_of(fragmented(*size), blocks)
    weight, bias = torch.randint(-9, 9, (4, 3, 3, 3)).double(), torch.zeros(4).double()
    for level, plan in enumerate(plans):
        values = torch.randint(-9, 9, (plan.batch * plan.height * plan.width, 3)).double()
        sources = values[plan.rows.index], [values[plan.halo.index]]
        gathered = partial(ops.conv3x3, *sources, weight=weight, bias=bias)
        dense = partial(ops.conv3x3_dense, values, plan.size, weight, bias)
        if plan.same is not None:
            assert torch.equal(gathered(neighbors=plan.same), dense()[plan.rows.index])
        if plan.down:
            low = dense(stride=2)
            filled = torch.cat([gathered(neighbors=plan.down.neighbors), low[plan.down.fill.index]])
            assert torch.equal(filled[plan.down.order], low[plans[level + 1].rows.index])
        if plan.up is not None:
            above = plans[level - 1]
            high = dense(upsample_to=(above.height, above.width))
            assert torch.equal(gathered(neighbors=plan.up), high[above.rows.index])


@given(batches(), st.integers(0, 3))
@many
def test_padding_is_behind_everything_and_nobodys(batch, extra):
    """The plans of a captured graph have the lengths of its bucket."""
    _, active, attend, plans = batch
    padded = make_plans(active, attend, lambda _, __, count: count + extra if count else 0)
    for plan, own in zip(padded, plans, strict=True):
        if own.dense:
            assert len(plan.rows) == len(own.rows)
        for longer, shorter in [(plan.rows, own.rows), (plan.halo, own.halo), (plan.rest, own.rest)]:
            assert longer.offsets == shorter.offsets
            assert torch.equal(longer.own, shorter.index)
            assert len(longer) == (len(shorter) + extra if len(shorter) and not own.dense else len(shorter))
        shift = len(plan.rows) - len(own.rows)  # the halo begins behind the padding of rows
        for longer, shorter in [(plan.same, own.same), (plan.up, own.up)]:
            if shorter is not None:
                moved = torch.where(shorter < len(own.rows), shorter, shorter + shift)
                assert torch.equal(longer[: len(shorter)], moved)
                assert (longer[len(shorter) :] == -1).all()
        assert torch.equal(plan.keys.fresh[: len(own.rows)], own.keys.fresh)
        nobodys = plan.keys.fresh[len(own.rows) :]
        assert (nobodys >= len(own.keys)).all()
        assert (nobodys < len(plan.keys)).all()


def test_halo_reaches_beyond_the_ring_for_a_stride_2_convolution():
    masks = torch.zeros(1, 6, 6, dtype=torch.bool)
    masks[0, 3, 3] = True
    ring = [2 * 6 + 2, 2 * 6 + 3, 2 * 6 + 4, 3 * 6 + 2, 3 * 6 + 4, 4 * 6 + 2, 4 * 6 + 3, 4 * 6 + 4]
    assert plans_of(masks, (1,))[0].halo.index.tolist() == ring
    assert plans_of(masks, (1, 1))[0].halo.index.tolist() == [7, 8, 9, 13, *ring[:3], 19, *ring[3:]]


def test_low_rows_that_no_active_row_reaches_are_filled():
    masks = torch.zeros(1, 16, 16, dtype=torch.bool)
    masks[0, 0, 0] = True
    high, low = plans_of(masks, (1, None))
    assert len(low.rows) == 64
    assert len(high.down.neighbors) == 1
    assert len(high.down.fill) == 63


def test_a_batch_is_its_images_active_positions_one_after_another():
    """A sparse job beside a dense one, which is all ones: it is complete, and its own tables read its own rows."""
    sparse = active_positions(fragmented(9, 11, batch=1), 3)
    dense = active_positions(torch.ones(1, 9, 11, dtype=torch.bool), 3)
    alone = make_plans(sparse)
    together = make_plans([torch.cat(both) for both in zip(sparse, dense, strict=True)])
    for plan, own in zip(together, alone, strict=True):
        assert not plan.dense
        assert not plan.complete[0]
        assert plan.complete[1]
        assert torch.equal(plan.rows.local(0), own.rows.local(0))
        assert torch.equal(plan.halo.index, own.halo.index)
        assert torch.equal(plan.same[: len(own.rows)].clamp(max=len(own.rows)), own.same.clamp(max=len(own.rows)))


def test_a_dense_batch_has_no_tables():
    for plan in dense_plans(2, 21, 27, 3):
        assert plan.dense
        assert plan.up is None
        assert plan.down is None
        assert plan.keys.offsets == plan.rows.offsets


def test_the_attended_are_the_rest_itself_when_every_image_attends():
    """So a reader that gathers positions once knows them again."""
    for plan in plans_of(fragmented(24, 32), (1, 1)):
        assert plan.attended is plan.rest


def test_a_plan_moves_with_its_empty_parts():
    for plan in plans_of(fragmented(24, 32), (1, 1, None)):
        moved = plan.to("meta")
        assert (moved.down is None) == (plan.down is None)
        assert all(x.index.device.type == "meta" for x in (moved.rows, moved.rest, moved.halo, moved.attended))
        assert all(x.starts.device.type == "meta" for x in (moved.rows, moved.rest, moved.halo, moved.attended))
        assert moved.down is None or moved.down.fill.index.device.type == "meta"


def test_a_selection_of_nothing_is_empty_for_every_image():
    nothing = Positions.where(torch.zeros(2, 3, 4, dtype=torch.bool))
    assert nothing.offsets == (0, 0, 0)
    assert len(nothing.local(1)) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(24, 32, dtype=torch.bool), 3), r"edit_mask must be bool \[B, H, W\], got torch.bool \[24, 32\]"),
        ((torch.ones(1, 24, 32), 3), r"edit_mask must be bool \[B, H, W\], got torch.float32 \[1, 24, 32\]"),
        ((fragmented(24, 32), 3, (1, 1)), r"blocks must have one entry for each of 3 resolutions, got \(1, 1\)"),
        ((fragmented(24, 32), 3, (1, None, 1)), "blocks must be dense .* only at the lowest"),
    ],
)
def test_masks_and_blocks_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        active_positions(*arguments)


def test_active_positions_that_do_not_fit_are_refused():
    high, low = active_positions(fragmented(9, 11), 2)
    with pytest.raises(ValueError, match=r"active\[1\] must be \[2, 5, 6\], half of active\[0\], got \[2, 5, 5\]"):
        make_plans([high, low[:, :, :5]])
    with pytest.raises(ValueError, match=r"active\[0\] must be bool"):
        make_plans([high.int(), low])
    with pytest.raises(ValueError, match="attend_recorded must be one bool, or one for each of 2 images"):
        make_plans([high, low], [True])
