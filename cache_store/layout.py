"""How the tensors of a recording lie: planes of rows, named columns side by side; the planes of a step in a slab."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 128  # bytes: where an array begins in its slab, and a slab in its arena; a GPU's cache line


def aligned(num_bytes: int, unit: int = ALIGNMENT) -> int:
    """The next multiple of a unit."""
    return -(-num_bytes // unit) * unit


@dataclass(frozen=True)
class Plane:
    """One array [num_rows, width] a step. A row is a position, its columns are the tensors kept of it.

    All that is read at the same positions should share a plane: then a read is one gather of contiguous rows.
    """

    num_rows: int
    columns: Mapping[str, slice]
    dtype: torch.dtype
    num_steps: int  # steps 0 .. num_steps - 1 have this plane

    @classmethod
    def of(cls, num_rows: int, widths: Mapping[str, int], dtype: torch.dtype, num_steps: int) -> Plane:
        """Columns of the given widths side by side, in their order. ValueError where there is no row or no column."""
        if num_rows < 1:
            raise ValueError(f"num_rows must be at least 1, got {num_rows}")
        if num_steps < 0:
            raise ValueError(f"num_steps must not be negative, got {num_steps}")
        if not widths or min(widths.values()) < 1:
            raise ValueError(f"widths must name columns of at least 1, got {dict(widths)}")
        ends = accumulate(widths.values())
        columns = {name: slice(end - width, end) for (name, width), end in zip(widths.items(), ends, strict=True)}
        return cls(num_rows, columns, dtype, num_steps)

    @cached_property
    def width(self) -> int:
        """Columns of all names."""
        return int(max(part.stop for part in self.columns.values()))

    def width_of(self, column: str | None) -> int:
        """Columns of one name, or of all."""
        if column is None:
            return self.width
        part = self.columns[column]
        return int(part.stop - part.start)

    def num_bytes(self, num_rows: int | None = None) -> int:
        """Bytes of all steps, for all rows or for so many of them."""
        rows = self.num_rows if num_rows is None else num_rows
        return self.num_steps * rows * self.width * self.dtype.itemsize


Layout = Mapping[str, Plane]  # by the plane's name


class Slabs:
    """How the rows that are kept lie in bytes: a slab for each step, in it one array after another.

    They lie alike in every tier, so that moving a step is one copy.
    """

    def __init__(self, layout: Layout, num_kept: Mapping[str, int]) -> None:
        self.layout = layout
        self.num_kept = num_kept  # rows, by plane
        self._begins: dict[tuple[int, str], int] = {}
        sizes = []
        for step in range(max((plane.num_steps for plane in layout.values()), default=0)):
            end = 0
            for name, plane in layout.items():
                if step < plane.num_steps:
                    self._begins[step, name] = end
                    end += aligned(num_kept[name] * plane.width * plane.dtype.itemsize)
            sizes.append(end)
        self.sizes = tuple(sizes)  # bytes, by step

    @property
    def num_bytes(self) -> int:
        """Of all steps."""
        return sum(self.sizes)

    def array(self, slab: Tensor, step: int, plane: str) -> Tensor:  # uint8 [bytes of the step]
        """Rows [rows kept, width] of one step and plane: a view of its slab. KeyError where there are none."""
        begin = self._begins.get((step, plane))
        if begin is None:
            raise KeyError(f"no rows are kept of step {step}, plane {plane!r}")
        lies, num_rows = self.layout[plane], self.num_kept[plane]
        end = begin + num_rows * lies.width * lies.dtype.itemsize
        return slab[begin:end].view(lies.dtype).view(num_rows, lies.width)


def layout_as_json(layout: Layout) -> dict[str, Any]:
    """What `layout_of_json` reads."""
    return {
        name: {
            "num_rows": plane.num_rows,
            "widths": {column: plane.width_of(column) for column in plane.columns},
            "dtype": str(plane.dtype).removeprefix("torch."),
            "num_steps": plane.num_steps,
        }
        for name, plane in layout.items()
    }


def layout_of_json(told: Mapping[str, Any]) -> Layout:
    """The layout that was written so."""
    return {
        name: Plane.of(its["num_rows"], its["widths"], getattr(torch, its["dtype"]), its["num_steps"])
        for name, its in told.items()
    }
