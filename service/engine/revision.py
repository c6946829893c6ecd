"""One edit of an open recording: find its region, and draw that again."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cache_store.store import Draft, Recording, Store
from service.engine import masks
from service.engine.call import Active, Call, plans_of
from service.engine.canvas import Canvas, never
from service.engine.codec import Picture, bounding_box, decode, decode_edit
from service.engine.core import Core
from service.engine.denoise import Background, Denoising
from service.engine.given_mask import combine
from service.engine.maps import MixMaps, Moved
from service.engine.masks import Mask
from service.engine.probe import Probe
from service.engine.prompts import Alignment, Mix
from service.engine.read_text import ReadText
from service.engine.reading import Source
from service.engine.receipts import Tally
from service.engine.recording import is_readable
from service.engine.region import BREAK_EVEN_RATIO, choose_active, detected_mask, probed_mask
from service.engine.sampling import make_sampler, num_branches
from service.engine.text import align_prompts, read_branches
from service.engine.weights import Model
from service.jobs import EditJob, Event, Preview, Sampling
from sparse_ops.context import Control

MOST_DEPTH = 8  # edits of edits that read on: each adds an owner to reads; statistics age by `most_replaced_ratio`


def reads_rows(model: Model, job: EditJob, given_ratio: float) -> bool:
    """Whether an edit of a source told in words would have sparse steps, as far as is known before its mask is found.

    `given_ratio` is the user's mask's part of the positions.
    """
    if given_ratio > BREAK_EVEN_RATIO[model.device.type]:
        return False
    return given_ratio > 0 or (job.mask_mode != "given" and job.prompt != job.source_prompt)


@dataclass(frozen=True, eq=False)
class Beginning:
    """The first k steps of a prompt, drawn densely."""

    sampler: Any  # as it is after them
    latents: Tensor  # [k + 1, 4, h, w], the noise first


@dataclass(frozen=True, eq=False)
class Revision:
    """What an edit works with; nothing of it changes."""

    model: Model
    job: EditJob
    sampling: Sampling
    recording: Recording
    source: Core
    given: Mask | None  # the user's mask
    text: ReadText
    alignment: Alignment
    mix: Mix
    tally: Tally

    @classmethod
    def of(
        cls,
        model: Model,
        job: EditJob,
        sampling: Sampling,
        recording: Recording,
        source: Core,
        given: Mask | None,
        tally: Tally,
    ) -> Revision:
        """Embeds the new prompt and aligns it with the source's."""
        with tally.timed("encode"):
            text = read_branches(model, job.prompt, sampling)
            alignment, mix = align_prompts(model, source.prompt, job.prompt)
        return cls(model, job, sampling, recording, source, given, text, alignment, mix, tally)

    @property
    def is_readable(self) -> bool:
        """Whether steps may be sparse."""
        return self.job.cache != "off" and is_readable(self.recording, self.model.format)

    @property
    def _attends(self) -> bool:
        """Whether rows attend to recorded ones."""
        if self.job.rules.attention == "exact" and not self.model.format.keep_attention:
            self.tally.fall_back("denoise", "recordings keep no attention here: changed rows see each other only")
        return self.job.rules.attention == "exact" and self.model.format.keep_attention

    @property
    def _unreadable(self) -> str | None:
        """Why steps are dense whatever the mask; None where they may be sparse."""
        if not self.is_readable:
            return "the source has no activations to read: they were evicted, kept otherwise, or not wanted"
        activations = self.recording.activations
        if activations and activations.depth >= MOST_DEPTH:
            return f"the source is the {MOST_DEPTH}th edit of an edit: all is computed, and recorded, anew"
        replaced = activations.replaced_ratio("prediction") if activations else 0.0
        if replaced > self.job.rules.most_replaced_ratio:
            return f"{replaced:.0%} of the source was replaced by edits: all is computed, and recorded, anew"
        return None

    def detect(self) -> Generator[Call | Event, Tensor | None, tuple[Mask, Beginning | None]]:
        """The edit mask: detected, the user's or both; and the prompt's first steps if they were drawn."""
        same = self.alignment.unchanged and self.sampling == self.source.sampling
        if same or self.job.mask_mode == "given":
            nothing = np.zeros(self.source.latents.shape[2:], bool)
            return combine(nothing, self.given, self.job.mask_mode), None
        if self.job.rules.detection == "probe":
            detected, begun = (yield from self._probe()), None
        else:
            detected, begun = yield from self._compare_first_steps()
        return combine(detected, self.given, self.job.mask_mode), begun

    def region(self, edit_mask: Mask) -> Active:
        """What the steps compute: the mask's positions, or all, and then the tally is told why."""
        branches, unreadable = num_branches(self.sampling), self._unreadable
        levels = choose_active(self.model, edit_mask, self.job.rules, branches, self.tally, unreadable=unreadable)
        return Active(levels, attend_recorded=self._attends)

    def count(self, region: Active, begun: Beginning | None) -> tuple[int, int]:
        """Steps that `redraw` will take, a network call each, and their multiplications."""
        canvas, deep_every = Canvas.of(self.model, self.sampling), self.job.rules.deep_every
        plans = plans_of((region,), self.model.device)
        num_steps = self.sampling.num_inference_steps - self._num_done(begun)
        num_complete = ceil(num_steps / deep_every)
        num_shallow = num_steps - num_complete
        return num_steps, num_complete * canvas.count_macs(plans) + num_shallow * canvas.count_macs(plans[:1])

    def redraw(
        self, store: Store, image_id: str, edit_mask: Mask, region: Active, begun: Beginning | None
    ) -> Generator[Call | Event, Tensor | None, Core]:
        """The steps on the region's rows, the background's latents restored after each; decoded and pasted."""
        keeps_background, num_steps = self.job.rules.keep_background, self.sampling.num_inference_steps
        goes_on = begun if self._num_done(begun) else None
        before = list(goes_on.latents.split_with_sizes([1] * len(goes_on.latents)) if goes_on else [self._first])
        canvas = Canvas.of(self.model, self.sampling)
        words = canvas.words(self._moved_words())
        parent = None if all(bool(level.all()) for level in region.levels) else self.recording
        draft = self._draft(store, canvas, image_id, parent, region.levels, complete=not goes_on)
        loop = Denoising(
            canvas=canvas,
            sampler=goes_on.sampler if goes_on else self._sampler(self.sampling),
            text=self.text,
            active=region,
            stage="denoise",
            tally=self.tally,
            recording=parent,
            draft=draft,
            background=self._background(edit_mask) if keeps_background else None,
            keep_maps=canvas.keep_maps(draft, words, self._moved if parent else None) if draft else never,
            preview=lambda step, original: self._preview(step, original, edit_mask),
            preview_every=self.job.preview_every,
            deep_every=self.job.rules.deep_every,
        )
        with draft or nullcontext():
            latents = [*before, *(yield from loop.run(before[-1], range(len(before) - 1, num_steps)))]
            with self.tally.timed("decode"):
                picture = self._picture(latents[-1], edit_mask)
            core = Core(
                prompt=self.job.prompt,
                sampling=self.sampling,
                source_id=self.recording.id,
                tenant=self.job.tenant,
                model=self.model.fingerprint,
                latents=torch.cat(latents),
                picture=picture,
                words=words.mean(),
                edit_mask=edit_mask,
                beginning=begun.latents if begun else None,
            )
            if draft:
                core.commit(draft)
        return core

    def _probe(self) -> Generator[Call | Event, Tensor | None, Mask]:
        """Old and new words on the source's latents. What a drawn source predicted under its own is recorded.

        An edit's recording is its ancestors' outside of its mask: its words are asked again, so that what they alone
        would have changed there is not taken for something new.
        """
        probe = Probe.of(Canvas.of(self.model, self.sampling), self.source.latents)
        new = (self.text, self.sampling)
        if self.is_readable and self.source.source_id is None:
            (fresh,) = yield from probe.under([new], self.tally)
            old = probe.recorded(self.recording, self.source.sampling, self.tally)
        else:
            own = read_branches(self.model, self.source.prompt, self.source.sampling)
            fresh, old = yield from probe.under([new, (own, self.source.sampling)], self.tally)
        return probed_mask(fresh, old, self.job.rules, self.model.dtype)

    def _compare_first_steps(self) -> Generator[Call | Event, Tensor | None, tuple[Mask, Beginning]]:
        """The paper's: the first steps of the new prompt beside those of the source's prompt, drawn likewise.

        The source itself, being perhaps an edit, may lie elsewhere than its own words would draw it, and then that
        would be found, too.
        """
        recorded = self.source.beginning
        if recorded is None:
            text = read_branches(self.model, self.source.prompt, self.source.sampling)
            recorded = (yield from self._begin(text, self.source.sampling, never)).latents
        fresh = yield from self._begin(self.text, self.sampling, self._control())
        seen = (fresh.latents, recorded.to(fresh.latents.device), self.source.words)
        return detected_mask(*seen, self.alignment, self.job.rules, self.model.dtype), fresh

    def _begin(
        self, text: ReadText, sampling: Sampling, control: Callable[[int], Control | None]
    ) -> Generator[Call | Event, Tensor | None, Beginning]:
        """The first k steps of a prompt from the source's noise."""
        canvas = Canvas.of(self.model, sampling)
        sampler, num_steps = self._sampler(sampling), canvas.num_map_steps
        loop = Denoising(canvas, sampler, text, canvas.everything, "detect", self.tally, control=control)
        latents = yield from loop.run(self._first, range(num_steps))
        return Beginning(sampler, torch.cat([self._first, *latents]))

    def _control(self) -> Callable[[int], Control | None]:
        """Kept words look where they looked in the source, in the first part of the detection."""
        ratio = self.job.rules.control_ratio
        if not ratio:
            return never
        if not self.is_readable:
            self.tally.fall_back("detect", "no attention of the source is recorded: its words are not held in place")
            return never
        num_steps = ceil(ratio * masks.num_detection_steps(self.sampling.num_inference_steps))
        return lambda step: MixMaps(self._step(step), self.mix) if step < num_steps else None

    def _num_done(self, begun: Beginning | None) -> int:
        """Steps of the detection that those of the edit go on from."""
        return 0 if begun is None or self.job.rules.keep_background else len(begun.latents) - 1

    @property
    def _first(self) -> Tensor:
        return self.source.latents[:1].to(self.model.device)

    def _sampler(self, sampling: Sampling) -> Any:
        return make_sampler(self.model, sampling.sampler, sampling.num_inference_steps)

    def _background(self, edit_mask: Mask) -> Background:
        device = self.model.device
        return Background(torch.from_numpy(edit_mask).to(device), self.source.latents.to(device))

    def _draft(
        self,
        store: Store,
        canvas: Canvas,
        image_id: str,
        parent: Recording | None,
        active: tuple[Tensor, ...],
        *,
        complete: bool,
    ) -> Draft | None:
        """A recording of all steps; of the core alone where the first were a detection's, or some are shallow."""
        if self.job.cache != "read_write":
            return None
        if self.job.rules.deep_every > 1:
            self.tally.fall_back("record", "shallow steps leave nothing to read: edits of this picture will be dense")
            complete = False
        if not complete:
            return store.create(image_id, {})
        by_steps = self.job.rules.detection == "steps"  # who detects so will, of this picture, want its maps
        return canvas.draft(store, image_id, parent, active, with_maps=by_steps)

    def _moved(self, step: int) -> Moved:
        return Moved(self._step(step), self.alignment.mapper, self.alignment.alpha)

    def _step(self, step: int) -> Source:
        return Source(self.recording, step, self.model.format)

    def _moved_words(self) -> Tensor:
        """Where the source's tokens looked, for the tokens that stay."""
        return self.source.words[self.alignment.mapper] * self.alignment.alpha[:, None, None]

    def _picture(self, latents: Tensor, edit_mask: Mask) -> Picture:
        if not self.job.rules.keep_background:
            return decode(self.model, latents)  # all of it changed a little: a seam would show
        rules = self.job.rules
        return decode_edit(self.model, latents, self.source.picture, edit_mask, rules.paste_margin, rules.decoding)

    def _preview(self, step: int, original: Tensor, edit_mask: Mask) -> Preview:
        wide = masks.widen(edit_mask, self.job.rules.paste_margin)
        box = bounding_box(wide, self.model.latent_scale)
        return Preview(step, Image.fromarray(self._picture(original, edit_mask).pixels).crop(box), box)
