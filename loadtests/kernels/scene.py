"""A mask at the resolutions of a network, and random tensors of their shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_ops.plan import Plan, active_positions, make_plans
from sparse_ops.reference import Norm

NUM_LEVELS = 4
NUM_GROUPS = 32


@dataclass(frozen=True)
class Widths:
    """Stable Diffusion 2.1's, or a small network's of the same form."""

    channels: int = 320  # of the highest resolution
    head: int = 64
    num_groups: int = NUM_GROUPS
    num_tokens: int = 77


@dataclass(frozen=True, eq=False)
class Scene:
    """One mask, both guidance branches, on a device."""

    name: str
    plans: Sequence[Plan]
    widths: Widths
    dtype: torch.dtype
    device: torch.device
    generator: torch.Generator

    @classmethod
    def of(cls, name: str, mask: Tensor, widths: Widths, dtype: torch.dtype, device: torch.device) -> Scene:
        """Of a mask [H, W]; random numbers are the same for each."""
        plans = [plan.to(device) for plan in make_plans(active_positions(mask.expand(2, -1, -1), NUM_LEVELS))]
        return cls(name, plans, widths, dtype, device, torch.Generator(device).manual_seed(0))

    def random(self, *size: int, mean: float = 0.0, deviation: float = 1.0) -> Tensor:
        """Normal values of the scene's type on its device."""
        values = torch.empty(size, device=self.device).normal_(mean, deviation, generator=self.generator)
        return values.to(self.dtype)

    def weight(self, out_channels: int, in_channels: int) -> Tensor:
        """Of a 3x3 convolution of unit gain, [O, C, 3, 3] channels last."""
        weight = self.random(out_channels, in_channels, 3, 3, deviation=(9 * in_channels) ** -0.5)
        return weight.contiguous(memory_format=torch.channels_last)

    def norm(self, channels: int) -> Norm:
        """A group norm with statistics of its own for each image."""
        mean = self.random(2, self.widths.num_groups).float()
        variance = self.random(2, self.widths.num_groups).float().exp()
        weight, bias = self.random(channels, mean=1.0, deviation=0.1), self.random(channels, deviation=0.1)
        return Norm(torch.stack([mean, variance], 1), weight, bias, 1e-5)

    def where(self, level: int) -> str:
        """A resolution for people."""
        return f"{self.plans[level].height}x{self.plans[level].width}"
