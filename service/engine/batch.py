"""Calls that share one pass of the network: their images side by side, each with its own recording."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import torch
from torch import Tensor

from cache_store.layout import Layout
from service.engine.call import Active, Bucketed, Call, bucketed, plans_of
from service.engine.read_text import ReadText
from service.engine.reading import Slot, SlotReader, listed
from service.engine.recording import Format
from service.engine.writing import Target
from sparse_ops.context import Activation, Control
from sparse_ops.plan import Plan


@dataclass(frozen=True, eq=False)
class Batch:
    """One or more calls of equal shapes."""

    calls: Sequence[Call]

    @classmethod
    def of(cls, calls: Sequence[Call]) -> Batch:
        """ValueError where their shapes differ."""
        if len({call.shape_key for call in calls}) != 1:
            raise ValueError(f"calls of one pass must have equal shapes, got {[call.shape_key for call in calls]}")
        return cls(calls)

    @property
    def num_images(self) -> list[int]:
        """Of each call."""
        return [call.num_images for call in self.calls]

    @property
    def format(self) -> Format:
        """Of all recordings."""
        return self.calls[0].format

    @cached_property
    def sample(self) -> Tensor:
        """[B, C, H, W]."""
        return torch.cat([call.sample for call in self.calls])

    @cached_property
    def timestep(self) -> Tensor:
        """[B]."""
        return torch.cat([call.timestep for call in self.calls])

    @property
    def texts(self) -> list[ReadText]:
        """Of each call."""
        return [call.text for call in self.calls]

    @property
    def controls(self) -> tuple[Control | None, ...]:
        """One for each image; empty where there are none."""
        controls: list[Control | None] = []
        for call in self.calls:
            controls += [None] * (call.num_images - 1) + [call.control]
        return tuple(controls) if any(controls) else ()

    @property
    def watched(self) -> frozenset[int]:
        """Resolutions whose cross-attention some call keeps."""
        return frozenset(level for call in self.calls if call.keep_maps for level in call.keep_maps.levels)

    def keep_maps(self, key: str, level: int, maps: Tensor, plans: Sequence[Plan]) -> None:
        """Shows each call's conditional image, its last one, to who keeps its maps; of all rows [N, heads, T]."""
        rows, last = plans[level].rows, -1
        for call in self.calls:
            last += call.num_images
            part = rows.images()[last]
            if call.keep_maps and level in call.keep_maps.levels and part.start < part.stop:
                call.keep_maps(key, level, maps[part], rows.local(last))

    @property
    def deep(self) -> Activation | None:
        """What a shallow pass is given of all calls [N, C]; None where it is complete."""
        given = [call.deep.features for call in self.calls if call.active.shallow and call.deep and call.deep.features]
        return replace(given[0], values=torch.cat([each.values for each in given])) if given else None

    @property
    def keeps_deep(self) -> bool:
        """Whether a later step is to be given what this pass computes."""
        return any(call.deep and not call.active.shallow for call in self.calls)

    def keep_deep(self, features: Activation) -> None:
        """Gives each call that keeps them the features [N, C] of its own images."""
        num_rows = [call.num_rows for call in self.calls]
        own = features.values[: sum(num_rows)]  # behind them is padding
        for call, rows in zip(self.calls, torch.split(own, num_rows), strict=True):
            if call.deep:
                call.deep.features = replace(features, values=rows.clone())

    @property
    def plans(self) -> list[Plan]:
        """What is computed; the same object for the same company of jobs."""
        return plans_of(self._actives, self.sample.device)

    @property
    def bucketed(self) -> Bucketed:
        """The same for a captured pass."""
        return bucketed(self._actives, self.sample.device)

    @property
    def _actives(self) -> tuple[Active, ...]:
        return tuple(call.active for call in self.calls)

    def reader(self, plans: Sequence[Plan]) -> SlotReader | None:
        """Reads each image from the recording of its own call; None where no call has one."""
        source = next((call.source for call in self.calls if call.source), None)
        return SlotReader(plans, source.feed.places, cache(self.read)) if source else None

    def read(self, slot: Slot) -> Tensor:
        """The rows of all calls; where one reads nothing, room for as many as it has among the others'."""
        read = [call.source.read(slot) if call.source else None for call in self.calls]
        if len(read) == 1 and read[0] is not None:
            return read[0]
        like = next(rows for rows in read if rows is not None)
        parts = [_room(call, slot, like) if rows is None else rows for call, rows in zip(self.calls, read, strict=True)]
        return torch.cat(parts)

    def read_into(self, slot: Slot, room: Tensor) -> None:
        """The same into the first rows of `room`; where a call reads nothing, what is there stays."""
        begin = 0
        for call in self.calls:
            if call.source:
                rows = call.source.read(slot)
                room[begin : begin + len(rows)].copy_(rows)
                begin += len(rows)
            else:
                begin += _num_rows(call, slot, room.device)

    @cached_property
    def kept_in(self) -> Layout | None:
        """How what is kept of this pass lies; None where no call keeps any of it."""
        drafts = [call.target.draft for call in self.calls if call.target]
        return next((draft.activations.layout for draft in drafts if draft.activations), None)

    @property
    def targets(self) -> list[Target | None]:
        """Of each call."""
        return [call.target for call in self.calls]

    def hand_over(self) -> None:
        """When this pass is enqueued: cross-attention that was kept goes on its way, and what is read next comes."""
        for call in self.calls:
            if call.keep_maps:
                call.keep_maps.target.flush()
            if call.source:
                call.source.prefetch_next()


@dataclass(frozen=True, eq=False)
class Watching:
    """A `sparse_ops.context.Watch`."""

    levels: Collection[int]
    see: Callable[[str, int, Tensor], None]

    def __call__(self, key: str, level: int, maps: Tensor) -> None:
        """Passes on maps [N, heads, T] of all rows."""
        self.see(key, level, maps)


def _room(call: Call, slot: Slot, like: Tensor) -> Tensor:
    return like.new_zeros(_num_rows(call, slot, like.device), like.shape[1])


def _num_rows(call: Call, slot: Slot, device: torch.device) -> int:
    return len(listed(plans_of((call.active,), device), slot))
