"""Memory at fixed addresses that captured passes share.

They run one at a time, each on rows that were put there just before, and what one leaves is copied from there just
after: so all can have the same memory, about as much as the largest of them needs. (Memory that is outgrown stays with
the passes that were captured on it.) For Stable Diffusion 2.1 at 768x768 eight passes took 1.0 GiB instead of 2.4.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor


class Rooms:
    """Makes room, by its use: two uses never overlap."""

    def __init__(self) -> None:
        self._largest: dict[Hashable, Tensor] = {}
        self.num_bytes = 0  # of all that was made, that which was outgrown included: earlier passes are at home there

    def room(self, use: Hashable, num_rows: int, width: int, like: Tensor) -> Tensor:
        """Rows [num_rows, width] of the type of `like`, on its device. What is in them is whoever's."""
        num_bytes = num_rows * width * like.element_size()
        held = self._largest.get(use)
        if held is None or held.numel() < num_bytes:
            size = max(num_bytes, 2 * held.numel() if held is not None else 0)  # so that little is outgrown in all
            held = self._largest[use] = torch.zeros(size, dtype=torch.uint8, device=like.device)
            self.num_bytes += size
        return held[:num_bytes].view(like.dtype).view(num_rows, width)
