"""The rows of a slot out of a recording: by the host, or by a kernel that reads pinned memory and scales 8 bits back.

Both give the same rows [N, width], on the network's device; where a slot has room for others (-1), anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from cache_store.activations import Activations
from cache_store.layout import Layout
from cache_store.rows import Rows
from service.engine.reading import Slot, Source, listed
from service.engine.recording import SCALES, Format
from sparse_ops import cuda
from sparse_ops.launch import CHUNK, why_not
from sparse_ops.plan import Plan
from sparse_ops.quantise import BLOCK, VALUES

EXACT = ("statistics", "prediction")  # planes in float32, whatever the others are


class Gather(Protocol):
    """Gathers for the images of one job."""

    def __call__(self, source: Source, slot: Slot) -> Tensor:
        """Rows [N, width] of one slot and step."""


def gather_of(layout: Layout, activations: Activations, plans: Sequence[Plan], form: Format, like: Tensor) -> Gather:
    """The kernel's where it can be had; `like` has the network's dtype and device."""
    by_host = ByHost(layout, plans, like)
    if why_not(like.device) is None and activations.in_reach:
        return ByKernel(activations, plans, form, like, by_host)
    return by_host


class ByHost:
    """The recording's own `rows`, and a copy to the device."""

    def __init__(self, layout: Layout, plans: Sequence[Plan], like: Tensor) -> None:
        self._layout = layout
        self._plans = plans
        self._like = like
        self._listed: dict[Slot, Tensor] = {}

    def __call__(self, source: Source, slot: Slot) -> Tensor:
        """See `Gather`."""
        if slot not in self._listed:
            self._listed[slot] = listed(self._plans, slot).cpu().long()
        positions = self._listed[slot]
        present = positions >= 0
        rows = self._floats(source, slot, positions[present])
        if not bool(present.all()):
            rows = _spread(rows, present)
        return rows.to(self._like.device)

    def _floats(self, source: Source, slot: Slot, positions: Tensor) -> Tensor:
        dtype = torch.float32 if slot.plane == "statistics" else self._like.dtype
        if not len(positions):
            return torch.empty(0, self._layout[slot.plane].width_of(slot.key), dtype=dtype)
        return source.floats(slot.plane, positions, slot.key, dtype)


def _spread(rows: Tensor, present: Tensor) -> Tensor:
    """Rows at the places where `present` [N] is true, run by run: a copy by index is several times slower."""
    spread = rows.new_empty(len(present), rows.shape[1])
    edges = [0, *(present.diff().nonzero().squeeze(1) + 1).tolist(), len(present)]
    taken = 0
    for begin, end in pairwise(edges):
        if present[begin]:
            spread[begin:end] = rows[taken : taken + end - begin]
            taken += end - begin
    return spread


@dataclass(frozen=True, eq=False)
class _Share:
    """One owner's share of a slot."""

    owner: Rows
    slots: Tensor  # int32 [n], on the device: the owner's rows; -1 of room
    here: Tensor | None  # int64 [n], on the device: where they go; None: everywhere, in order
    num_rows: int  # without room


@dataclass(frozen=True, eq=False)
class _Planned:
    """What is the same at each step of a slot."""

    columns: slice
    is_quantised: bool
    shares: list[_Share]
    buffers: tuple[Tensor, Tensor]  # one is read while the other is written


class ByKernel:
    """One launch for each owner of rows: reads device memory and pinned host memory alike."""

    def __init__(
        self, activations: Activations, plans: Sequence[Plan], form: Format, like: Tensor, by_host: ByHost
    ) -> None:
        self._activations = activations
        self._layout = activations.layout
        self._plans = plans
        self._kind = form.kind
        self._like = like
        self._by_host = by_host  # for what the kernel does not serve
        self._planned: dict[Slot, _Planned | None] = {}

    def __call__(self, source: Source, slot: Slot) -> Tensor:
        """See `Gather`. The rows are overwritten by those of the kept step after the next."""
        if slot not in self._planned:
            self._planned[slot] = self._plan(slot) if self._serves(slot) else None
        planned = self._planned[slot]
        if planned is None:
            return self._by_host(source, slot)
        out = planned.buffers[source.place(slot.plane) % 2]
        for share in planned.shares:
            self._launch(source, slot.plane, planned, share, out)
        return out

    def _serves(self, slot: Slot) -> bool:
        """Whether columns are whole chunks, and blocks of a row blocks of its tensors."""
        plane = self._layout[slot.plane]
        columns = plane.columns.values() if slot.key is None else [plane.columns[slot.key]]
        unit = BLOCK if self._is_quantised(slot) else max(1, CHUNK * 2 // plane.dtype.itemsize)
        return all(part.start % unit == part.stop % unit == 0 for part in columns)

    def _is_quantised(self, slot: Slot) -> bool:
        return SCALES + slot.plane in self._layout and self._kind is not None

    def _plan(self, slot: Slot) -> _Planned:
        plane, device = self._layout[slot.plane], self._like.device
        positions = listed(self._plans, slot).cpu().long()
        shares = [
            _Share(
                share.owner, share.slots.int().to(device), None if share.here is None else share.here.to(device),
                int((share.slots >= 0).sum()),
            )
            for share in self._activations.shares(slot.plane, positions)
        ]  # fmt: skip
        size, dtype = (len(positions), plane.width_of(slot.key)), self._like.dtype
        dtype = plane.dtype if slot.plane in EXACT else dtype
        columns = slice(0, plane.width) if slot.key is None else plane.columns[slot.key]
        one, other = (torch.zeros(size, dtype=dtype, device=device) for _ in range(2))
        return _Planned(columns, self._is_quantised(slot), shares, (one, other))

    def _launch(self, source: Source, plane: str, planned: _Planned, share: _Share, out: Tensor) -> None:
        values, scales = share.owner.array(source.place(plane), plane), None
        if planned.is_quantised and self._kind:
            values = values.view(VALUES[self._kind])
            scales = share.owner.array(source.place(plane), SCALES + plane)
        width = out.shape[1]
        source.num_bytes += share.num_rows * width * values.element_size()
        source.num_bytes += 0 if scales is None else share.num_rows * (width // BLOCK) * 2
        kept_dtype = out.dtype if scales is not None else values.dtype
        if share.here is None and kept_dtype == out.dtype:
            cuda.gather_rows(values, share.slots, planned.columns, scales, out)
            return
        rows = out.new_empty(len(share.slots), width, dtype=kept_dtype)
        cuda.gather_rows(values, share.slots, planned.columns, scales, rows)
        if share.here is None:
            out.copy_(rows)
        else:
            out[share.here] = rows.to(out.dtype)
