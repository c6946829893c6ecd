"""What a pass keeps, put side by side on the device: each job's part of a plane leaves in one copy, not in sixty.

A captured pass writes into the same memory at every replay; what is sent is a copy, which leaves on a stream of its own
while the next step computes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from cache_store.layout import Layout
from service.engine.recording import SCALES, planes_of
from service.engine.rooms import Rooms
from service.engine.writing import Target, in_range
from sparse_ops import ops
from sparse_ops.plan import Plan
from sparse_ops.positions import Positions
from sparse_ops.quantise import Kind


class Staging:
    """A `sparse_ops.context.Writer` of all images of a pass."""

    def __init__(self, layout: Layout, kind: Kind | None, rooms: Rooms | None = None) -> None:
        """In `rooms` there is memory that others use, too, between one pass and the next."""
        self._rooms = rooms or Rooms()
        self._layout = layout
        self._places = planes_of(layout)
        self._kind = kind
        self._planes: dict[str, Tensor] = {}  # [rows of all images, padding included, width]

    def rows(self, key: str, level: int, values: Tensor, positions: Positions) -> None:  # noqa: ARG002  # all of them
        """Keeps fresh rows [N, C]; nothing of what has no place."""
        if key not in self._places:
            return
        plane, columns = self._places[key]
        if self._kind is None or SCALES + plane not in self._layout:
            self._put(plane, columns, values)
            return
        rows, scales = ops.quantise(values, self._kind)
        self._put(plane, columns, rows.view(torch.uint8))
        self._put(SCALES + plane, self._layout[SCALES + plane].columns[key], scales)

    def statistics(self, key: str, values: Tensor) -> None:
        """Keeps mean and variance [B, 2, G]."""
        plane, columns = self._places[key]
        self._put(plane, columns, values.flatten(1))

    def send(self, targets: Sequence[Target | None], num_images: Sequence[int], plans: Sequence[Plan]) -> None:
        """Each call's part to its draft; when its pass is enqueued."""
        kept = {
            plane: rows.clone()
            for plane, rows in self._planes.items()
            if any(target and target.keeps(plane) for target in targets)
        }
        with _beside(kept.values()):
            for plane, rows in kept.items():
                starts, begin = _starts(plane, plans, len(rows)), 0
                for target, count in zip(targets, num_images, strict=True):
                    if target and target.keeps(plane):
                        target.write(plane, None, rows[starts[begin] : starts[begin + count]])
                    begin += count

    def _put(self, plane: str, columns: slice, values: Tensor) -> None:
        if plane not in self._planes:
            lies = self._layout[plane]
            like = torch.empty(0, dtype=lies.dtype, device=values.device)
            self._planes[plane] = self._rooms.room(plane, len(values), lies.width, like)
        self._planes[plane][:, columns] = in_range(values, self._planes[plane].dtype)


def _starts(plane: str, plans: Sequence[Plan], num_rows: int) -> Sequence[int]:
    """Where each image's rows begin."""
    kind, _, level = plane.removeprefix(SCALES).partition(".")
    return range(num_rows + 1) if kind == "statistics" else plans[int(level or 0)].rows.offsets


@contextmanager
def _beside(leaving: Collection[Tensor]) -> Iterator[None]:
    """On a GPU what is done here with these tensors is on a stream of its own, after all that was enqueued so far."""
    device = next((rows.device for rows in leaving if rows.is_cuda), None)
    if device is None:
        yield
        return
    side = _outward(device)
    side.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.stream(side):
            yield
    finally:
        for rows in leaving:
            rows.record_stream(side)


@cache
def _outward(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
