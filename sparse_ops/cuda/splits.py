"""Work of one tile by several blocks: where they leave their parts, and how the last one to arrive knows that it is."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from sparse_ops import launch

MOST_TILES = 1 << 16  # counters of arriving blocks
MOST_SPLITS = 16
BLOCKS_A_MULTIPROCESSOR = 2


def choose_splits(num_blocks: int, steps: int, steps_each: int, device: torch.device) -> int:
    """How many blocks share a tile: fill the device once, but leave so many steps to each.

    Measured on an H200, shape by shape (`python -m loadtests.kernels --sweep`): two blocks a multiprocessor are best.
    """
    free = BLOCKS_A_MULTIPROCESSOR * launch.num_multiprocessors(device) // max(1, num_blocks)
    return max(1, min(free, steps // steps_each, MOST_SPLITS))


def shared_work(
    num_tiles: int,
    part_values: int,  # float32 that one block leaves
    splits: int,
    device: torch.device,
) -> tuple[Tensor | None, Tensor | None]:
    """Room for the parts, and a counter for each tile; nothing for a single split."""
    if splits == 1:
        return None, None
    if num_tiles > MOST_TILES:
        raise ValueError(f"num_tiles must be at most {MOST_TILES} where work is split, is {num_tiles}")
    parts = torch.empty(num_tiles * splits * part_values, dtype=torch.float32, device=device)
    return parts, _counters(device, launch.current_stream(device))


@cache
def _counters(device: torch.device, stream: int) -> Tensor:
    """Zeros; kernels leave zeros behind. Each stream its own: two launches in flight must not share them.

    Graphs captured on one stream share them too, so two of those must not be replayed at the same time.
    """
    del stream
    return torch.zeros(MOST_TILES, dtype=torch.int32, device=device)
