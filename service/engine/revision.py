"""One edit of an open recording: find its region, and draw that again."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cache_store.store import Draft, MemoryStore, Recording
from service.engine import masks
from service.engine.codec import Pixels, bounding_box, decode, paste
from service.engine.core import Core
from service.engine.denoise import Active, Background, Call, Denoising
from service.engine.maps import MixMaps, Moved
from service.engine.paper import Paper, no_control
from service.engine.prompts import Alignment, Mix
from service.engine.receipts import Tally
from service.engine.recording import Source
from service.engine.region import Mask, choose_active, detected_mask
from service.engine.sampling import make_sampler, num_branches
from service.engine.text import Text, align_prompts, encode_branches
from service.engine.weights import Model
from service.jobs import EditJob, Event, Preview, Sampling
from sparse_ops.context import Control


@dataclass(frozen=True, eq=False)
class Detection:
    """The first k steps under the new prompt, and what they are compared with."""

    sampler: Any
    latents: Tensor  # [k + 1, 4, h, w], drawn densely
    recorded: Tensor  # [k + 1, 4, h, w]


@dataclass(frozen=True, eq=False)
class Revision:
    """What an edit works with; nothing of it changes."""

    model: Model
    job: EditJob
    sampling: Sampling
    recording: Recording
    source: Core
    text: Text
    alignment: Alignment
    mix: Mix
    tally: Tally

    @classmethod
    def of(cls, model: Model, job: EditJob, sampling: Sampling, recording: Recording, tally: Tally) -> Revision:
        """Loads the source, embeds the new prompt, aligns it with the old one."""
        source = Core.load(recording)
        with tally.timed("encode"):
            text = encode_branches(model, job.prompt, sampling)
            alignment, mix = align_prompts(model, source.prompt, job.prompt)
        return cls(model, job, sampling, recording, source, text, alignment, mix, tally)

    def detect(self) -> Generator[Call | Event, Tensor | None, Detection | None]:
        """The first steps under the new prompt; kept words look where they looked in the source. None: no need.

        They are compared with the first steps of the source's prompt, drawn densely too: the source itself, being
        perhaps an edit, may lie elsewhere than its own words would draw it, and then that would be found, too.
        """
        same = self.alignment.unchanged and self.sampling == self.source.sampling
        if same or self.job.mask_mode == "given":
            return None
        num_controlled = round(self.job.rules.control_ratio * self._num_detection_steps)

        def control(step: int) -> Control | None:
            return MixMaps(Source(self.recording, step), self.mix) if step < num_controlled else None

        recorded = self.source.beginning
        if recorded is None:
            text = encode_branches(self.model, self.source.prompt, self.source.sampling)
            _, recorded = yield from self._begin(text, no_control)
        return Detection(*(yield from self._begin(self.text, control)), recorded)

    def _begin(
        self, text: Text, control: Callable[[int], Control | None]
    ) -> Generator[Call | Event, Tensor | None, tuple[Any, Tensor]]:
        """A sampler after the first k steps under a prompt, and their latents [k + 1, 4, h, w]."""
        paper = Paper.of(self.model, self.sampling)
        loop = Denoising(
            paper=paper,
            sampler=self._sampler(),
            text=text,
            active=Active(paper.everything()),
            stage="detect",
            tally=self.tally,
            control=control,
        )
        latents = yield from loop.run(self._first, range(self._num_detection_steps))
        return loop.sampler, torch.cat([self._first, *latents])

    def edit_mask(self, detection: Detection | None) -> Mask:
        """The detected mask, the user's, or both, as the job says."""
        size = (self.source.latents.shape[2], self.source.latents.shape[3])
        image = self.job.edit_mask
        given = None if image is None else masks.user_mask(image, size, self.model.latent_scale)
        detected = np.zeros(size, bool)
        if detection:
            latents = (detection.latents.cpu(), detection.recorded.cpu())
            detected = detected_mask(*latents, self.source.words, self.alignment, self.job.rules)
        return masks.combine(detected, given, self.job.mask_mode)

    def redraw(
        self, store: MemoryStore, image_id: str, edit_mask: Mask, detection: Detection | None
    ) -> Generator[Call | Event, Tensor | None, Core]:
        """The steps on the region's rows, the background's latents restored after each; decoded and pasted."""
        rules, model = self.job.rules, self.model
        readable = self.recording.activations is not None and self.job.cache != "off"
        active = choose_active(model, edit_mask, rules, num_branches(self.sampling), self.tally, readable=readable)
        parent = None if all(bool(level.all()) for level in active) else self.recording
        goes_on = detection if detection and not rules.restart else None
        begin = len(goes_on.latents) - 1 if goes_on else 0
        paper = Paper.of(model, self.sampling)
        words = paper.words(self._moved_words())
        draft = self._draft(store, paper, image_id, parent, active, complete=begin == 0)
        loop = Denoising(
            paper=paper,
            sampler=goes_on.sampler if goes_on else self._sampler(),
            text=self.text,
            active=Active(active, attend_recorded=rules.attention == "exact"),
            stage="denoise",
            tally=self.tally,
            recording=parent,
            draft=draft,
            background=self._background(edit_mask) if rules.overwrite else None,
            control=paper.keep_maps(draft, words, self._moved if parent else None) if draft else no_control,
            preview=lambda step, original: self._preview(step, original, edit_mask),
            preview_every=self.job.preview_every,
        )
        try:
            before = (goes_on.latents if goes_on else self._first).chunk(begin + 1)
            latents = yield from loop.run(before[-1], range(begin, self.sampling.num_inference_steps))
            with self.tally.timed("decode"):
                pixels = self._picture(latents[-1], edit_mask)
            core = Core(
                prompt=self.job.prompt,
                sampling=self.sampling,
                source_id=self.recording.id,
                latents=torch.cat([*before, *latents]),
                pixels=pixels,
                words=words.mean(),
                edit_mask=edit_mask,
                beginning=detection.latents if detection else None,
            )
            if draft:
                core.save(draft)
                draft.commit()
        finally:
            if draft:
                draft.abort()
        return core

    @property
    def _num_detection_steps(self) -> int:
        return masks.num_detection_steps(self.sampling.num_inference_steps)

    @property
    def _first(self) -> Tensor:
        return self.source.latents[:1].to(self.model.device)

    def _sampler(self) -> Any:
        return make_sampler(self.model, self.sampling.sampler, self.sampling.num_inference_steps)

    def _background(self, edit_mask: Mask) -> Background:
        device = self.model.device
        return Background(torch.from_numpy(edit_mask).to(device), self.source.latents.to(device))

    def _draft(
        self,
        store: MemoryStore,
        paper: Paper,
        image_id: str,
        parent: Recording | None,
        active: tuple[Tensor, ...],
        *,
        complete: bool,
    ) -> Draft | None:
        """A recording of all steps; where the first ones were a detection's, of the core alone."""
        if self.job.cache != "read_write":
            return None
        return paper.draft(store, image_id, parent, active) if complete else store.create(image_id, {})

    def _moved(self, step: int) -> Moved:
        return Moved(Source(self.recording, step), self.alignment.mapper, self.alignment.alpha)

    def _moved_words(self) -> Tensor:
        """Where the source's tokens looked, for the tokens that stay."""
        return self.source.words[self.alignment.mapper] * self.alignment.alpha[:, None, None]

    def _picture(self, latents: Tensor, edit_mask: Mask) -> Pixels:
        pixels = decode(self.model, latents)
        if not self.job.rules.overwrite:
            return pixels  # the background is not the source's: a seam would show
        return paste(self.source.pixels, pixels, edit_mask, self.job.rules.paste_margin)

    def _preview(self, step: int, original: Tensor, edit_mask: Mask) -> Preview:
        wide = masks.widen(edit_mask, self.job.rules.paste_margin)
        box = bounding_box(wide, self.model.latent_scale)
        return Preview(step, Image.fromarray(self._picture(original, edit_mask)).crop(box), box)
