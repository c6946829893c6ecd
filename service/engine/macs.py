"""Multiplications of one U-Net call, from its plans alone: for receipts, and for tables without weights.

Every weight is used once for each row that its operator computes, so a network is summed up, for each resolution, by
how many weights there are of each sort. Only attention multiplies rows with rows:

    conv        stride-1 convolutions, x rows here
    down, up    resampling convolutions, x rows where their output lies
    linear      projections and feed-forward, x rows
    recordable  keys and values of self-attention, x rows; also x attended rows where a recording holds their inputs
    time        embeddings of the timestep, x images
    attention   channels of each self- and cross-attention, x 2 x queries x keys

What depends on the texts alone (`UNet.read`) is made once for a prompt and belongs to no call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import nn

from service.engine.unet import Attention, Conv1x1, Conv3x3, UNet, UNetConfig
from sparse_ops.plan import Plan, dense_plans

Kind = Literal["conv", "linear", "attention"]


@dataclass(frozen=True)
class MacModel:
    """The sums of one network, and the latent size and text length at which it is dense."""

    weights: Sequence[Mapping[str, int]]  # of each sort, for each resolution, highest first
    height: int
    width: int
    num_tokens: int

    @classmethod
    def of(cls, cfg: UNetConfig, height: int, width: int, num_tokens: int) -> MacModel:
        """Sums up the network of a config; takes no memory for weights."""
        with torch.device("meta"):
            unet = UNet(cfg)
        weights = [Counter[str]() for _ in cfg.channels]
        for path, module in unet.named_modules():
            level = _level(path, len(cfg.channels))
            if isinstance(module, Conv1x1 | Conv3x3 | nn.Linear):
                weights[level][_sort(path, module)] += module.weight.numel()
            elif isinstance(module, Attention):
                weights[level]["attention"] += module.to_q.out_features if path.endswith("attn1") else 0
        return cls(weights, height, width, num_tokens)

    def dense(self, batch: int) -> int:
        """Multiplications of one dense call."""
        return batch * self._dense_image

    @cached_property
    def _dense_image(self) -> int:
        return self.count(dense_plans(1, self.height, self.width, len(self.weights)))

    def count(self, plans: Sequence[Plan], *, recorded_inputs: bool = False) -> int:
        """Multiplications of one call; `recorded_inputs`: what is attended is projected first.

        Of fewer plans than resolutions, the highest ones: what they receive from below is given, and costs nothing.
        """
        return sum(self.breakdown(plans, recorded_inputs=recorded_inputs).values())

    def breakdown(self, plans: Sequence[Plan], *, recorded_inputs: bool = False) -> dict[tuple[int, Kind], int]:
        """The same by (resolution, kind); a resampling convolution counts where its output lies."""
        counts: Counter[tuple[int, Kind]] = Counter()
        for level, (plan, of) in enumerate(zip(plans, self.weights, strict=False)):
            projected = len(plan.rows) + (len(plan.attended) if recorded_inputs else 0)
            counts[level, "conv"] += len(plan.rows) * of["conv"]
            counts[level, "linear"] += len(plan.rows) * of["linear"] + projected * of["recordable"]
            counts[level, "linear"] += plan.batch * of["time"]
            counts[level, "attention"] += 2 * of["attention"] * _products(plan, self.num_tokens)
            if level + 1 < len(plans):
                reached = len(plans[level + 1].rows) if plan.down is None else len(plan.down.neighbors)
                counts[level + 1, "conv"] += reached * of["down"]
            if level > 0:
                counts[level - 1, "conv"] += len(plans[level - 1].rows) * of["up"]
        return dict(counts)


def _products(plan: Plan, num_tokens: int) -> int:
    """Pairs of a query and a key, of rows or of the text."""
    images = zip(plan.rows.counts(), plan.keys.counts(), strict=True)
    return sum(num_rows * (num_keys + num_tokens) for num_rows, num_keys in images)


def _level(path: str, num_levels: int) -> int:
    """The resolution at which a module's input lies; embeddings count at the highest."""
    match path.split("."):
        case ["down_blocks", index, *_]:
            return int(index)
        case ["up_blocks", index, *_]:
            return num_levels - 1 - int(index)
        case ["mid_block", *_]:
            return num_levels - 1
    return 0


def _sort(path: str, module: nn.Module) -> str:
    if isinstance(module, Conv3x3):
        return "down" if "downsamplers" in path else "up" if "upsamplers" in path else "conv"
    if "time_emb" in path:
        return "time"
    if "add_embedding" in path or path.endswith(("attn2.to_k", "attn2.to_v")):
        return "text"
    if path.endswith(("to_k", "to_v")):
        return "recordable"
    return "linear"
