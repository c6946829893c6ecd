"""The published U-Nets' shapes, for measurements without weights, and the masks to measure with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from service.engine.unet import UNetConfig

_SD = UNetConfig(
    in_channels=4, out_channels=4, channels=(320, 640, 1280, 1280), num_layers=2, num_heads=(8,) * 4,
    num_transformer_layers=(1, 1, 1, 0), num_mid_transformer_layers=1, context_channels=768, num_groups=32, eps=1e-5,
    linear_projection=False, added_time_channels=None, added_channels=None,
)  # fmt: skip
SHAPES = {
    "sd1.5": _SD,
    "sd2.1": replace(_SD, num_heads=(5, 10, 20, 20), context_channels=1024, linear_projection=True),
    "sdxl": replace(
        _SD, channels=(320, 640, 1280), num_heads=(5, 10, 20), num_transformer_layers=(0, 2, 10),
        num_mid_transformer_layers=10, context_channels=2048, linear_projection=True, added_time_channels=256,
        added_channels=2816,
    ),
}  # fmt: skip
NUM_TOKENS = 77
_DIFFUSERS = {"use_linear_projection": True, "sample_size": 96}
CONFIGS: dict[str, dict[str, Any]] = {  # what diffusers' UNet2DConditionModel is made with, for the same shapes
    "sd2.1": _DIFFUSERS | {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20)},
    "sdxl": _DIFFUSERS | {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20), "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip


def load_masks(path: Path) -> dict[str, Tensor]:  # bool [H, W] or [N, H, W]
    """Edit masks of an .npz file: one by one under their names, or packed (`masks` and `shape`) under "mean"."""
    with np.load(path) as held:
        if "shape" not in held.files:
            return {name: torch.from_numpy(held[name].astype(bool)) for name in held.files}
        count, height, width = (int(n) for n in held["shape"])
        bits = np.unpackbits(held["masks"], axis=1)[:, : height * width]
        return {"mean": torch.from_numpy(bits.reshape(count, height, width).astype(bool))}


def synthetic_masks(size: int, seed: int = 0) -> dict[str, Tensor]:
    """Edit masks like the published ones of the 5, 15 and 30 % benchmark."""
    ratios = {"mask_05": 0.042, "mask_15": 0.155, "mask_30": 0.310}
    return {name: synthetic_mask(size, ratio, seed) for name, ratio in ratios.items()}


def synthetic_mask(size: int, ratio: float, seed: int = 0) -> Tensor:  # bool [size, size]
    """An edit mask in ragged patches, this part of all positions: a rough field, cut."""
    frequencies = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    noise = np.random.default_rng(seed).standard_normal((size, size))
    field = np.fft.ifft2(np.fft.fft2(noise) / (frequencies + 2 / size) ** 2.5).real
    return torch.from_numpy(field > np.quantile(field, 1 - ratio))


def sampled(
    masks: Tensor,  # bool [H, W] or [N, H, W]
    count: int,
    seed: int = 0,
) -> Tensor:  # bool [n, H, W], n <= count
    """So many of the masks, a seeded choice; masks of nothing are left out, there is nothing to compute."""
    stack = masks.view(-1, *masks.shape[-2:])
    stack = stack[stack.flatten(1).any(1)]
    return stack[torch.randperm(len(stack), generator=torch.Generator().manual_seed(seed))[:count]]


def resized(masks: Tensor, size: int) -> Tensor:  # bool [N, H, W] -> [N, size, size]
    """The same masks at another size: each position takes the nearest one's."""
    return F.interpolate(masks[:, None].float(), (size, size), mode="nearest")[:, 0].bool()


def widened(masks: Tensor, margin: int) -> Tensor:  # bool [N, H, W] -> [N, H, W]
    """Every position within so many of the mask, diagonals included."""
    return F.max_pool2d(masks[:, None].float(), 2 * margin + 1, 1, margin)[:, 0].bool()


def ratio_name(name: str) -> str:
    """What a mask of the benchmark is called by its ratio: "0.05" of mask_05; other masks keep their names."""
    number = name.removeprefix("mask_")
    return f"0.{number}" if number != name and number.isdigit() else name


def check_size(masks: dict[str, Tensor], size: int) -> None:
    """Raises ValueError for masks that are not of the latent's size."""
    for name, mask in masks.items():
        if tuple(mask.shape[-2:]) != (size, size):
            raise ValueError(f"mask {name!r} must be {size} x {size} as the latents are, got {list(mask.shape)}")
