"""Denoising: the loop that asks for one U-Net call after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cache_store.store import Draft, Recording
from service.engine.call import Active, Call, plans_of
from service.engine.canvas import Canvas, never
from service.engine.deep import Deep
from service.engine.feed import Feed
from service.engine.maps import KeepMaps
from service.engine.read_text import ReadText
from service.engine.receipts import Tally
from service.engine.sampling import constant_channels, guide, num_branches, predicted_original
from service.engine.writing import Target
from service.jobs import Event, Preview, Stage
from sparse_ops.context import Control

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
    control: Callable[[int], Control | None] = never  # of the conditional image, at each step
    keep_maps: Callable[[int], KeepMaps | None] = never  # of the same
    preview: Callable[[int, Tensor], Preview] | None = None  # of a step and its predicted x0
    preview_every: int = 0
    deep_every: int = 1  # of so many steps the first is complete, the others are shallow

    def run(self, latents: Tensor, steps: range) -> Steps:  # latents [1, 4, h, w]
        """Yields each U-Net call, is sent the prediction; returns the latents after each step."""
        done, constant = [], constant_channels(self.canvas.model, latents)
        on_device = self.sampler.timesteps.to(self.canvas.model.device)  # the network's; the sampler's own stay here
        feed, deep = self._feed(steps.stop), Deep() if self.deep_every > 1 else None
        for step in steps:
            timestep = self.sampler.timesteps[step]
            scaled = self.sampler.scale_model_input(latents, timestep)
            sample = scaled if constant is None else torch.cat([scaled, constant], 1)
            call = self._call(step, steps, on_device[step], sample, feed, deep)
            prediction = yield from ask(call, self.tally, self.canvas)
            guided = guide(prediction, self.canvas.sampling.guidance_scale, self.canvas.model.defaults.guidance_rescale)
            if self.preview and self.preview_every and (step + 1) % self.preview_every == 0 and step + 1 < steps.stop:
                yield self.preview(step, predicted_original(self.sampler, guided, timestep, latents))
            latents = self.sampler.step(guided, timestep, latents).prev_sample
            if self.background:
                latents = self.background.restore(latents, step + 1)
            done.append(latents)
        return done

    @cached_property
    def _shallow(self) -> Active:
        """The same positions; one object for all shallow steps, so that their plans are made once."""
        return replace(self.active, shallow=True)

    def _feed(self, num_steps: int) -> Feed | None:
        if self.recording is None:
            return None
        model = self.canvas.model
        like = torch.empty(0, dtype=model.dtype, device=model.device)
        plans = plans_of((self.active,), model.device)
        return Feed(self.recording, plans, model.format, like, num_steps, self.deep_every, self.tally.waits)

    def _call(
        self, step: int, steps: range, timestep: Tensor, sample: Tensor, feed: Feed | None, deep: Deep | None
    ) -> Call:
        branches = num_branches(self.canvas.sampling)
        return Call(
            sample=sample.to(self.canvas.model.dtype).expand(branches, -1, -1, -1),
            timestep=timestep.expand(branches),
            text=self.text,
            active=self.active if (step - steps.start) % self.deep_every == 0 else self._shallow,
            source=feed.step(step) if feed else None,
            target=Target(self.draft, step, self.canvas.model.format) if self.draft else None,
            control=self.control(step),
            keep_maps=self.keep_maps(step),
            format=self.canvas.model.format,
            stage=self.stage,
            step=step,
            num_steps=len(steps),
            deep=deep,
        )
