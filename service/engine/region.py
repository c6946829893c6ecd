"""Which latent positions an edit changes, and which it computes for that.

On a GPU the mask is found where the latents are (`sparse_ops/edit_mask.py`), and is all that comes to the host of them:
bool [H, W], which the host needs to draw and to choose what is computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from service.engine import masks
from service.engine.masks import Mask, MaskRule
from service.engine.prompts import Alignment
from service.engine.rates import RATES
from service.engine.receipts import Tally
from service.engine.weights import Model
from service.jobs import EditRules
from sparse_ops import edit_mask as device_masks
from sparse_ops.blocks import BlockCost, choose_blocks
from sparse_ops.plan import active_positions

LEAST_DIFFERENCE = {  # of latents (of deviation 1): below it two drawings are one, up to rounding
    torch.float32: 1e-3,
    torch.float16: 0.05,
    torch.bfloat16: 0.15,
}
BREAK_EVEN_RATIO = {"cpu": 0.85, "cuda": 0.45}  # of computed positions, above which dense steps are as quick


def detected_mask(
    new: Tensor,  # [k + 1, 4, h, w] latents of the edited prompt's first steps, the noise included
    recorded: Tensor,  # the same of the source's prompt
    words: Tensor,  # [T, h, w] where the source's tokens looked
    alignment: Alignment,
    rules: EditRules,
    dtype: torch.dtype,  # that the network computes in
) -> Mask:
    """Where the first steps of two prompts differ: the paper's rule, cleaned by ours unless the rules say not to."""
    fresh, old, least = new[1:], recorded[1:], LEAST_DIFFERENCE[dtype]
    rule = MaskRule(dilation=rules.dilation)
    if device_masks.serves(fresh):
        there = device_masks.difference_image(fresh[None], old[None], least)
        if not rules.clean:
            return _on_host(device_masks.paper_mask(there))
        drawn = masks.removed_region(words, alignment.removed, (fresh.shape[2], fresh.shape[3]))
        removed = torch.from_numpy(drawn).to(there.device, non_blocking=True) & (there > 0).any()
        return _cleaned(device_masks.grown_mask(there, rule.weak_ratio) | removed, rule)
    difference = masks.difference_image(fresh, old, least)
    return masks.edit_mask(difference, words, alignment.removed, rule) if rules.clean else masks.paper_mask(difference)


def probed_mask(
    new: Tensor,  # [S, 4, h, w]
    old: Tensor,  # [S, 4, h, w]
    rules: EditRules,
    dtype: torch.dtype,  # that the network computes in
) -> Mask:
    """Where the words change what recorded latents are predicted to become."""
    rule, least = MaskRule(dilation=rules.dilation), LEAST_DIFFERENCE[dtype]
    if device_masks.serves(new):
        mask = device_masks.probe_mask(new[None], old[None], rule.probe_ratio, least)
        return _cleaned(mask, rule) if rules.clean else _on_host(mask)
    return masks.probe_mask(new, old, rule, cleaned=rules.clean, least_difference=least)


def choose_active(
    model: Model, edit_mask: Mask, rules: EditRules, num_branches: int, tally: Tally, *, unreadable: str | None = None
) -> tuple[Tensor, ...]:
    """Positions computed at each resolution, bool [branches, H, W]: the mask with its margin, or all, and then why.

    All where `unreadable` says why nothing is to be read of the source, and where it is as quick: that changes the cost
    of an edit, never what it promises about the background.
    """
    wide = torch.from_numpy(masks.widen(edit_mask, rules.margin))[None]
    ratio, blocks = float(wide.float().mean()), _blocks(model, wide, rules.num_dense_levels)
    active = active_positions(wide, model.num_levels, blocks)
    if unreadable is not None:
        tally.fall_back("denoise", unreadable)
    elif ratio > BREAK_EVEN_RATIO[model.device.type] or all(bool(level.all()) for level in active):
        tally.fall_back("denoise", f"{ratio:.0%} of the picture would be computed: dense is as quick")
    else:
        return tuple(level.expand(num_branches, -1, -1) for level in active)
    everything = active_positions(torch.ones_like(wide), model.num_levels)
    return tuple(level.expand(num_branches, -1, -1) for level in everything)


def _blocks(model: Model, wide: Tensor, num_dense_levels: int) -> tuple[int | None, ...]:
    """APSC's choice; the lowest resolutions dense where the rules say so."""
    macs, num_bytes = RATES[model.device.type]
    costs = [BlockCost(channels, macs, num_bytes) for channels in model.unet.cfg.channels]
    num_sparse = model.num_levels - num_dense_levels
    return choose_blocks(wide, costs)[:num_sparse] + (None,) * (model.num_levels - num_sparse)


def _cleaned(mask: Tensor, rule: MaskRule) -> Mask:  # bool [1, H, W] on a device
    return _on_host(device_masks.clean(mask, rule.least(mask.numel()), rule.dilation))


def _on_host(mask: Tensor) -> Mask:  # bool [1, H, W] on a device
    """The one copy, and the one wait, of a detection on a device."""
    return mask[0].cpu().numpy()
