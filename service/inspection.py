"""What a store holds, for people: a table of its recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cache_store.inspection import Description

COLUMNS = ("recording", "edit of", "depth", "hits", "core MB", "rows MB", "a step", "where")


def as_data(described: Sequence[Description]) -> list[dict[str, Any]]:
    """The same as plain data."""
    return [asdict(one) for one in described]


def table(described: Sequence[Description]) -> list[str]:
    """A line for each recording, and one for all of them."""
    rows = [COLUMNS, *(_row(one) for one in described)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    total = sum(sum(one.bytes_by_plane.values()) + one.core_bytes for one in described)
    return [*lines, f"{len(described)} recordings, {_megabytes(total)} MB"]


def _row(one: Description) -> tuple[str, ...]:
    steps = one.bytes_by_step
    return (
        one.id,
        one.parent_id or "-",
        str(one.depth),
        str(one.hits),
        _megabytes(one.core_bytes),
        _megabytes(sum(one.bytes_by_plane.values())),
        _megabytes(max(steps, default=0)),
        ", ".join(one.bytes_by_tier) or "core only",
    )


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f}"
