"""Our U-Net's calls on a recording of some steps: dense, or sparse with rows from the device or from the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cache_store.activations import Activations
from cache_store.rows import InMemory, Rows
from cache_store.store import Recording, Store
from loadtests.contest import LeftOutError, TimedWait
from loadtests.inputs import Inputs
from service.engine.batch import Batch
from service.engine.call import Active, Call, plans_of
from service.engine.feed import Feed, Reads
from service.engine.graphs import Graphs
from service.engine.predict import predict
from service.engine.read_text import ReadText
from service.engine.recording import Format, columns_of, layout_of
from service.engine.unet import UNet
from service.engine.writing import Target
from sparse_ops.plan import active_positions

RECORDING = "timed"


class CapturedOnly(Graphs):
    """Captured passes, and no others in their place."""

    def predict(self, unet: UNet, batch: Batch) -> Tensor:
        """See `Graphs.predict`; LeftOutError where a pass would run launch by launch."""
        noise = super().predict(unet, batch)
        if noise is None:
            raise LeftOutError("a pass was not captured; the log says why")
        return noise


def resident(activations: Activations, device: torch.device) -> Activations:
    """One step of a recording in device memory, given for every step."""
    lie = activations.own.lie
    rows, slab = Rows(lie), activations.own.copies["host"].slabs[0].to(device)
    rows.keep("device", InMemory([slab] * len(lie.sizes), in_reach=True))
    return Activations(rows, {}, (), 0)


@dataclass(frozen=True, eq=False)
class _OnDevice:
    """Stands for a recording."""

    id: str
    activations: Activations

    def rows(self, step: int, plane: str, positions: Tensor, column: str | None = None) -> Tensor:
        """See `Recording.rows`."""
        return self.activations.rows(step, plane, positions, column)


@dataclass(frozen=True, eq=False)
class Passes:
    """One network, what it is given, and its recording."""

    unet: UNet
    inputs: Inputs
    text: ReadText
    form: Format
    num_steps: int
    on_host: Recording
    on_device: Any  # the same interface
    noise: Tensor  # the recorded prediction [2, C, H, W], float32

    @classmethod
    def recorded(cls, unet: UNet, inputs: Inputs, num_steps: int) -> Passes:
        """Runs it densely and keeps every step; the steps are all the same."""
        form = Format("float32" if inputs.sample.dtype == torch.float32 else "float16")
        device, size = inputs.sample.device, inputs.sample.shape[2:]
        columns = columns_of(unet, *size, inputs.embeds.shape[1], form.keep_inputs)
        layout = layout_of(columns, form, num_steps, num_map_steps=0, num_branches=2)
        store = Store(Activations.of(layout).own.lie.num_bytes, pinned=device.type == "cuda")
        text = unet.read(inputs.embeds, inputs.added)
        everything = _everything(unet, inputs)
        with store.create(RECORDING, layout) as draft:
            for step in range(num_steps):
                target = Target(draft, step, form)
                (noise,) = predict(unet, [_call(inputs, text, everything, form, step, target=target)])
            draft.commit()
        on_host = store.open(RECORDING)
        if on_host is None or on_host.activations is None:
            raise ValueError("a recording that was committed is there")
        on_device = _OnDevice(RECORDING, resident(on_host.activations, device))
        return cls(unet, inputs, text, form, num_steps, on_host, on_device, noise)

    def dense(self, graphs: Graphs | None = None) -> Callable[[int], Tensor]:
        """Calls that compute everything and read and keep nothing."""
        active = _everything(self.unet, self.inputs)
        return lambda step: self.predict(_call(self.inputs, self.text, active, self.form, step), graphs)

    def sparse(self, mask: Tensor, *, from_host: bool, graphs: Graphs | None = None) -> Sparse:
        """Calls that compute the rows of a mask [H, W]."""
        levels = len(self.unet.cfg.channels)
        active = Active(tuple(active_positions(mask.expand(2, -1, -1), levels)))
        plans = plans_of((active,), self.inputs.sample.device)
        recording = self.on_host if from_host else self.on_device
        feed = Feed(recording, plans, self.form, self.inputs.sample[:0], self.num_steps)
        return Sparse(self, active, feed, graphs)

    def predict(self, call: Call, graphs: Graphs | None) -> Tensor:
        """Its prediction [2, C, H, W], float32."""
        return predict(self.unet, [call], graphs)[0]


class Sparse:
    """The steps of one edit: what each reads was gathered while the one before it computed."""

    def __init__(self, passes: Passes, active: Active, feed: Feed, graphs: Graphs | None) -> None:
        self.noise = torch.empty(0)  # of the last step
        self._passes = passes
        self._active = active
        self._feed = feed
        self._graphs = graphs

    def __call__(self, step: int) -> TimedWait | None:
        """One step; the wait for its rows, where they were gathered ahead."""
        reads, wait = self._feed.step(step), None
        if reads.ready is not None:
            reads.ready = wait = TimedWait(reads.ready)  # type: ignore[assignment]  # it waits like the event
        given = self._passes.inputs, self._passes.text, self._active, self._passes.form, step
        self.noise = self._passes.predict(_call(*given, source=reads), self._graphs)
        return wait


def _everything(unet: UNet, inputs: Inputs) -> Active:
    ones = torch.ones(2, *inputs.sample.shape[2:], dtype=torch.bool)
    return Active(tuple(active_positions(ones, len(unet.cfg.channels))))


def _call(
    inputs: Inputs,
    text: ReadText,
    active: Active,
    form: Format,
    step: int,
    source: Reads | None = None,
    target: Target | None = None,
) -> Call:
    """As a job yields it."""
    return Call(
        sample=inputs.sample,
        timestep=inputs.timestep,
        text=text,
        active=active,
        source=source,
        target=target,
        format=form,
        stage="denoise",
        step=step,
        num_steps=step + 1,
    )
