"""A whole sparse pass of a U-Net on the kernels, each launched on the CPU."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel

from loadtests.unet_cpu import Kept, Reading
from service.engine.unet import UNet, UNetConfig
from sparse_ops import ops
from sparse_ops.context import Context
from sparse_ops.plan import active_positions, dense_plans, make_plans

SMALL = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (80, 80), "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 24,
    "attention_head_dim": 2,
}  # fmt: skip


@torch.no_grad()
def test_a_whole_sparse_pass_runs_on_the_kernels(bridge, monkeypatch):
    """The U-Net's operators, dispatched as on a GPU: fp16 kernels against fp32 torch."""
    monkeypatch.setattr(ops, "why_not", lambda _: None)
    torch.manual_seed(0)
    unet = UNet(UNetConfig.from_diffusers(UNet2DConditionModel(**SMALL).config)).eval()
    for name, parameter in unet.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
        elif "norm" not in name:
            parameter.normal_(0, 0.2)
    sample, timestep, text = torch.randn(2, 4, 8, 8), torch.tensor([300, 700]), torch.randn(2, 5, 24)
    edit_mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    edit_mask[:, 2:5, 3:6] = edit_mask[1, 7, 7] = True
    predictions = {}
    for dtype in (torch.float32, torch.float16):
        unet.to(dtype)
        kept = Kept()
        read = unet.read(text.to(dtype))
        unet(sample.to(dtype), timestep, read, Context(dense_plans(2, 8, 8, 2), writer=kept))
        changed = torch.where(edit_mask[:, None], -sample, sample).to(dtype)
        plans = make_plans(active_positions(edit_mask, 2))
        predictions[dtype] = unet(changed, timestep, read, Context(plans, Reading(kept))).float()
    torch.testing.assert_close(predictions[torch.float16], predictions[torch.float32], atol=0.02, rtol=0.02)
    files = {kernel.file for kernel, _ in bridge.launched}
    assert files == {"activate_rows.cu", "attention_rows.cu", "conv_rows.cu", "group_norm_statistics.cu"}
