"""Passes without launches: CUDA graphs, one for all masks of a bucket.

A sparse step is some 700 launches for two milliseconds of work. A captured pass is one. Its shapes are a bucket's
(`sparse_ops/buckets.py`), and all that says *which* rows is data in buffers of its own:

    the first call of a bucket     runs once as it is, which compiles and chooses; then is captured
    each later one                 copies in its sample, timestep, text, rows that it reads, and, if the mask is
                                   another than the last time, the integers of its plans; replays; copies out

A pass is captured only where the device alone knows the counts: in any other the host's own would be baked in, and a
captured plan refuses to tell them. What cannot be captured runs launch by launch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from service.engine.batch import Batch, Watching
from service.engine.read_text import ReadText
from service.engine.reading import Slot, SlotReader, listed
from service.engine.rooms import Rooms
from service.engine.staging import Staging
from service.engine.unet import UNet
from sparse_ops.buckets import blind, unpack
from sparse_ops.context import Activation, Context
from sparse_ops.plan import Plan

log = logging.getLogger(__name__)


class Recorder(Protocol):
    """Records what is enqueued on a device."""

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        """Runs once as it is and once to record; what comes back enqueues the same again, on the same memory."""

    def num_bytes(self) -> int:
        """Memory of all that is recorded."""

    def forget(self) -> None:
        """Gives that memory back, when nobody holds what was recorded any more."""


class CudaRecorder:
    """CUDA graphs that share one pool of memory: they are replayed one after another, never at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        """See `Recorder`. The warm-up is on the same stream: what it makes once for a stream is there.

        Whatever happens, the caller's stream is the current one again, and waits for what was begun on the other.
        """
        callers = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(callers)
        try:
            with torch.cuda.stream(self._stream):
                run()
            torch.cuda.synchronize(self._device)
            graph = torch.cuda.CUDAGraph()
            # other threads copy meanwhile (the store's), which the stricter default mode forbids them
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                run()
        finally:
            torch.cuda.set_stream(callers)
            callers.wait_stream(self._stream)
        replay: Callable[[], None] = graph.replay
        return replay

    def num_bytes(self) -> int:
        """See `Recorder`: the segments of the pool; what torch has reserved in all shrinks while it captures."""
        segments = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]  # torch's
        return sum(segment["total_size"] for segment in segments if tuple(segment["segment_pool_id"]) == self._pool)

    def forget(self) -> None:
        """See `Recorder`: a pool lives as long as any graph of it, so all go together."""
        self._pool = torch.cuda.graph_pool_handle()


class Graphs:
    """Captured passes of one network. Past a budget of bytes all are forgotten: their memory is one pool."""

    def __init__(self, recorder: Recorder, budget_bytes: int) -> None:
        self._recorder = recorder
        self._budget_bytes = budget_bytes
        self._passes: dict[tuple[Any, ...], CapturedPass] = {}
        self._rooms = Rooms()
        self._refused: set[tuple[Any, ...]] = set()

    def __len__(self) -> int:
        return len(self._passes)

    @property
    def num_bytes(self) -> int:
        """What captured passes hold, their own buffers included."""
        own = sum(captured.num_bytes for captured in self._passes.values())
        return self._recorder.num_bytes() + self._rooms.num_bytes + own

    def predict(self, unet: UNet, batch: Batch) -> Tensor | None:  # [B, C, H, W]
        """By a captured pass, captured now if it is the first of its bucket; None where that cannot be."""
        if batch.controls:
            return None
        planned = batch.bucketed
        kept = batch.kept_in is not None, batch.watched, batch.keeps_deep
        key = (*batch.calls[0].shape_key, len(batch.sample), *kept, *planned.shapes)
        if key in self._refused or _is_mixed(planned.plans):
            return None
        try:
            captured = self._passes.get(key) or self._capture(key, unet, batch)
        except RuntimeError:  # an operator that needs the host, or no memory: the next call is not to try again
            log.warning("a pass of %d images runs launch by launch, not captured", len(batch.sample), exc_info=True)
            self._refused.add(key)
            return None
        return captured.predict(batch)

    def _capture(self, key: tuple[Any, ...], unet: UNet, batch: Batch) -> CapturedPass:
        if self.num_bytes > self._budget_bytes:
            self._passes.clear()
            self._rooms = Rooms()
            self._recorder.forget()
        self._passes[key] = captured = CapturedPass(unet, batch, self._recorder, self._rooms)
        return captured


def _is_mixed(plans: list[Plan]) -> bool:
    """Whether some image is computed completely where others are not: its norms are fresh, theirs are not."""
    return any(any(plan.complete) and not plan.dense for plan in plans)


class CapturedPass:
    """One bucket's pass, and the memory that it reads and writes."""

    def __init__(self, unet: UNet, batch: Batch, recorder: Recorder, rooms: Rooms) -> None:
        self._rooms = rooms
        self._planned = batch.bucketed  # whose integers are there
        self._packed = batch.bucketed.packed.clone()
        self._sample = batch.sample.clone()
        self._timestep = batch.timestep.clone()
        self._texts = batch.texts
        self._text = _copied(ReadText.joined(batch.texts))
        self._slots: dict[Slot, Tensor] = {}
        num_rows = len(self._planned.plans[0].rows)
        self._deep = batch.deep and replace(batch.deep, values=_roomy(batch.deep.values, num_rows))
        self._staging = None if batch.kept_in is None else Staging(batch.kept_in, batch.format.kind, rooms)
        self._seen = _Seen()
        self._noise = torch.empty(0)
        self._replay = recorder.record(self._pass_of(unet, batch))

    @property
    def num_bytes(self) -> int:
        """Of its own buffers; those of the graph are the recorder's, and rows lie in rooms that all share."""
        return sum(tensor.nbytes for tensor in (self._packed, self._sample, *_tensors(self._text)))

    def predict(self, batch: Batch) -> Tensor:
        """The prediction [B, C, H, W]; what is to be kept is sent."""
        self._take_in(batch)
        self._replay()
        plans = batch.bucketed.plans
        self._seen.show(batch, plans)
        if self._staging:
            self._staging.send(batch.targets, batch.num_images, plans)
        return self._noise.clone()  # the next replay overwrites it

    def _pass_of(self, unet: UNet, batch: Batch) -> Callable[[], None]:
        """The network on this pass's own memory; the slots are found when it runs for the first time."""
        known = self._planned.plans
        plans, live = blind(unpack(known, self._packed)), batch.reader(known)

        def read(slot: Slot) -> Tensor:
            if slot not in self._slots:
                rows = batch.read(slot)
                self._slots[slot] = self._rooms.room(slot, len(listed(known, slot)), rows.shape[1], rows)
                self._slots[slot][: len(rows)] = rows
            return self._slots[slot]

        reader = None if live is None else SlotReader(plans, live.places, read)
        context = Context(
            plans,
            reader,
            self._staging,
            watch=Watching(batch.watched, self._seen.maps),
            keep_inputs=batch.format.keep_inputs,
            deep=self._deep,
            keep_deep=self._seen.deep if batch.keeps_deep else None,
        )

        def run() -> None:
            self._noise = unet(self._sample, self._timestep, self._text, context)

        return run

    def _take_in(self, batch: Batch) -> None:
        self._sample.copy_(batch.sample)
        self._timestep.copy_(batch.timestep)
        if batch.texts != self._texts:
            for mine, others in zip(_tensors(self._text), _tensors(ReadText.joined(batch.texts)), strict=True):
                mine.copy_(others)
            self._texts = batch.texts
        if batch.bucketed is not self._planned:
            self._planned = batch.bucketed
            self._packed.copy_(self._planned.packed)
        for slot, room in self._slots.items():
            batch.read_into(slot, room)
        if self._deep and batch.deep:
            self._deep.values[: len(batch.deep.values)].copy_(batch.deep.values)


class _Seen:
    """What others are shown of a captured pass after each replay: cross-attention, and deep features."""

    def __init__(self) -> None:
        self._maps: dict[str, tuple[int, Tensor]] = {}
        self._deep: Activation | None = None

    def maps(self, key: str, level: int, maps: Tensor) -> None:
        """Keeps cross-attention [N, heads, T]."""
        self._maps[key] = level, maps.clone()

    def deep(self, features: Activation) -> None:
        """Keeps what the highest resolution receives from below [N, C]."""
        self._deep = replace(features, values=features.values.clone())

    def show(self, batch: Batch, plans: list[Plan]) -> None:
        """What the last replay left here."""
        for key, (level, maps) in self._maps.items():
            batch.keep_maps(key, level, maps, plans)
        if self._deep:
            batch.keep_deep(self._deep)


def _roomy(rows: Tensor, length: int) -> Tensor:
    """The rows, and zeros behind them."""
    room = rows.new_zeros(length, rows.shape[1])
    room[: len(rows)] = rows
    return room


def _copied(text: ReadText) -> ReadText:
    keys_values = {path: (keys.clone(), values.clone()) for path, (keys, values) in text.keys_values.items()}
    return ReadText(keys_values, None if text.embedding is None else text.embedding.clone())


def _tensors(text: ReadText) -> list[Tensor]:
    pairs = [tensor for pair in text.keys_values.values() for tensor in pair]
    return pairs if text.embedding is None else [*pairs, text.embedding]
