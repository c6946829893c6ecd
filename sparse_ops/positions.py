"""Positions of a batch of images, as the list of rows that they are; and how long such a list is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from sparse_ops.segments import Segments

List = Literal["rows", "rest", "attended", "halo", "keys", "reached", "fill"]
Capacity = Callable[[List, int, int], int]  # how long a list of a resolution is made, of so many: the rest is padding


def exact(what: List, level: int, count: int) -> int:  # noqa: ARG001  # whatever it is
    """No padding."""
    return count


@dataclass(frozen=True, eq=False)
class Positions(Segments):
    """Positions of a batch of images, in raster order. Each belongs to the image that it lies in."""

    index: Tensor  # int32 [N], flattened over the batch; of padding 0
    per_image: int  # H * W

    @classmethod
    def where(cls, selected: Tensor, length: Callable[[int], int] = int) -> Positions:  # bool [B, H, W]
        """The positions at which `selected` is true; `length` is how long a list of so many is made."""
        flat = selected.flatten(1)
        starts = F.pad(flat.sum(1).cumsum(0), (1, 0)).int()
        index = flat.flatten().nonzero().squeeze(1).int()
        longer = padded(index, length(len(index)), 0)
        return cls(tuple(starts.tolist()), starts, longer, flat.shape[1])

    def __len__(self) -> int:
        return len(self.index)

    @property
    def own(self) -> Tensor:
        """`index` without padding."""
        return self.index[: self.offsets[-1]]

    @cached_property
    def locals(self) -> list[Tensor]:
        """The positions of each image, counted from its own first one: int32 [N_b] each."""
        return [self.index[part] - image * self.per_image for image, part in enumerate(self.images())]

    def local(self, image: int) -> Tensor:
        """The positions of one image, counted from its own first one: int32 [N_b]."""
        return self.locals[image]


def check_room(count: int, length: int) -> None:
    """ValueError where a list would be cut off."""
    if count > length:
        raise ValueError(f"capacity must leave room for what there is: a list of {count} was given {length}")


def padded(rows: Tensor, length: int, value: int) -> Tensor:
    """So many rows of a list, those behind its end of this value. ValueError where it is longer."""
    check_room(len(rows), length)
    return F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, length - len(rows)), value=value)
