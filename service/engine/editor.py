"""A job, read top to bottom: draw a picture and record how, or edit one by its words.

    source = the recorded picture, or one that is drawn first
    mask   = where the new words change it                       (detect)
    steps  = only that region, all else from the recording       (redraw)
    image  = the source with the new region pasted in

A job is a generator. It yields each U-Net call that it needs and is sent the prediction; between them it yields
events. Who drives it (the command line, the batcher) may merge the calls of many jobs. Closing it cancels it: its
draft is dropped, its source unpinned.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from PIL import Image
from torch import Tensor

from cache_store.store import MemoryStore, Recording
from service.engine.core import Core, edit_id, generation_id
from service.engine.denoise import Call, Script
from service.engine.drawing import draw
from service.engine.prompts import unknown_words
from service.engine.receipts import Tally
from service.engine.revision import Revision
from service.engine.sampling import beside, resolve
from service.engine.text import similarity
from service.engine.weights import Model
from service.errors import InputError, UnknownImageError
from service.jobs import Accepted, EditJob, Event, GenerateJob, ImageReady, Job, MaskFound, Sampling


def start(model: Model, store: MemoryStore, job: Job) -> Script:
    """The script of a job. RetouchErrors come out of it; after its receipt it ends."""
    job = replace(job, prompt=_worded("prompt", job.prompt))
    return edit(model, store, job) if isinstance(job, EditJob) else generate(model, store, job)


def generate(model: Model, store: MemoryStore, job: GenerateJob) -> Script:
    """Draws a picture and records how; what is recorded already is not drawn again."""
    tally = Tally()
    sampling = resolve(model, job.sampling)
    image_id = generation_id(model, job.prompt, sampling)
    yield Accepted(image_id, None, sampling.num_inference_steps)
    core = _recorded(store, image_id) if job.cache != "off" else None
    if core is None:
        kept_in = store if job.cache == "read_write" else None
        core = yield from draw(model, kept_in, job.prompt, sampling, tally, "denoise", job.preview_every)
    yield ImageReady(image_id, Image.fromarray(core.pixels))
    yield tally.receipt(image_id, unknown_words=_unknown(model, job.prompt))


def edit(model: Model, store: MemoryStore, job: EditJob) -> Script:
    """Redraws what the new words change, and keeps the rest of the source to the bit."""
    tally = Tally()
    source_id, sampling = _identify(model, store, job)
    image_id = edit_id(model, source_id, sampling, job)
    yield Accepted(image_id, source_id, sampling.num_inference_steps)
    with (yield from _source(model, store, job, source_id, sampling, tally)) as recording:
        known = None if job.cache == "off" else _recorded(store, image_id)
        revision = Revision.of(model, job, sampling, recording, tally)
        detection = None if known else (yield from revision.detect())
        edit_mask = known.edit_mask if known and known.edit_mask is not None else revision.edit_mask(detection)
        yield MaskFound(edit_mask, float(edit_mask.mean()))
        if not job.dry_run:
            if not edit_mask.any():
                tally.fall_back("mask", "the new words change nothing: the source is returned as it is")
                image_id, known = source_id, revision.source
            core = known or (yield from revision.redraw(store, image_id, edit_mask, detection))
            yield ImageReady(image_id, Image.fromarray(core.pixels))
        yield tally.receipt(
            image_id,
            source_id=source_id,
            similarity=similarity(model, revision.source.prompt, job.prompt),
            tier="host" if recording.activations else None,
            edited_ratio=float(edit_mask.mean()),
            unknown_words=_unknown(model, job.prompt),
        )


def _identify(model: Model, store: MemoryStore, job: EditJob) -> tuple[str, Sampling]:
    """The source's id, and the settings of the edit."""
    if (job.image_id is None) == (job.source_prompt is None):
        raise InputError("image_id", "exactly one of image_id and source_prompt says what to edit")
    if job.source_prompt is not None:
        sampling = resolve(model, job.sampling)
        return generation_id(model, _worded("source_prompt", job.source_prompt), sampling), sampling
    core = _recorded(store, str(job.image_id))
    if core is None:
        raise UnknownImageError(str(job.image_id))
    return str(job.image_id), beside(core.sampling, job.sampling)


def _source(
    model: Model, store: MemoryStore, job: EditJob, source_id: str, sampling: Sampling, tally: Tally
) -> Generator[Call | Event, Tensor | None, Recording]:
    """The recording to edit, pinned; drawn first where it is known by its prompt alone."""
    recording = store.open(source_id)
    if recording is None and job.source_prompt is not None:
        prompt = _worded("source_prompt", job.source_prompt)
        yield from draw(model, store, prompt, sampling, tally, "source")
        recording = store.open(source_id)
    if recording is None:
        raise UnknownImageError(source_id)
    return recording


def _recorded(store: MemoryStore, image_id: str) -> Core | None:
    recording = store.open(image_id)
    if recording is None:
        return None
    with recording:
        return Core.load(recording)


def _unknown(model: Model, prompt: str) -> tuple[str, ...]:
    """Words that the model says it does not know; none where it does not tell."""
    return tuple(unknown_words(prompt, model.defaults.words)) if model.defaults.words else ()


def _worded(field: str, prompt: str) -> str:
    """The prompt with single blanks; InputError where there is no word in it."""
    words = prompt.split()
    if not words:
        raise InputError(field, "must have a word in it")
    return " ".join(words)
