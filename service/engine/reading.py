"""How a step reads recordings: each image of a batch from its own step of its own recording.

A step asks for few things, though it has hundreds of tensors: of each resolution the halo's rows, the rows that are
attended, and so on, each with all columns of a plane. A *slot* names one such gather; the network gets views of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from torch import Tensor

from cache_store.store import Recording
from service.engine.recording import SCALES, Format
from sparse_ops.plan import Plan
from sparse_ops.positions import Positions
from sparse_ops.quantise import BLOCK, VALUES, dequantise

Role = Literal["halo", "rest", "keys", "fill"]


@dataclass(frozen=True)
class Slot:
    """What one gather of a step brings."""

    plane: str
    level: int  # whose plan has the positions
    role: Role | None  # which of its positions; None: the statistics of each image
    key: str | None = None  # one tensor of the plane; None: all of them, side by side


class SlotReader:
    """A `sparse_ops.context.Reader` of slots: says which slot a tensor is part of, and gives the view."""

    def __init__(
        self,
        plans: Sequence[Plan],
        places: Mapping[str, tuple[str, slice]],  # of each key, `planes_of`
        read: Callable[[Slot], Tensor],  # the rows of a slot, the same ones each time
    ) -> None:
        self.places = places
        self._read = read
        self._roles: dict[int, tuple[int, Role]] = {}
        for level, plan in enumerate(plans):
            roles: dict[Role, object] = {"halo": plan.halo, "rest": plan.rest, "keys": plan.keys}
            if plan.down is not None:
                roles["fill"] = plan.down.fill
            self._roles |= {id(positions): (level, role) for role, positions in roles.items()}

    def rows(self, key: str, positions: Positions) -> Tensor:
        """Recorded rows [M, C] of one tensor."""
        plane, columns = self.places[key]
        level, role = self._roles[id(positions)]
        if role == "fill":  # read by a single convolution
            return self._read(Slot(plane, level, role, key))
        return self._read(Slot(plane, level, role))[:, columns]

    def keys(self, key: str, plan: Plan) -> Tensor:
        """Recorded rows [L, C] of self-attention in their places; see `Reader.keys`."""
        plane, columns = self.places[key]
        return self._read(Slot(plane, *self._roles[id(plan.keys)]))[:, columns]

    def statistics(self, key: str) -> Tensor:
        """Recorded mean and variance [B, 2, G] of one norm."""
        plane, columns = self.places[key]
        rows = self._read(Slot(plane, 0, None))[:, columns]
        return rows.view(len(rows), 2, -1)


def listed(plans: Sequence[Plan], slot: Slot) -> Tensor:
    """int32 [N]: the position of each row of a slot; -1 where there is room for others."""
    plan = plans[slot.level]
    match slot.role:
        case None:
            return torch.arange(plan.batch, dtype=torch.int32, device=plan.rows.index.device)
        case "fill":
            return plan.rows.index[:0] if plan.down is None else plan.down.fill.index
        case role:
            positions: Tensor = getattr(plan, role).index
            return positions


@dataclass(eq=False)
class Source:
    """One step of an open recording; counts what is read of it."""

    recording: Recording
    step: int
    form: Format  # of the recording
    num_bytes: int = 0

    def place(self, plane: str) -> int:
        """Where the rows of a plane that this step reads lie among those kept: see `Format.place`."""
        return self.form.place(plane, self.step)

    def rows(self, plane: str, positions: Tensor, key: str | None = None) -> Tensor:
        """Recorded rows [N, width]; see `Recording.rows`."""
        rows = self.recording.rows(self.place(plane), plane, positions, key)
        self.num_bytes += rows.numel() * rows.element_size()
        return rows

    def floats(self, plane: str, positions: Tensor, key: str | None, dtype: torch.dtype) -> Tensor:
        """The same as numbers: quantised rows are scaled back."""
        rows, kind = self.rows(plane, positions, key), self.form.kind
        layout = self.recording.activations.layout if self.recording.activations else {}
        if kind is None or SCALES + plane not in layout:
            return rows.to(dtype)
        scales = self.rows(SCALES + plane, positions, key)
        values = rows.view(VALUES[kind])
        widths = [layout[plane].width_of(one) for one in ([key] if key else layout[plane].columns)]
        if not any(width % BLOCK for width in widths[:-1]):  # blocks of the row are blocks of its tensors
            return dequantise(values, scales, dtype)
        of_values = torch.split(values, widths, 1)
        of_scales = torch.split(scales, [ceil(width / BLOCK) for width in widths], 1)
        parts = zip(of_values, of_scales, strict=True)
        return torch.cat([dequantise(part, its_scales, dtype) for part, its_scales in parts], 1)
