"""Plans of many masks with the same shapes, so that one captured CUDA graph serves them all.

A bucket is two numbers, from which the lengths of all lists follow: the rows of the highest resolution, in rungs a
quarter apart, and how ragged the mask is, in rungs of a half. Its edge is as long as so many times the root of its
rows, and the lower the resolution, the more of what is computed and read there is edge. So the published masks are some
twenty shapes; had each list a bucket of its own, there would be nearly as many as masks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import Tensor

from sparse_ops.plan import Plan
from sparse_ops.positions import List
from sparse_ops.segments import Segments
from sparse_ops.tree import each

LEAST_ROWS = 64  # the smallest tile of a convolution
ROW_RUNG, EDGE_RUNG = 1.25, 1.5
ROW_EDGES = (0.0, 7.0, 20.0, 42.0)  # of a mask that is not ragged: rows of each resolution beyond its share, in roots
HALO_EDGES = (25.0, 11.0, 4.5, 1.3)


@dataclass(frozen=True)
class Bucket:
    """How long each list of a batch's plans is: a `sparse_ops.plan.Capacity`."""

    num_rows: int  # of the highest resolution
    raggedness: float
    num_images: int
    sizes: tuple[int, ...]  # positions of each resolution, all images

    def __call__(self, what: List, level: int, count: int) -> int:
        """The length of a list of so many; nothing stays nothing."""
        below = min(level + 1, len(self.sizes) - 1)
        own = self._rows(level)
        lengths: dict[List, int] = {
            "rows": own,
            "halo": self._length(_at(HALO_EDGES, level) * self._edge, level),
            "reached": self._rows(below),
            "fill": self.sizes[below],
            "keys": own if count <= own else self.sizes[level],  # rows that see each other only, or all
        }
        return lengths.get(what, self.sizes[level]) if count else 0

    @property
    def _edge(self) -> float:
        """Roots of the rows of each image, summed, as often as the mask is ragged."""
        return self.raggedness * math.sqrt(self.num_rows * self.num_images)

    def _rows(self, level: int) -> int:
        return self._length((self.num_rows + _at(ROW_EDGES, level) * self._edge) / 4**level, level)

    def _length(self, length: float, level: int) -> int:
        return min(self.sizes[level], _whole(length))


def _at(factors: Sequence[float], level: int) -> float:
    return factors[min(level, len(factors) - 1)]


def bucket_of(plans: Sequence[Plan]) -> Bucket:
    """The smallest bucket into which plans without padding fit."""
    sizes = tuple(plan.rows.num_images * plan.rows.per_image for plan in plans)
    bucket = Bucket(LEAST_ROWS, 1.0, plans[0].rows.num_images, sizes)
    while bucket("rows", 0, 1) < len(plans[0].rows):
        bucket = replace(bucket, num_rows=_whole(bucket.num_rows * ROW_RUNG))
    while not all(_fits(bucket, plan, level) for level, plan in enumerate(plans)):
        bucket = replace(bucket, raggedness=bucket.raggedness * EDGE_RUNG)  # at last lists may hold all positions
    return bucket


def _fits(bucket: Bucket, plan: Plan, level: int) -> bool:
    if plan.dense:
        return True
    counts: dict[List, int] = {"rows": len(plan.rows), "halo": len(plan.halo)}
    if plan.down is not None:
        counts["reached"] = len(plan.down.neighbors)
    return all(count <= bucket(what, level, count) for what, count in counts.items())


def _whole(length: float) -> int:
    """Rounded up to a multiple of `LEAST_ROWS`."""
    return -int(-length // LEAST_ROWS) * LEAST_ROWS


class _Unknown(tuple[int, ...]):
    """Counts that a captured pass must not know: they would be those of the mask that it was captured with."""

    __slots__ = ()

    def _refuse(self, *_: object) -> NoReturn:
        raise RuntimeError("a captured pass asked the host for the counts of one mask")

    __iter__ = __getitem__ = __len__ = _refuse


def shapes_of(plans: list[Plan]) -> tuple[Any, ...]:
    """What plans must have in common to share a captured pass."""
    complete = tuple((plan.dense, plan.complete) for plan in plans)
    return (*complete, *(tuple(tensor.shape) for tensor in _tensors(plans)))


def pack(plans: list[Plan]) -> Tensor:
    """All integers of the plans, int32, one after another."""
    return torch.cat([tensor.flatten() for tensor in _tensors(plans)])


def unpack(plans: list[Plan], packed: Tensor) -> list[Plan]:
    """The same plans on what `pack` made of them, or of others of the same shapes."""
    parts = iter(torch.split(packed, [tensor.numel() for tensor in _tensors(plans)]))
    return each(plans, Tensor, lambda tensor: next(parts).view(tensor.shape))


def blind(plans: list[Plan]) -> list[Plan]:
    """The same plans, whose host does not know the counts."""
    return each(plans, Segments, lambda segments: replace(segments, offsets=_Unknown()))


def _tensors(plans: list[Plan]) -> Iterator[Tensor]:
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    each(plans, Tensor, note)
    yield from found
