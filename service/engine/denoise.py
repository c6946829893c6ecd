"""Denoising: one U-Net call for the steps of several jobs, and the loop that asks for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cache_store.store import Draft, Recording
from service.engine.canvas import Canvas, no_control
from service.engine.read_text import ReadText
from service.engine.receipts import Tally
from service.engine.recording import BatchReader, BatchWriter, Format, Source, Target
from service.engine.sampling import constant_channels, guide, num_branches, predicted_original
from service.engine.unet import UNet
from service.jobs import Event, Preview, Stage
from sparse_ops.context import Context, Control
from sparse_ops.plan import Plan, make_plans


@dataclass(frozen=True, eq=False)
class Active:
    """Which positions of each resolution are computed, bool [B, H, W] each; equal only to itself."""

    levels: tuple[Tensor, ...]
    attend_recorded: bool = True  # exact self-attention; False: masked rows see each other only, the paper's


@dataclass(frozen=True, eq=False)
class Call:
    """One U-Net call that a job needs: a step of one picture, all its guidance branches."""

    sample: Tensor  # [B, C, H, W]
    timestep: Tensor  # [B]
    text: ReadText
    active: Active
    source: Source | None  # needed where some position is not active
    target: Target | None
    controls: tuple[Control | None, ...]  # one for each branch; empty = none
    format: Format  # of recordings: how they are read and kept
    stage: Stage
    step: int
    num_steps: int  # of this loop

    @property
    def num_images(self) -> int:
        """Guidance branches."""
        return len(self.sample)

    @property
    def num_rows(self) -> int:
        """Rows computed at the highest resolution."""
        return int(self.active.levels[0].sum())

    @property
    def num_bytes_read(self) -> int:
        """Of its recording, so far."""
        return self.source.num_bytes if self.source else 0

    @property
    def shape_key(self) -> tuple[object, ...]:
        """Calls with equal keys may share one network call."""
        return (*self.sample.shape[1:], self.text.num_tokens, self.format)


@torch.no_grad()
def predict(unet: UNet, calls: Sequence[Call]) -> list[Tensor]:  # [B, C, H, W], float32, for each call
    """The predictions of several jobs by one pass of the network. ValueError where their shapes differ."""
    if len({call.shape_key for call in calls}) != 1:
        raise ValueError(f"calls of one pass must have equal shapes, got {[call.shape_key for call in calls]}")
    num_images = [call.num_images for call in calls]
    sample = torch.cat([call.sample for call in calls])
    plans = plans_of(tuple(call.active for call in calls), sample.device)
    controls: list[Control | None] = []
    for call in calls:
        controls += call.controls or [None] * call.num_images
    form = calls[0].format
    context = Context(
        plans,
        BatchReader(plans, [call.source for call in calls], num_images, sample, form.kind),
        BatchWriter([call.target for call in calls], num_images, form.kind),
        tuple(controls) if any(controls) else (),
        keep_inputs=form.keep_inputs,
    )
    text = ReadText.joined([call.text for call in calls])
    noise = unet(sample, torch.cat([call.timestep for call in calls]), text, context)
    return list(noise.float().split(num_images))


@lru_cache(maxsize=16)
def plans_of(actives: tuple[Active, ...], device: torch.device) -> list[Plan]:
    """Made once for each company of jobs: their masks do not change from step to step."""
    levels = [torch.cat(level) for level in zip(*(active.levels for active in actives), strict=True)]
    attend = [active.attend_recorded for active in actives for _ in active.levels[0]]
    return [plan.to(device) for plan in make_plans(levels, attend)]


Script = Generator[Call | Event, Tensor | None, None]  # a job: yields what it needs and what it tells
Steps = Generator[Call | Event, Tensor | None, list[Tensor]]


def ask(call: Call, tally: Tally, canvas: Canvas) -> Generator[Call | Event, Tensor | None, Tensor]:
    """Yields the call and is sent its prediction; what it cost is counted."""
    begin = time.perf_counter()
    prediction = yield call
    if prediction is None:
        raise ValueError("a call must be answered by its prediction, got None")
    seconds = time.perf_counter() - begin
    tally.add(call.stage, seconds, plans_of((call.active,), call.sample.device), canvas, call.num_bytes_read)
    return prediction


@dataclass(frozen=True, eq=False)
class Background:
    """What an edit keeps: the recorded latents wherever the mask is not."""

    edit_mask: Tensor  # bool [h, w]
    latents: Tensor  # [steps + 1, 4, h, w], recorded

    def restore(self, latents: Tensor, num_done: int) -> Tensor:
        """The latents after so many steps, recorded outside of the mask, bit for bit."""
        return torch.where(self.edit_mask, latents, self.latents[num_done])


@dataclass(frozen=True, eq=False)
class Denoising:
    """One loop of denoising steps: a generation, a detection, or the sparse steps of an edit."""

    canvas: Canvas
    sampler: Any  # diffusers' own, of this loop alone
    text: ReadText
    active: Active
    stage: Stage
    tally: Tally
    recording: Recording | None = None  # read where not all is active
    draft: Draft | None = None
    background: Background | None = None
    control: Callable[[int], Control | None] = no_control  # of the conditional image, at each step
    preview: Callable[[int, Tensor], Preview] | None = None  # of a step and its predicted x0
    preview_every: int = 0

    def run(self, latents: Tensor, steps: range) -> Steps:  # latents [1, 4, h, w]
        """Yields each U-Net call, is sent the prediction; returns the latents after each step."""
        done, constant = [], constant_channels(self.canvas.model, latents)
        for step in steps:
            timestep = self.sampler.timesteps[step]
            scaled = self.sampler.scale_model_input(latents, timestep)
            sample = scaled if constant is None else torch.cat([scaled, constant], 1)
            prediction = yield from ask(self._call(step, len(steps), timestep, sample), self.tally, self.canvas)
            guided = guide(prediction, self.canvas.sampling.guidance_scale, self.canvas.model.defaults.guidance_rescale)
            if self.preview and self.preview_every and (step + 1) % self.preview_every == 0 and step + 1 < steps.stop:
                yield self.preview(step, predicted_original(self.sampler, guided, timestep, latents))
            latents = self.sampler.step(guided, timestep, latents).prev_sample
            if self.background:
                latents = self.background.restore(latents, step + 1)
            done.append(latents)
        return done

    def _call(self, step: int, num_steps: int, timestep: Tensor, sample: Tensor) -> Call:
        branches = num_branches(self.canvas.sampling)
        control = self.control(step)
        return Call(
            sample=sample.to(self.canvas.model.dtype).expand(branches, -1, -1, -1),
            timestep=timestep.expand(branches),
            text=self.text,
            active=self.active,
            source=Source(self.recording, step) if self.recording else None,
            target=Target(self.draft, step) if self.draft else None,
            controls=(None,) * (branches - 1) + (control,) if control else (),
            format=self.canvas.model.format,
            stage=self.stage,
            step=step,
            num_steps=num_steps,
        )
