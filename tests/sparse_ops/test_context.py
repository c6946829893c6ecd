"""What a pass is told: its checks, and who watches and controls cross-attention."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from sparse_ops.context import Context
from sparse_ops.plan import active_positions, dense_plans, make_plans

close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)  # as in test_unet_oracle.py


class Looking:
    """A watch that remembers what it saw."""

    def __init__(self, *levels):
        self.levels = levels
        self.seen = {}

    def __call__(self, key, level, maps):
        assert key not in self.seen
        self.seen[key] = (level, maps)


def first_word(key, level, positions, num_heads, num_tokens=7):
    """A control that brings maps which see the first token only."""
    del key, level
    maps = torch.zeros(len(positions), num_heads, num_tokens)
    maps[..., 0] = 1
    return maps, torch.ones(num_tokens)


def test_watching_changes_nothing(case, edit_mask):
    _, recordings = case.record()
    change, levels = case.edited(edit_mask), range(case.num_levels)
    watched = case.sparse(edit_mask, recordings, watch=Looking(*levels), **change)
    close(watched, case.sparse(edit_mask, recordings, **change))


def test_a_watch_sees_the_probabilities_of_all_rows_of_its_resolutions(case, edit_mask):
    _, recordings = case.record()
    looking = Looking(1, 2)
    case.sparse(edit_mask, recordings, watch=looking)
    plans = make_plans(active_positions(edit_mask, case.num_levels))
    crossing = [name for name, _ in case.ours.named_modules() if name.endswith("attn2")]
    assert looking.seen.keys() == {name for name in crossing if level_of(name, case.num_levels) in looking.levels}
    for level, maps in looking.seen.values():
        assert level in looking.levels
        assert maps.shape == (len(plans[level].rows), case.ours.cfg.num_heads[level], case.text.shape[1])
        close(maps.sum(2), torch.ones(maps.shape[:2]))


def level_of(name, num_levels):
    kind, number = name.split(".")[:2]
    return {"down_blocks": int, "up_blocks": lambda text: num_levels - 1 - int(text)}.get(
        kind, lambda _: num_levels - 1
    )(number)


def test_what_a_control_brings_is_used_for_its_image_only(build):
    case = build("sd2")
    mixed = case.dense(controls=[first_word, None])
    close(mixed[:1], case.dense(text=case.text[:, :1].expand_as(case.text))[:1])
    close(mixed[1:], case.dense()[1:])


def test_brought_maps_are_mixed_token_by_token(build):
    """Of the tokens whose share is 0 the image's own maps stay; and a watch sees what was mixed."""
    case, looking = build("sd2"), Looking(0, 1, 2, 3)

    def half(*asked):
        maps, _ = first_word(*asked)
        return maps, torch.tensor([1.0, 0, 0, 0, 0.25, 0, 0])

    alone = Looking(0, 1, 2, 3)
    ctx = Context(dense_plans(2, 24, 32, case.num_levels), controls=[None, half], watch=looking)
    case.call(case.inputs(), ctx)
    case.call(case.inputs(), Context(dense_plans(2, 24, 32, case.num_levels), watch=alone))
    key = next(iter(looking.seen))  # the first layer: what is asked is the same in both
    (level, maps), (_, own) = looking.seen[key], alone.seen[key]
    rows = dense_plans(2, 24, 32, case.num_levels)[level].rows.images()
    close(maps[rows[0]], own[rows[0]])
    close(maps[rows[1]][..., 0], torch.ones_like(maps[rows[1]][..., 0]))
    close(maps[rows[1]][..., [1, 2, 3, 5, 6]], own[rows[1]][..., [1, 2, 3, 5, 6]])
    close(maps[rows[1]][..., 4], own[rows[1]][..., 4] * 0.75)


def test_a_control_is_asked_for_its_rows_and_may_have_nothing(build, edit_mask):
    case, asked = build("sd2"), []
    _, recordings = case.record()

    def nothing(key, level, positions, num_heads):
        asked.append((key, level, positions, num_heads))

    change = case.edited(edit_mask)
    controlled = case.sparse(edit_mask, recordings, controls=[None, nothing], **change)
    close(controlled, case.sparse(edit_mask, recordings, **change))
    plans = make_plans(active_positions(edit_mask, case.num_levels))
    assert len({key for key, *_ in asked}) == len(asked) > 0
    for _, level, positions, num_heads in asked:
        assert torch.equal(positions, plans[level].rows.local(1))
        assert num_heads == case.ours.cfg.num_heads[level]


def test_a_control_of_an_image_without_rows_is_not_asked(build, edit_mask):
    case, asked = build("sd2"), []
    _, recordings = case.record()
    masks = edit_mask.clone()
    masks[0] = False
    case.sparse(masks, recordings, controls=[lambda *told: asked.append(told), None])
    assert asked == []


def test_controls_are_one_for_each_image():
    with pytest.raises(ValueError, match="controls must be empty or one for each of 2 images, got 1"):
        Context(dense_plans(2, 4, 4, 2), controls=[None])


def test_an_incomplete_image_needs_a_reader(edit_mask):
    with pytest.raises(ValueError, match="reader must be given where some image is not computed completely"):
        Context(make_plans(active_positions(edit_mask, 3)))
