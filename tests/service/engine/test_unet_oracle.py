"""What "sparse" means, told independently: diffusers' own network, with recorded values forced upon it by hooks.

Whatever mixes positions (group norms, resampling convolutions, self-attention) sees recorded values outside of the
edit mask, and group norms use the recorded mean and variance unless the mask covers the whole image. Masked-only
attention is diffusers' own, with the other keys masked away. Nothing of ours is used.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from sparse_ops.plan import active_positions

# Predictions are of order 1 (std 0.6). Two orders of summation of the same float32 numbers, through some 60 layers,
# were seen to differ by 3e-6 at most.
close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)


class Oracle:
    """`record` a dense pass of `unet`, then `edit`."""

    def __init__(self, unet, *, attend_recorded=True):
        self.unet, self.attend_recorded = unet, attend_recorded
        self.inputs = {}
        self.modules = {
            name: module
            for name, module in unet.named_modules()
            if isinstance(module, nn.GroupNorm | Downsample2D | Upsample2D)
            or (isinstance(module, Attention) and name.endswith("attn1"))
        }

    def record(self, *args, **kwargs):
        """The dense prediction; remembers what the mixing modules saw."""

        def remember(name, _, inputs):
            self.inputs[name] = inputs[0].clone()

        handles = [module.register_forward_pre_hook(partial(remember, name)) for name, module in self.modules.items()]
        return self._run(handles, *args, **kwargs)

    def edit(self, active, *args, **kwargs):
        """The prediction when inactive positions of the given resolutions keep their recorded values."""
        masks = {tuple(mask.shape[1:]): mask[:, None] for mask in active}
        handles = []
        for name, module in self.modules.items():
            if isinstance(module, Attention) and not self.attend_recorded:
                restrict = partial(self._restrict, masks=masks)
                handles.append(module.register_forward_pre_hook(restrict, with_kwargs=True))
            else:
                handles.append(module.register_forward_pre_hook(partial(self._force, name, masks=masks)))
            if isinstance(module, nn.GroupNorm):
                handles.append(module.register_forward_hook(partial(self._norm, name, masks=masks)))
        return self._run(handles, *args, **kwargs)

    def _run(self, handles, *args, **kwargs):
        try:
            return self.unet(*args, **kwargs).sample
        finally:
            for handle in handles:
                handle.remove()

    def _force(self, name, _, inputs, masks):
        x, recorded = inputs[0], self.inputs[name]
        mask = _mask_for(x, masks)
        return inputs if mask is None else (torch.where(mask, x, recorded), *inputs[1:])

    def _restrict(self, _, args, kwargs, masks):
        mask = _mask_for(args[0], masks)
        return args, kwargs if mask is None else kwargs | {"attention_mask": _bias(mask)}

    def _norm(self, name, norm, inputs, _, masks):
        x = inputs[0]
        if tuple(x.shape[2:]) not in masks:
            return None
        complete = masks[tuple(x.shape[2:])].all(3, keepdim=True).all(2, keepdim=True)
        groups = torch.where(complete, x, self.inputs[name]).unflatten(1, (norm.num_groups, -1))
        variance, mean = torch.var_mean(groups, (2, 3, 4), correction=0, keepdim=True)
        normed = (x.unflatten(1, (norm.num_groups, -1)) - mean) / (variance + norm.eps).sqrt()
        return normed.flatten(1, 2) * norm.weight[:, None, None] + norm.bias[:, None, None]


def beneath(unet, seen, given=None):
    """Hooks the last up block: what it receives from below is seen, or another is given to it."""

    def hook(_, args, kwargs):
        seen.append(kwargs["hidden_states"])
        return args, kwargs if given is None else kwargs | {"hidden_states": given}

    return unet.up_blocks[-1].register_forward_pre_hook(hook, with_kwargs=True)


def _mask_for(x, masks):
    if x.ndim == 4:
        return masks.get(tuple(x.shape[2:]))
    mask = {height * width: mask for (height, width), mask in masks.items()}.get(x.shape[1])
    return None if mask is None else mask.flatten(2).transpose(1, 2)


def _bias(mask):  # bool [B, N, 1] -> [B, 1, N]: keys that are not active get no weight
    return torch.zeros(mask.shape).masked_fill(~mask, -1e9).transpose(1, 2)


def check(case, edit_mask, *, blocks=None, attend_recorded=True):
    active = active_positions(edit_mask, case.num_levels, blocks)
    change = case.edited(active[0])
    oracle = Oracle(case.theirs, attend_recorded=attend_recorded)
    case.reference(oracle.record)
    expected = case.reference(partial(oracle.edit, active), **change)
    _, recordings = case.record()
    ours = case.sparse(edit_mask, recordings, blocks=blocks, attend_recorded=attend_recorded, **change)
    inside = active[0][:, None].expand_as(ours)
    close(ours[inside], expected[inside])


@pytest.mark.parametrize("num_dense", [0, 1, 2])
def test_inside_the_mask_equals_diffusers_with_recorded_surroundings(case, edit_mask, num_dense):
    check(case, edit_mask, blocks=(1,) * (case.num_levels - num_dense) + (None,) * num_dense)


def test_masked_only_attention_equals_diffusers_attention_among_active_positions(case, edit_mask):
    check(case, edit_mask, attend_recorded=False)


@pytest.mark.parametrize("blocks", [(2, 3, 1, 2), (8, 4, 2, None), (3, 6, None, None)])
def test_blocks_only_round_the_mask_out(build, edit_mask, blocks):
    check(build("sd2"), edit_mask, blocks=blocks)


def test_odd_sizes_inside_the_mask_equal_diffusers_with_recorded_surroundings(build):
    edit_mask = torch.zeros(2, 21, 27, dtype=torch.bool)
    edit_mask[0, 13:21, 20:27] = edit_mask[1, 4:9, 3:6] = True
    check(build("sd2", height=21, width=27), edit_mask)


@pytest.mark.parametrize("attend_recorded", [True, False])
def test_a_shallow_pass_equals_diffusers_given_what_an_earlier_pass_made_below(case, edit_mask, attend_recorded):
    active = active_positions(edit_mask, case.num_levels)
    earlier, later = case.edited(active[0]), case.edited(active[0])
    oracle, seen, kept = Oracle(case.theirs, attend_recorded=attend_recorded), [], []
    case.reference(oracle.record)
    edit = partial(case.reference, partial(oracle.edit, active))
    with beneath(case.theirs, seen):
        edit(**earlier)
    with beneath(case.theirs, seen, given=seen[0]):
        expected = edit(**later)
    _, recordings = case.record()
    sparse = partial(case.sparse, edit_mask, recordings, attend_recorded=attend_recorded)
    complete = sparse(keep_deep=kept.append, **later)
    sparse(keep_deep=kept.append, **earlier)
    ours = sparse(deep=kept[1], **later)
    inside = active[0][:, None].expand_as(ours)
    close(ours[inside], expected[inside])
    assert not torch.allclose(ours[inside], complete[inside], atol=1e-2)
    assert torch.equal(sparse(deep=kept[0], **later), complete)
