"""What the steps of one job read of a recording, gathered a step ahead where there is a stream for it.

    step 3 is asked for, and computes     what it reads was gathered while step 2 computed
    step 4 is gathered meanwhile          into the buffers that step 2 has read
    step 4 is asked for ...               its stream waits for that gather; the host never waits

So copies over the bus and the steps' own work are side by side. Where only each n-th step keeps a plane, the rows of
the step before stay where they are: they are moved once for n steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from cache_store.store import Recording
from service.engine.gather import ByKernel, gather_of
from service.engine.reading import Slot, Source
from service.engine.recording import Format, planes_of
from service.engine.waits import Waits
from sparse_ops.plan import Plan


@dataclass(eq=False)
class Reads:
    """One step of one job: the rows of each slot, gathered once."""

    feed: Feed
    source: Source
    gathered: dict[Slot, Tensor] = field(default_factory=dict)
    asked: list[Slot] = field(default_factory=list)  # so far
    ready: torch.cuda.Event | None = None  # of what was gathered ahead

    @property
    def num_bytes(self) -> int:
        """Read of the recording so far."""
        return self.source.num_bytes

    def read(self, slot: Slot) -> Tensor:
        """Rows [N, width] of the job's own images, on its device."""
        if self.ready is not None or slot not in self.gathered:
            with self.feed.timed():
                self._wait(slot)
        self.asked.append(slot)
        return self.gathered[slot]

    def _wait(self, slot: Slot) -> None:
        if self.ready is not None:
            self.ready.wait()
            self.ready = None
        if slot not in self.gathered:
            self.gathered[slot] = self.feed.rows(self.source, slot)

    def prefetch_next(self) -> None:
        """Begins to gather what the next step will ask for; to be called when this one is enqueued."""
        self.feed.prefetch(self)


class Feed:
    """Gives each step of a job its `Reads`."""

    def __init__(
        self,
        recording: Recording,
        plans: Sequence[Plan],  # of the job's own images
        form: Format,
        like: Tensor,  # its dtype and device are the network's
        num_steps: int,
        period: int = 1,  # steps so many apart ask for the same
        waits: Waits | None = None,  # of the job, which the steps add to
    ) -> None:
        if recording.activations is None:
            raise ValueError(f"the recording {recording.id!r} has no activations to read from")
        layout = recording.activations.layout
        self.places = planes_of(layout)
        self.gather = gather_of(layout, recording.activations, plans, form, like)
        self._held: dict[Slot, tuple[int, Tensor]] = {}  # of planes kept more rarely: the place of the rows, and they
        self._form = form
        self._recording = recording
        self._num_steps = num_steps
        self._period = period
        self.timed = partial((waits or Waits()).timed, like.device)
        self._asked: dict[int, list[Slot]] = {}  # by the place of a step in its period
        self._side = None
        if isinstance(self.gather, ByKernel) and like.is_cuda:
            self._side = torch.cuda.Stream(like.device)  # type: ignore[no-untyped-call]  # torch's
        self._last_enqueued: torch.cuda.Event | None = None
        self._ahead: Reads | None = None

    def step(self, step: int) -> Reads:
        """What one step reads; that which was gathered ahead, if it is that step."""
        ahead, self._ahead = self._ahead, None
        return ahead if ahead and ahead.source.step == step else self._reads(step)

    def rows(self, source: Source, slot: Slot) -> Tensor:
        """Rows [N, width] of a slot: those that are here from the step before, if they are this one's, too.

        The network writes fresh rows among those that it attends to: of one job always the same ones.
        """
        if self._form.every(slot.plane) == 1:
            return self.gather(source, slot)
        place = source.place(slot.plane)
        at, rows = self._held.get(slot, (None, None))
        if rows is None or at != place:
            rows = self.gather(source, slot)
            self._held[slot] = place, rows
        return rows

    def prefetch(self, reads: Reads) -> None:
        """On the side stream, into the buffers of the step before this one: after that step, beside this one."""
        step, before = reads.source.step + 1, self._last_enqueued
        self._asked[reads.source.step % self._period] = reads.asked
        if self._side is None or step >= self._num_steps:
            return
        self._last_enqueued = torch.cuda.current_stream(self._side.device).record_event()
        if before is not None:
            self._side.wait_event(before)
        ahead = self._reads(step)
        with torch.cuda.stream(self._side):
            slots = dict.fromkeys(self._asked.get(step % self._period, ()))
            ahead.gathered = {slot: self.rows(ahead.source, slot) for slot in slots}
            for rows in ahead.gathered.values():  # a job that is cancelled must not free what is being written
                rows.record_stream(self._side)
        ahead.ready = self._side.record_event()
        self._ahead = ahead

    def _reads(self, step: int) -> Reads:
        return Reads(self, Source(self._recording, step, self._form))
