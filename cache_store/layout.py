"""How the tensors of a recording lie: planes of rows, named columns side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch


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

    @property
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
