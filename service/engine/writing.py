"""How a step is kept: each image of a batch in its own step of its own draft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from cache_store.layout import Layout
from cache_store.store import Draft
from service.engine.recording import SCALES, Format, planes_of
from sparse_ops import ops
from sparse_ops.positions import Positions


@dataclass(eq=False)
class Target:
    """One step of a draft, as a writer wants it: of planes that are kept more rarely, it takes what is its to keep.

    What lies on a GPU is put side by side there first, and leaves it plane by plane: one copy instead of sixty, for
    which nobody waits.
    """

    draft: Draft
    step: int
    form: Format
    _staged: dict[str, Tensor] = field(default_factory=dict)

    def keeps(self, plane: str) -> bool:
        """Whether the draft has this plane, and of this step."""
        layout = self._layout
        return plane in layout and self.form.keeps(plane, self.step, layout["prediction"].num_steps)

    def keep(self, plane: str, key: str, rows: Tensor) -> None:
        """One tensor's rows, quantised where the plane has scales; nothing of a plane that it does not keep."""
        if not self.keeps(plane):
            return
        if self.form.kind is None or SCALES + plane not in self._layout:
            self._put(plane, key, rows)
            return
        values, scales = ops.quantise(rows, self.form.kind)
        self._put(plane, key, values.view(torch.uint8))
        self._put(SCALES + plane, key, scales)

    def flush(self) -> None:
        """Sends what was put side by side; to be called when the step is enqueued."""
        for plane, rows in self._staged.items():
            self.write(plane, None, rows)
        self._staged.clear()

    def write(self, plane: str, key: str | None, rows: Tensor) -> None:
        """Rows as they are kept, of one tensor or of all, to their place in the draft; of a plane that it `keeps`."""
        self.draft.write(self.form.place(plane, self.step), plane, key, rows)

    @property
    def _layout(self) -> Layout:
        return self.draft.activations.layout if self.draft.activations else {}

    def _put(self, plane: str, key: str, rows: Tensor) -> None:
        lies = self._layout[plane]
        rows = in_range(rows, lies.dtype)
        if not rows.is_cuda:
            self.write(plane, key, rows)
            return
        if plane not in self._staged:
            self._staged[plane] = rows.new_empty(len(rows), lies.width, dtype=lies.dtype)
        self._staged[plane][:, lies.columns[key]] = rows


def in_range(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers that a narrower type has: those beyond its largest become that, not infinite."""
    if values.dtype != torch.bfloat16 or dtype != torch.float16:
        return values
    most = torch.finfo(dtype).max
    return values.clamp(-most, most)


class BatchWriter:
    """Keeps what each image of a batch computes in its own step of its own draft, at once: on a CPU."""

    def __init__(self, targets: Sequence[Target | None], num_images: Sequence[int]) -> None:
        spans = pairwise(accumulate(num_images, initial=0))
        self._targets = [
            (target, span) for target, span in zip(targets, spans, strict=True) if target and target.draft.activations
        ]
        self._places = [planes_of(target.draft.activations.layout) for target, _ in self._targets]  # type: ignore[union-attr]  # they have some

    def rows(self, key: str, level: int, values: Tensor, positions: Positions) -> None:  # noqa: ARG002  # the key tells the level
        """Keeps fresh rows [N, C]."""
        for (target, (begin, end)), places in zip(self._targets, self._places, strict=True):
            if key not in places:
                continue
            part = values[positions.offsets[begin] : positions.offsets[end]]
            target.keep(places[key][0], key, part)

    def statistics(self, key: str, values: Tensor) -> None:
        """Keeps mean and variance [B, 2, G]."""
        for target, (begin, end) in self._targets:
            target.keep("statistics", key, values[begin:end].flatten(1))
