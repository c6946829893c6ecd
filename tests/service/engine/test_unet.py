"""The network on rows: equal to diffusers when dense, and to the recording where nothing changes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from service.engine.unet import UNet, UNetConfig
from sparse_ops.context import Context
from sparse_ops.plan import active_positions, dense_plans, make_plans
from sparse_ops.positions import exact

close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)  # as in test_unet_oracle.py


def test_dense_equals_diffusers(case):
    close(case.dense(), case.reference())


@pytest.mark.parametrize("channels", [8, 9])
def test_dense_equals_diffusers_with_more_input_channels(build, channels):
    case = build("sd2", in_channels=channels)
    close(case.dense(), case.reference())


def test_dense_equals_diffusers_at_odd_sizes(build):
    case = build("sd1", height=21, width=27)
    close(case.dense(), case.reference())


def test_recording_does_not_change_the_prediction(case):
    assert torch.equal(case.record()[0], case.dense())


def test_all_rows_active_equals_dense_whatever_changed(case):
    everything = torch.ones(2, 24, 32, dtype=torch.bool)
    change = case.edited(everything)
    close(case.sparse(everything, [{}, {}], **change), case.dense(**change))


@pytest.mark.parametrize("num_dense", [0, 1, 2])
def test_nothing_changed_gives_the_recorded_prediction(case, edit_mask, num_dense):
    dense, recordings = case.record()
    blocks = (1,) * (case.num_levels - num_dense) + (None,) * num_dense
    close(case.sparse(edit_mask, recordings, blocks=blocks), dense)


@pytest.mark.parametrize("blocks", [(1, 1, 1, 1), (2, 3, 1, 2), (8, 4, 2, None), (3, 6, None, None)])
def test_nothing_changed_gives_the_recorded_prediction_for_any_blocks(build, edit_mask, blocks):
    case = build("sd2")
    dense, recordings = case.record()
    close(case.sparse(edit_mask, recordings, blocks=blocks), dense)


def test_outside_the_mask_is_the_recorded_prediction_bit_for_bit(case, edit_mask):
    dense, recordings = case.record()
    ours = case.sparse(edit_mask, recordings, **case.edited(edit_mask))
    outside = ~edit_mask[:, None].expand_as(ours)
    assert torch.equal(ours[outside], dense[outside])
    assert not torch.allclose(ours[~outside], dense[~outside], atol=0.1)


def test_recorded_inputs_and_recorded_keys_and_values_give_the_same(case, edit_mask):
    change = case.edited(edit_mask)
    _, inputs = case.record()
    _, keys_values = case.record(keep_inputs=False)
    attentions = [key for key in inputs[0] if key.endswith("attn1")]
    assert attentions
    assert all(2 * inputs[0][key].shape[1] == keys_values[0][key].shape[1] for key in attentions)
    close(case.sparse(edit_mask, keys_values, keep_inputs=False, **change), case.sparse(edit_mask, inputs, **change))


@pytest.mark.parametrize("keep_inputs", [True, False])
def test_the_width_of_recorded_rows_tells_what_they_are(build, edit_mask, keep_inputs):
    case = build("sd2")
    change = case.edited(edit_mask)
    _, recordings = case.record(keep_inputs=keep_inputs)
    writers = [case.writer(recordings) for _ in range(2)]
    as_kept, otherwise = (
        case.sparse(edit_mask, recordings, keep_inputs=keep, writer=writer, **change)
        for keep, writer in ((keep_inputs, writers[0]), (not keep_inputs, None))
    )
    close(otherwise, as_kept)


def test_attention_among_the_active_only_reads_no_recorded_keys_and_values(build, edit_mask):
    case = build("sd2")
    _, recordings = case.record()
    bare = [{key: value for key, value in image.items() if not key.endswith("attn1")} for image in recordings]
    change = case.edited(edit_mask)
    masked = case.sparse(edit_mask, bare, attend_recorded=False, **change)
    assert not torch.allclose(masked, case.sparse(edit_mask, recordings, **change), atol=1e-2)


def test_images_of_one_call_choose_their_attention(build, edit_mask):
    case = build("sd2")
    _, recordings = case.record()
    change = case.edited(edit_mask)
    mixed = case.sparse(edit_mask, recordings, attend_recorded=[False, True], **change)
    close(mixed[:1], case.sparse(edit_mask, recordings, attend_recorded=False, **change)[:1])
    close(mixed[1:], case.sparse(edit_mask, recordings, **change)[1:])


def test_convolutions_are_exact_where_the_mask_covers_the_receptive_field(build):
    case = build("convolutions", height=72, width=72)
    _, recordings = case.record()
    change = torch.zeros(2, 72, 72, dtype=torch.bool)
    change[:, 34:38, 34:38] = True
    sample = torch.where(change[:, None], torch.randn_like(case.sample), case.sample)
    frozen = with_recorded_norms(case, recordings, sample)
    reached = (frozen != with_recorded_norms(case, recordings, case.sample)).any(1)
    assert 0.1 < reached.float().mean() < 0.9  # the receptive field ends inside the image
    close(case.sparse(widen(reached), recordings, sample=sample), frozen)
    clipped = case.sparse(widen(change), recordings, sample=sample)
    assert not torch.allclose(clipped[:, :, 34:38, 34:38], frozen[:, :, 34:38, 34:38], atol=1e-3)


def with_recorded_norms(case, recordings, sample):
    """The dense truth of a convolution-only network whose group norms are recorded: all but a far corner computed."""
    nearly_all = torch.ones(len(sample), *sample.shape[2:], dtype=torch.bool)
    nearly_all[:, :4, :4] = False
    return case.sparse(nearly_all, recordings, sample=sample)


def widen(mask, reach=2):
    return F.max_pool2d(mask[:, None].float(), 2 * reach + 1, 1, reach)[:, 0].bool()


def test_edits_in_one_call_equal_each_alone(case, edit_mask):
    _, recordings = case.record()
    change = case.edited(edit_mask)
    together = case.sparse(edit_mask, recordings, **change)
    alone = [case.sparse(edit_mask, recordings, images=slice(i, i + 1), **change) for i in range(2)]
    close(together, torch.cat(alone))


def test_both_guidance_branches_in_one_call_equal_each_alone(build, edit_mask):
    """Equal counts take the batched way through norms and attention."""
    case = build("sd2")
    same_mask = edit_mask[:1].expand(2, -1, -1)
    _, recordings = case.record()
    change = case.edited(same_mask)
    together = case.sparse(same_mask, recordings, **change)
    alone = [case.sparse(same_mask, recordings, images=slice(i, i + 1), **change) for i in range(2)]
    close(together, torch.cat(alone))


@pytest.mark.parametrize("attend_recorded", [True, False])
def test_an_edit_next_to_one_that_changes_nothing_is_not_disturbed(build, edit_mask, attend_recorded):
    case = build("sd2")
    dense, recordings = case.record()
    masks = edit_mask.clone()
    masks[1] = False
    change = case.edited(edit_mask)
    ours = case.sparse(masks, recordings, attend_recorded=attend_recorded, **change)
    alone = case.sparse(masks, recordings, attend_recorded=attend_recorded, images=slice(1), **change)
    assert torch.equal(ours[1], dense[1])
    close(ours[:1], alone)


def test_a_dense_generation_shares_a_call_with_a_sparse_edit(case, edit_mask):
    """A complete image needs no recording: its group norms are its own, and it reads no rows."""
    _, recordings = case.record()
    change = case.edited(torch.ones_like(edit_mask))
    sparse = active_positions(edit_mask[:1], case.num_levels)
    dense = active_positions(torch.ones_like(edit_mask[:1]), case.num_levels)
    masks = torch.cat([sparse[0], dense[0]])
    together = case.sparse(masks, [recordings[0], {}], **change)
    close(together[1:], case.dense(slice(1, 2), **change))
    close(together[:1], case.sparse(masks, recordings, images=slice(1), **change))


@pytest.mark.parametrize("blocks", [(1, 1, 1, 1), (2, 1, 1, None)])
@pytest.mark.parametrize("keep_inputs", [True, False])
def test_an_edit_is_again_a_recording(build, edit_mask, blocks, keep_inputs):
    case = build("sd2")
    _, recordings = case.record(keep_inputs=keep_inputs)
    writer = case.writer(recordings)
    sparse = partial(case.sparse, blocks=blocks, keep_inputs=keep_inputs, **case.edited(edit_mask))
    first = sparse(edit_mask, recordings, writer=writer)
    shapes = [{key: value.shape for key, value in image.items()} for image in (writer.images[0], recordings[0])]
    assert shapes[0] == shapes[1]
    again = sparse(edit_mask & (torch.rand(edit_mask.shape) < 0.3), writer.images)
    close(again, first)


@pytest.mark.parametrize("keep_inputs", [True, False])
@pytest.mark.parametrize("blocks", [(1, 1, 1), (2, 1, None)])
def test_padding_changes_nothing(build, edit_mask, blocks, keep_inputs):
    """Longer lists of rows, halo and keys, as a captured graph has: the same prediction and the same recording."""
    case = build("sdxl")
    _, recordings = case.record(keep_inputs=keep_inputs)
    sparse = partial(case.sparse, edit_mask, recordings, blocks=blocks, keep_inputs=keep_inputs)
    change, writers = case.edited(edit_mask), [case.writer(recordings) for _ in range(2)]
    plain = sparse(writer=writers[0], **change)
    padded = sparse(writer=writers[1], capacity=lambda _, __, count: count + 37 if count else 0, **change)
    close(padded, plain)
    for image, other in zip(writers[0].images, writers[1].images, strict=True):
        assert all(torch.allclose(image[key], other[key], atol=1e-5) for key in image)


@pytest.mark.parametrize("everything", [True, False])
def test_given_what_it_would_compute_below_a_shallow_pass_is_the_complete_one(case, edit_mask, everything):
    mask, kept = edit_mask | everything, []
    _, recordings = case.record()
    sparse = partial(case.sparse, mask, recordings, **case.edited(mask))
    complete = sparse(keep_deep=kept.append)
    assert torch.equal(sparse(deep=kept[0]), complete)


def test_padding_changes_nothing_in_a_shallow_pass(build, edit_mask):
    case = build("sdxl")
    _, recordings = case.record()
    change, kept = case.edited(edit_mask), []
    for capacity in (exact, lambda _, __, count: count + 37 if count else 0):
        sparse = partial(case.sparse, edit_mask, recordings, capacity=capacity, **change)
        sparse(keep_deep=kept.append)
    assert len(kept[1].values) == len(kept[0].values) + 37
    close(sparse(deep=kept[1]), case.sparse(edit_mask, recordings, deep=kept[0], **change))


def test_a_recording_is_what_a_sparse_pass_can_read(case, edit_mask):
    """Nothing is kept that no pass reads: halo rows, low rows filled in, keys and values, norms, the prediction."""
    _, recordings = case.record()
    read = set()

    class Watching:
        def rows(self, key, positions):
            read.add(key)
            return recordings[0][key].new_zeros(len(positions), recordings[0][key].shape[1])

        def keys(self, key, plan):
            read.add(key)
            return recordings[0][key].new_zeros(len(plan.keys), recordings[0][key].shape[1])

        def statistics(self, key):
            read.add(key)
            return torch.stack([image[key] for image in recordings])

    for blocks in ((1,) * case.num_levels, (1,) * (case.num_levels - 1) + (None,)):
        plans = make_plans(active_positions(edit_mask, case.num_levels, blocks))
        case.call(case.inputs(), Context(plans, Watching()))
    assert read == set(recordings[0])


def test_a_network_with_added_embeddings_says_that_they_are_missing(build):
    case = build("sdxl")
    with pytest.raises(ValueError, match="added must be"):
        case.dense(added=None)


def test_a_config_that_is_not_supported_is_refused_by_name(build):
    config = dict(build("sd1").theirs.config)
    with pytest.raises(ValueError, match="time_cond_proj_dim must be None, got 256"):
        UNetConfig.from_diffusers(config | {"time_cond_proj_dim": 256})
    with pytest.raises(ValueError, match="up_block_types must mirror"):
        UNetConfig.from_diffusers(config | {"up_block_types": ["UpBlock2D"] * 4})


def test_shapes_are_found_on_the_meta_device(case):
    """The layout of a recording is known without weights."""
    with torch.device("meta"):
        unet = UNet(case.ours.cfg)
    plans = [plan.to("meta") for plan in dense_plans(2, 24, 32, case.num_levels)]
    given = {name: value.to("meta") for name, value in case.inputs().items() if name != "added"}
    given["added"] = case.added and tuple(value.to("meta") for value in case.added)
    writer = Shapes()
    assert case.call(given, Context(plans, writer=writer), unet).shape == case.sample.shape
    _, recordings = case.record()
    assert writer.shapes == {key: tuple(value.shape) for key, value in recordings[0].items()}


class Shapes:
    def __init__(self):
        self.shapes = {}

    def rows(self, key, level, values, positions):
        del level
        self.shapes[key] = (positions.per_image, values.shape[1])

    def statistics(self, key, values):
        self.shapes[key] = tuple(values.shape[1:])
