"""Tables of 3x3 convolutions: which places each output reads.

A *place* is where a position lies in a list of rows; -1 is no row. All is integers on one device.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def dilate(mask: Tensor) -> Tensor:
    """By one position each way, diagonals included."""
    rows = mask.clone()
    rows[:, 1:] |= mask[:, :-1]
    rows[:, :-1] |= mask[:, 1:]
    wide = rows.clone()
    wide[:, :, 1:] |= rows[:, :, :-1]
    wide[:, :, :-1] |= rows[:, :, 1:]
    return wide


def upsample(places: Tensor, above: Tensor) -> Tensor:  # int32 [B, h, w] -> [B, H, W]
    """The place of the low row under each high position."""
    doubled = places.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return doubled[:, : above.shape[1], : above.shape[2]]


def table(outputs: Tensor, places: Tensor, stride: int = 1) -> Tensor:  # bool [B, h, w], int32 [B, H, W]
    """int32 [N, 9]: the places that a 3x3 convolution reads for each output, -1 outside the image."""
    padded = F.pad(places, (1, 1, 1, 1), value=-1)
    _, height, width = padded.shape
    image, y, x = outputs.nonzero(as_tuple=True)
    corner = (image * height + y * stride) * width + x * stride
    steps = torch.arange(3, device=places.device)
    window = (steps[:, None] * width + steps).flatten()
    return padded.flatten()[corner[:, None] + window]


def lookup(num_positions: int, index: Tensor) -> Tensor:
    """int32 [num_positions]: the place of each position in `index`, -1 where it is not."""
    places = torch.full((num_positions,), -1, dtype=torch.int32, device=index.device)
    places[index] = torch.arange(len(index), dtype=torch.int32, device=index.device)
    return places
