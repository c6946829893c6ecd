"""A mask at each resolution, and the block size to round it out to (paper: "Adaptive Pixel-wise Sparse Convolution").

The paper's own formula is the gathered footprint N_b (b + k - 1)^2 of the N_b blocks that the mask touches. On rows,
multiplications count as well: small blocks minimise them, blocks of 3 to 8 minimise the bytes gathered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCKS = (1, 2, 3, 4, 6, 8)


@dataclass(frozen=True)
class BlockCost:
    """What one resolution costs on a device: seconds of a 3x3 convolution over N_b blocks."""

    channels: int
    macs_per_second: float
    bytes_per_second: float
    dense_advantage: float = 1.0  # how much faster a dense convolution does the same multiplications

    def seconds(self, num_blocks: int, block: int) -> float:
        """Multiplications of N_b b^2 rows, and 2-byte channels of the footprint N_b (b + 2)^2."""
        macs = num_blocks * block**2 * 9 * self.channels**2
        footprint_bytes = num_blocks * (block + 2) ** 2 * self.channels * 2
        return macs / self.macs_per_second + footprint_bytes / self.bytes_per_second

    def dense_seconds(self, num_positions: int) -> float:
        """The same for every position, each gathered once."""
        macs_seconds = num_positions * 9 * self.channels**2 / self.macs_per_second / self.dense_advantage
        return macs_seconds + num_positions * self.channels * 2 / self.bytes_per_second


def choose_blocks(
    edit_mask: Tensor,  # bool [1, H, W] or [B, H, W]
    costs: Sequence[BlockCost],  # of each resolution, highest first
) -> tuple[int | None, ...]:
    """The cheapest block size of each resolution, highest first; None where dense is cheaper.

    The lowest resolutions become dense first: one is dense only if all lower ones are.
    """
    blocks: list[int | None] = []
    may_be_dense = True
    for mask, cost in reversed(list(zip(pyramid(edit_mask, len(costs)), costs, strict=True))):
        seconds = {block: cost.seconds(int(touched_blocks(mask, block).sum()), block) for block in BLOCKS}
        best = min(BLOCKS, key=seconds.__getitem__)
        may_be_dense = may_be_dense and seconds[best] >= cost.dense_seconds(mask.numel())
        blocks.append(None if may_be_dense else best)
    return tuple(reversed(blocks))


def pyramid(mask: Tensor, num_levels: int) -> list[Tensor]:
    """The mask [B, H, W] at each resolution, highest first: max-pooled over 2 x 2 cells, the last ones partial."""
    masks = [mask]
    for _ in range(num_levels - 1):
        masks.append(touched_blocks(masks[-1], 2))
    return masks


def touched_blocks(mask: Tensor, block: int) -> Tensor:
    """Which b x b blocks the mask [B, H, W] touches: bool [B, ceil(H / b), ceil(W / b)]."""
    batch, height, width = mask.shape
    whole = F.pad(mask, (0, -width % block, 0, -height % block))
    return whole.view(batch, whole.shape[1] // block, block, whole.shape[2] // block, block).any(4).any(2)


def round_out(mask: Tensor, block: int | None) -> Tensor:
    """The mask [B, H, W] grown to whole b x b blocks; to everything for None."""
    if block is None:
        return torch.ones_like(mask)
    if block == 1:
        return mask
    blocks = touched_blocks(mask, block).repeat_interleave(block, 1).repeat_interleave(block, 2)
    return blocks[:, : mask.shape[1], : mask.shape[2]]
