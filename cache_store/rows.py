"""The rows that one recording computed: bytes of each step, in one tier or in several at once."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol
from weakref import WeakSet

import torch
from torch import Tensor

from cache_store.eviction import Uses
from cache_store.layout import Slabs

if TYPE_CHECKING:
    from cache_store.activations import Activations

Tier = Literal["device", "host", "disk"]
FASTEST_FIRST: tuple[Tier, ...] = ("device", "host", "disk")
_FOR_THE_HOST: tuple[Tier, ...] = ("host", "disk", "device")


class Copy(Protocol):
    """All rows in one tier."""

    @property
    def slabs(self) -> Sequence[Tensor]:
        """uint8 [bytes], by step."""

    @property
    def in_reach(self) -> bool:
        """Whether a GPU's kernels read them."""

    @property
    def num_bytes(self) -> int:
        """Of the tier, for all of them."""

    @property
    def is_checked(self) -> bool:
        """Whether it is known that they are as they were written."""

    def check(self) -> None:
        """DamagedError where they are not as they were written; quick where that is known."""


@dataclass(frozen=True, eq=False)
class InMemory:
    """A copy in an arena."""

    slabs: Sequence[Tensor]
    in_reach: bool = False
    is_checked = True

    @property
    def num_bytes(self) -> int:
        """Of the arena."""
        return sum(map(len, self.slabs))

    def check(self) -> None:
        """They are as they were written."""


class Rows:
    """Own rows of one recording. Written by one thread before they are committed, by none after it.

    Copies are added and dropped under the store's lock; each reader takes them as they are at one moment.
    """

    def __init__(self, lie: Slabs, name: str | None = None, seconds_saved: float = 1.0) -> None:
        """`name` is what they are called on disk; a new one where there is none yet. `seconds_saved`: by a hit."""
        self.lie = lie
        self.name = name or secrets.token_hex(10)
        self.copies: Mapping[Tier, Copy] = {}
        self.readers: WeakSet[Activations] = WeakSet()  # other recordings': while there are any, these must stay
        self.uses = Uses(1, 0.0)
        self.seconds_saved = seconds_saved
        self._in_flight: dict[int, torch.cuda.Event] = {}  # the last write of each stream

    @property
    def in_reach(self) -> bool:
        """Whether a GPU's kernels read them directly."""
        return any(copy.in_reach for copy in self.copies.values())

    @property
    def tier(self) -> Tier | None:
        """The fastest that has them."""
        return next((tier for tier in FASTEST_FIRST if tier in self.copies), None)

    def keep(self, tier: Tier, copy: Copy) -> None:
        """They are in this tier, too."""
        self.copies = {**self.copies, tier: copy}

    def drop(self, tier: Tier) -> None:
        """They are not in this tier any more."""
        self.copies = {one: copy for one, copy in self.copies.items() if one != tier}

    @property
    def is_checked(self) -> bool:
        """Whether it is known of their fastest copy that it is as it was written."""
        fastest = self._fastest
        return fastest is None or fastest.is_checked

    def check(self) -> None:
        """DamagedError where their fastest copy is not as it was written."""
        fastest = self._fastest
        if fastest is not None:
            fastest.check()

    def columns(self) -> Iterator[tuple[int, str, str]]:
        """Step, plane and column of all that must be written; nothing of planes of which no row is kept."""
        for name, plane in self.lie.layout.items():
            if self.lie.num_kept[name]:
                yield from ((step, name, column) for step in range(plane.num_steps) for column in plane.columns)

    def write(self, step: int, plane: str, column: str | None, rows: Tensor) -> None:
        """Keeps a copy of one column of one step, or of all, a row for each position kept, in their order.

        All columns of a GPU's rows go to page-locked memory without waiting: they are there after `settle`. KeyError
        for an unknown plane or column, ValueError for a step or a shape that is not the layout's.
        """
        lies = self.lie.layout.get(plane)
        if lies is None:
            raise KeyError(f"plane must be one of {sorted(self.lie.layout)}, got {plane!r}")
        part = slice(0, lies.width) if column is None else lies.columns.get(column)
        if part is None:
            raise KeyError(f"column must be one of plane {plane!r}, got {column!r}")
        if not 0 <= step < lies.num_steps:
            raise ValueError(f"step must be below {lies.num_steps} in plane {plane!r}, got {step}")
        if rows.shape != (shape := (self.lie.num_kept[plane], lies.width_of(column))):
            raise ValueError(f"rows of column {column!r} of {plane!r} must be {shape}, got {tuple(rows.shape)}")
        self.array(step, plane)[:, part].copy_(rows, non_blocking=column is None)
        if rows.is_cuda:
            stream = torch.cuda.current_stream(rows.device)
            self._in_flight[stream.cuda_stream] = stream.record_event()

    def settle(self) -> None:
        """Waits until everything written is there: before somebody reads it, or its memory is another's."""
        while self._in_flight:
            self._in_flight.popitem()[1].synchronize()

    def array(self, step: int, plane: str) -> Tensor:
        """Rows [rows kept, width] of one step and plane, as they lie in the fastest tier: not to be written to.

        KeyError where there are none.
        """
        return self._array(FASTEST_FIRST, step, plane)

    def gather(self, step: int, plane: str, slots: Tensor, column: str | None = None) -> Tensor:
        """Rows [N, width] in the host's memory, a copy, by their slot: int64 [N], where they lie among those kept."""
        array = self._array(_FOR_THE_HOST, step, plane)
        if column is not None:
            array = array[:, self.lie.layout[plane].columns[column]]
        return array.index_select(0, slots.to(array.device)).cpu()

    @property
    def _fastest(self) -> Copy | None:
        copies = self.copies
        return next((copies[tier] for tier in FASTEST_FIRST if tier in copies), None)

    def _array(self, tiers: Sequence[Tier], step: int, plane: str) -> Tensor:
        copies = self.copies
        copy = next((copies[tier] for tier in tiers if tier in copies), None)
        if copy is None or step not in range(len(copy.slabs)):
            raise KeyError(f"no rows are kept of step {step}, plane {plane!r}")
        return self.lie.array(copy.slabs[step], step, plane)
