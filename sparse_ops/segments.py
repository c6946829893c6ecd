"""Rows of several images, one image after another.

The host knows where each image begins, and so does the device: a CUDA graph must not bake a mask's counts in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Segments:
    """Where each image's rows begin. Rows behind the last image's end, if there are any, are padding."""

    offsets: tuple[int, ...]  # B + 1 host integers
    starts: Tensor  # int32 [B + 1], the same on the device

    @classmethod
    def of(cls, offsets: tuple[int, ...], device: torch.device | str = "cpu") -> Segments:
        """From the host's integers."""
        return cls(offsets, torch.tensor(offsets, dtype=torch.int32).to(device))

    @property
    def num_images(self) -> int:
        """B."""
        return len(self.starts) - 1

    def images(self) -> list[slice]:
        """The rows of each image."""
        return [slice(begin, end) for begin, end in pairwise(self.offsets)]

    def counts(self) -> list[int]:
        """How many rows each image has."""
        return [end - begin for begin, end in pairwise(self.offsets)]


@cache
def even(num_images: int, num_rows: int, device: torch.device) -> Segments:
    """Images of so many rows each; always the same object, so that a captured graph may hold it."""
    return Segments.of(tuple(range(0, num_images * num_rows + 1, num_rows)), device)


def runs(*segments: Segments) -> Iterator[tuple[slice, list[slice]]]:
    """Neighbouring images with equal counts in every one of `segments`: the images, and their rows in each.

    An image without rows of the first kind has nothing to compute and is left out.
    """
    counts = list(zip(*(each.counts() for each in segments), strict=True))
    begin = 0
    for end in range(1, len(counts) + 1):
        if end == len(counts) or counts[end] != counts[begin]:
            if counts[begin][0]:
                yield slice(begin, end), [slice(each.offsets[begin], each.offsets[end]) for each in segments]
            begin = end
