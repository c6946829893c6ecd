"""The ways to come to an edited picture, each timed: ours, drawing it again, and what diffusers has."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from PIL import Image

from cache_store.store import Store
from service.batching.policy import Limits
from service.batching.runner import Predict, Runner
from service.engine.given_mask import to_png_array
from service.engine.masks import Mask
from service.engine.weights import Model
from service.jobs import EditJob, Event, GenerateJob, Job, Outcome, SamplingRequest

STRENGTH = 0.8  # of image-to-image: so much of the steps is drawn
Result = TypeVar("Result")


class Peers:
    """Diffusers' pipelines over one set of weights, those of a directory."""

    def __init__(self, directory: Path, device: torch.device, dtype: torch.dtype) -> None:
        without = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        self.draw = StableDiffusionPipeline.from_pretrained(directory, dtype=dtype, **without).to(device)
        if device.type == "cuda":
            for network in (self.draw.unet, self.draw.vae):
                network.to(memory_format=torch.channels_last)
        parts = {**self.draw.components, "requires_safety_checker": False}
        self.redraw = StableDiffusionImg2ImgPipeline(**parts)
        self.inpaint = StableDiffusionInpaintPipeline(**parts)
        for pipeline in (self.draw, self.redraw, self.inpaint):
            pipeline.set_progress_bar_config(disable=True)


@dataclass(frozen=True)
class Source:
    """A recorded picture."""

    prompt: str
    sampling: SamplingRequest
    store: Store
    image_id: str
    picture: Image.Image


class Stopwatch:
    """Seconds of named things, one run each, with the device's work in them."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device

    def time(self, name: str, way: Callable[[], Result]) -> Result:
        """What it returns."""
        self._wait()
        begin = time.perf_counter()
        result = way()
        self._wait()
        self.seconds[name] = time.perf_counter() - begin
        return result

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@dataclass(frozen=True, eq=False)
class Ways:
    """One model, and what else draws with its weights."""

    model: Model
    peers: Peers
    num_steps: int
    store_bytes: int
    predict: Predict  # a service's: by captured passes where there is a GPU

    def record(self, prompt: str, seed: int) -> Source:
        """Draws a picture and keeps how, as a service has it."""
        store = Store(self.store_bytes, pinned=self.model.device.type == "cuda")
        sampling = SamplingRequest(seed=seed, num_inference_steps=self.num_steps)
        outcome = self.run(store, GenerateJob(prompt, sampling))
        if outcome.image is None:
            raise ValueError("a drawn picture has an image")
        return Source(prompt, sampling, store, outcome.image.image_id, outcome.image.image)

    def edit(self, source: Source, job: EditJob) -> Outcome:
        """One edit; what it recorded is forgotten, or the same edit again would be there already."""
        return self.edit_together(source, [job])[0]

    def edit_together(self, source: Source, jobs: Sequence[EditJob]) -> list[Outcome]:
        """Several edits whose steps share network calls."""
        return [self._forgotten(source, outcome) for outcome in self._run(source.store, jobs)]

    def run(self, store: Store, job: Job) -> Outcome:
        """Any job."""
        return self._run(store, [job])[0]

    def _run(self, store: Store, jobs: Sequence[Job]) -> list[Outcome]:
        limits = Limits(running_jobs=len(jobs), step_images=2 * len(jobs))
        runner = Runner(self.model, store, limits, predict=self.predict)
        events: dict[str, list[Event]] = {str(number): [] for number in range(len(jobs))}
        for job_id, job in zip(events, jobs, strict=True):
            runner.add(job_id, job)
        while not runner.idle:
            for job_id, event in runner.step():
                events[job_id].append(event)
        return [Outcome.of(told) for told in events.values()]

    def given(self, source: Source, prompt: str, edit_mask: Mask) -> EditJob:
        """An edit under a mask."""
        return EditJob(prompt, source.image_id, edit_mask=self.as_image(edit_mask), mask_mode="given")

    def as_image(self, edit_mask: Mask) -> Image.Image:
        """White changes."""
        return Image.fromarray(to_png_array(edit_mask, self.model.latent_scale))

    def time_new(self, source: Source, prompt: str, edit_mask: Mask | None) -> list[float]:
        """On a GPU the seconds of an edit that may be the first of its bucket; on a CPU none are."""
        if self.model.device.type != "cuda":
            return []
        watch = Stopwatch(self.model.device)
        job = EditJob(prompt, source.image_id) if edit_mask is None else self.given(source, prompt, edit_mask)
        watch.time("new", lambda: self.edit(source, job))
        return list(watch.seconds.values())

    def time_all(self, source: Source, prompt: str, edit_mask: Mask | None) -> tuple[dict[str, float], Outcome]:
        """Seconds of each way, one after the other, and what our edit told.

        Without a mask the edit finds its own, and all others get that; with one the search is timed alone.
        """
        watch = Stopwatch(self.model.device)
        if edit_mask is None:
            outcome = watch.time("edit", lambda: self.edit(source, EditJob(prompt, source.image_id)))
            if outcome.mask is None:
                raise ValueError("an edit tells its mask")
            mask = outcome.mask.edit_mask
            watch.time("edit, mask given", lambda: self.edit(source, self.given(source, prompt, mask)))
        else:
            mask, dry = edit_mask, EditJob(prompt, source.image_id, dry_run=True)
            watch.time("detection", lambda: self.run(source.store, dry))
            outcome = watch.time("edit, mask given", lambda: self.edit(source, self.given(source, prompt, mask)))
        again = GenerateJob(prompt, source.sampling, cache="off")
        watch.time("dense", lambda: self.run(source.store, again))
        self._time_peers(watch, source, prompt, self.as_image(mask))
        return watch.seconds, outcome

    def _time_peers(self, watch: Stopwatch, source: Source, prompt: str, mask: Image.Image) -> None:
        defaults = self.model.defaults
        common: dict[str, Any] = {
            "prompt": prompt,
            "num_inference_steps": self.num_steps,
            "guidance_scale": defaults.guidance_scale,
            "generator": torch.Generator().manual_seed(source.sampling.seed or 0),
        }
        size = {"height": source.picture.height, "width": source.picture.width}
        picture, whole = source.picture, {**common, **size}
        watch.time("diffusers", lambda: self.peers.draw(**whole, guidance_rescale=defaults.guidance_rescale))
        watch.time("image-to-image", lambda: self.peers.redraw(**common, image=picture, strength=STRENGTH))
        watch.time("in-painting", lambda: self.peers.inpaint(**whole, image=picture, mask_image=mask, strength=1.0))

    @staticmethod
    def _forgotten(source: Source, outcome: Outcome) -> Outcome:
        if outcome.receipt.image_id != source.image_id:
            source.store.delete(outcome.receipt.image_id)
        return outcome
