"""Which latent positions an edit changes, and which it computes for that."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.engine import masks
from service.engine.prompts import Alignment
from service.engine.receipts import Tally
from service.engine.weights import Model
from service.jobs import EditRules
from sparse_ops.blocks import BlockCost, choose_blocks
from sparse_ops.plan import active_positions

Mask = NDArray[np.bool_]  # [h, w], latent positions

LEAST_DIFFERENCE = 1e-3  # of latents (of deviation 1): below it two drawings are one, up to rounding
BREAK_EVEN_RATIO = {"cpu": 0.85, "cuda": 0.45}  # of computed positions, above which dense steps are as quick
RATES = {"cpu": (7e10, 1e10), "cuda": (4e14, 4e12)}  # multiplications and bytes a second, for APSC's choice


def detected_mask(
    new: Tensor,  # [k + 1, 4, h, w] latents of the edited prompt's first steps, the noise included
    recorded: Tensor,  # the same of the source's prompt
    words: Tensor,  # [T, h, w] where the source's tokens looked
    alignment: Alignment,
    rules: EditRules,
) -> Mask:
    """Where the first steps of two prompts differ: the paper's rule, cleaned by ours unless the rules say not to."""
    fresh, old = new[1:], recorded[1:]
    if float((fresh - old).abs().max()) < LEAST_DIFFERENCE:
        return np.zeros(new.shape[2:], bool)
    difference = masks.difference_image(fresh, old)
    if not rules.clean:
        return masks.paper_mask(difference)
    return masks.edit_mask(difference, words, alignment.removed, masks.MaskRule(dilation=rules.dilation))


def choose_active(
    model: Model, edit_mask: Mask, rules: EditRules, num_branches: int, tally: Tally, *, readable: bool
) -> tuple[Tensor, ...]:
    """Positions computed at each resolution, bool [branches, H, W]: the mask with its margin, or all, and then why.

    All is dense: it changes the cost of an edit, never what it promises about the background.
    """
    wide = torch.from_numpy(masks.widen(edit_mask, rules.margin)).expand(num_branches, -1, -1)
    ratio = float(wide.float().mean())
    if not readable:
        tally.fall_back("denoise", "the source's activations were evicted or not asked for")
    elif ratio > BREAK_EVEN_RATIO[model.device.type]:
        tally.fall_back("denoise", f"{ratio:.0%} of the picture would be computed: dense is as quick")
    else:
        macs, num_bytes = RATES[model.device.type]
        costs = [BlockCost(channels, macs, num_bytes) for channels in model.unet.cfg.channels]
        sparse = model.num_levels - rules.num_dense_levels
        blocks = choose_blocks(wide[:1], costs)[:sparse] + (None,) * (model.num_levels - sparse)
        return tuple(
            level.expand(num_branches, -1, -1) for level in active_positions(wide[:1], model.num_levels, blocks)
        )
    return tuple(active_positions(torch.ones_like(wide), model.num_levels))
