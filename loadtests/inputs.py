"""What a U-Net call is given, and the network twice: diffusers' and ours, of the same random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from loadtests.shapes import NUM_TOKENS
from service.engine.unet import UNet, UNetConfig


@dataclass(frozen=True, eq=False)
class Inputs:
    """Of both guidance branches."""

    sample: Tensor  # [2, C, H, W], channels last
    timestep: Tensor  # int64 [2]
    embeds: Tensor  # [2, T, context_channels]
    added: tuple[Tensor, Tensor] | None  # XL: pooled text [2, P], time ids [2, 6]

    @classmethod
    def random(cls, cfg: UNetConfig, size: int, dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
        """For latents [2, C, size, size]."""
        generator = torch.Generator(device).manual_seed(seed)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).to(dtype)

        added = None
        if cfg.added_channels and cfg.added_time_channels:
            time_ids = torch.tensor([[8.0 * size, 8 * size, 0, 0, 8 * size, 8 * size]] * 2, device=device)
            added = random(2, cfg.added_channels - 6 * cfg.added_time_channels), time_ids.to(dtype)
        return cls(
            random(2, cfg.in_channels, size, size).contiguous(memory_format=torch.channels_last),
            torch.tensor([500, 500], device=device),
            random(2, NUM_TOKENS, cfg.context_channels),
            added,
        )

    @property
    def added_conditions(self) -> dict[str, Tensor] | None:
        """As diffusers wants them."""
        return None if self.added is None else {"text_embeds": self.added[0], "time_ids": self.added[1]}


def both(
    config: Mapping[str, Any], dtype: torch.dtype, device: torch.device, seed: int
) -> tuple[UNet2DConditionModel, UNet]:
    """Diffusers' network and ours of one config, sharing random weights: time does not depend on what they are."""
    torch.manual_seed(seed)
    torch.set_default_dtype(dtype)
    try:
        with device:
            theirs = UNet2DConditionModel(**config).eval().requires_grad_(requires_grad=False)
    finally:
        torch.set_default_dtype(torch.float32)
    theirs.to(memory_format=torch.channels_last)
    with torch.device("meta"):
        ours = UNet(UNetConfig.from_diffusers(theirs.config)).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    return theirs, ours


def shared(theirs: UNet2DConditionModel) -> UNet2DConditionModel:
    """Another module of the same weights, for those who patch it."""
    with torch.device("meta"):
        copy = UNet2DConditionModel.from_config(theirs.config).eval().requires_grad_(requires_grad=False)
    copy.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    return copy
