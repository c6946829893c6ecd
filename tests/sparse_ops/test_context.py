"""What a pass is told: its checks, and control of cross-attention."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from sparse_ops.context import Context
from sparse_ops.plan import active_positions, dense_plans, make_plans

close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)  # as in test_unet_oracle.py


class Looking:
    """A control that changes nothing, and remembers what it saw."""

    def __init__(self):
        self.seen = {}

    def __call__(self, key, level, maps, positions):
        self.seen[key] = (level, maps, positions)
        return maps


def test_a_control_that_returns_its_maps_changes_nothing(case, edit_mask):
    _, recordings = case.record()
    change = case.edited(edit_mask)
    controlled = case.sparse(edit_mask, recordings, controls=[Looking(), None], **change)
    close(controlled, case.sparse(edit_mask, recordings, **change))


def test_a_control_sees_probabilities_of_its_own_image_at_its_rows(case, edit_mask):
    _, recordings = case.record()
    control = Looking()
    case.sparse(edit_mask, recordings, controls=[None, control])
    plans = make_plans(active_positions(edit_mask, case.num_levels))
    assert len(control.seen) == sum(name.endswith("attn2") for name, _ in case.ours.named_modules())
    for key, (level, maps, positions) in control.seen.items():
        assert key.endswith("attn2")
        assert torch.equal(positions, plans[level].rows.local(1))
        assert maps.shape == (case.ours.cfg.num_heads[level], len(positions), case.text.shape[1])
        close(maps.sum(2), torch.ones(maps.shape[:2]))


def test_the_answer_of_a_control_is_used_for_its_image_only(build):
    case = build("sd2")

    def first_word_only(key, level, maps, positions):
        del key, level, positions
        return torch.zeros_like(maps).index_fill(2, torch.tensor([0]), 1.0)

    first_word = case.text[:, :1].expand_as(case.text)
    mixed = case.dense(controls=[first_word_only, None])
    close(mixed[:1], case.dense(text=first_word)[:1])
    close(mixed[1:], case.dense()[1:])


def test_a_control_of_an_image_without_rows_is_not_asked(build, edit_mask):
    case = build("sd2")
    _, recordings = case.record()
    masks = edit_mask.clone()
    masks[0] = False
    control = Looking()
    case.sparse(masks, recordings, controls=[control, None])
    assert control.seen == {}


def test_controls_are_one_for_each_image():
    with pytest.raises(ValueError, match="controls must be empty or one for each of 2 images, got 1"):
        Context(dense_plans(2, 4, 4, 2), controls=[None])


def test_an_incomplete_image_needs_a_reader(edit_mask):
    with pytest.raises(ValueError, match="reader must be given where some image is not computed completely"):
        Context(make_plans(active_positions(edit_mask, 3)))
