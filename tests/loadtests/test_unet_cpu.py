"""The program that times the U-Net on a CPU, at tiny size: it computes what it says, and prints ratios."""

from __future__ import annotations

import torch

from loadtests import unet_cpu
from loadtests.inputs import both
from loadtests.shapes import synthetic_masks
from sparse_ops.context import Context
from sparse_ops.plan import active_positions, dense_plans, make_plans

TINY = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 12,
    "attention_head_dim": 2,
}  # fmt: skip


def test_each_mask_has_its_seconds_and_its_ratio():
    masks = synthetic_masks(16)
    result = unet_cpu.measure(masks, keep_inputs=False, config=TINY, size=16)
    assert set(result["ratios"]) == set(masks)
    assert set(result["seconds"]) == {*masks, "recording", "dense", "dense, diffusers"}
    assert torch.get_default_dtype() == torch.float32


@torch.no_grad()
def test_what_is_timed_is_the_recorded_prediction_where_nothing_changed():
    _, ours = both(TINY, torch.bfloat16, torch.device("cpu"), seed=0)
    kept, (mask, *_) = unet_cpu.Kept(), synthetic_masks(16).values()
    sample, timestep = torch.randn(2, 4, 16, 16, dtype=torch.bfloat16), torch.tensor([500, 500])
    text = ours.read(torch.randn(2, 7, 12, dtype=torch.bfloat16))
    dense = ours(sample, timestep, text, Context(dense_plans(2, 16, 16, 2), writer=kept, keep_inputs=False))
    plans = make_plans(active_positions(mask.expand(2, -1, -1), 2))
    sparse = ours(sample, timestep, text, Context(plans, unet_cpu.Reading(kept), keep_inputs=False))
    torch.testing.assert_close(sparse, dense, atol=0.05, rtol=0.05)  # bfloat16
    assert torch.equal(sparse.movedim(1, 3)[:, ~mask], dense.movedim(1, 3)[:, ~mask])
