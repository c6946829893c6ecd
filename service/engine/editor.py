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

from cache_store.store import Recording, Store
from service.engine.call import Call
from service.engine.canvas import Canvas
from service.engine.catalog import Catalog
from service.engine.core import Core, Told, edit_id, generation_id
from service.engine.denoise import Script
from service.engine.drawing import draw
from service.engine.embedder import Pooled, similarity
from service.engine.given_mask import user_mask
from service.engine.masks import Mask
from service.engine.prompts import unknown_words
from service.engine.receipts import Tally
from service.engine.revision import Revision, reads_rows
from service.engine.sampling import beside, resolve
from service.engine.text import is_cut
from service.engine.weights import Model
from service.errors import InputError, UnknownImageError
from service.jobs import Accepted, EditJob, Event, GenerateJob, ImageReady, Job, MaskFound, Sampling


def start(model: Model, store: Store, job: Job, catalog: Catalog | None = None) -> Script:
    """The script of a job. RetouchErrors come out of it; after its receipt it ends.

    `catalog` knows which recordings are near a prompt, and is told of new ones; without it an edit names its source.
    """
    job = replace(job, prompt=_worded("prompt", job.prompt))
    if isinstance(job, GenerateJob):
        return generate(model, store, job, catalog)
    if job.source_prompt is not None:
        job = replace(job, source_prompt=_worded("source_prompt", job.source_prompt))
    elif job.image_id is None:
        return edit_nearest(model, store, job, catalog)
    return edit(model, store, job, catalog)


def generate(
    model: Model, store: Store, job: GenerateJob, catalog: Catalog | None = None, tally: Tally | None = None
) -> Script:
    """Draws a picture and records how; what is recorded already is not drawn again."""
    tally = tally or Tally()
    sampling = resolve(model, job.sampling)
    image_id = generation_id(model, job.prompt, sampling, job.tenant)
    yield Accepted(image_id, None, sampling.num_inference_steps)
    _report_cut(model, job.prompt, tally)
    tally.compare_with(Canvas.of(model, sampling))
    core = _known(model, store, image_id, job)
    if core is None:
        kept_in = store if job.cache == "read_write" else None
        core = yield from draw(model, kept_in, job.tenant, job.prompt, sampling, tally, "denoise", job.preview_every)
        _announce(model, store, catalog, image_id, core)
    yield ImageReady(image_id, Image.fromarray(core.picture.pixels))
    yield tally.receipt(image_id, unknown_words=_unknown(model, job.prompt))


def edit_nearest(model: Model, store: Store, job: EditJob, catalog: Catalog | None) -> Script:
    """Edits the recording that the new words are the least edit of; where none is near, the picture is drawn."""
    if job.edit_mask is not None:
        raise InputError("edit_mask", "is of one picture: name it by image_id or source_prompt")
    if catalog is None:
        raise InputError("image_id", "exactly one of image_id and source_prompt says what to edit")
    found = None
    if job.cache != "off":
        found = catalog.nearest(model, store, job.tenant, job.prompt, job.sampling, job.min_similarity)
    if found is not None:
        return (yield from edit(model, store, replace(job, image_id=found.recording_id), catalog))
    if job.dry_run:
        raise InputError("dry_run", "no recording is near enough to these words: there is no mask to find")
    tally = Tally()
    if job.cache == "off":
        tally.fall_back("source", "recordings are not wanted: the picture is drawn")
    else:
        tally.fall_back("source", "no recording is near enough to these words: the picture is drawn")
    drawn = GenerateJob(job.prompt, job.sampling, job.preview_every, job.cache, job.tenant)
    return (yield from generate(model, store, drawn, catalog, tally))


def edit(model: Model, store: Store, job: EditJob, catalog: Catalog | None = None) -> Script:
    """Redraws what the new words change, and keeps the rest of the source to the bit."""
    tally = Tally()
    source_id, sampling = _identify(model, store, job)
    given = _given_mask(model, job, sampling)
    image_id = edit_id(model, source_id, sampling, job)
    yield Accepted(image_id, source_id, sampling.num_inference_steps)
    _report_cut(model, job.prompt, tally)
    tally.compare_with(Canvas.of(model, sampling))
    known = _known(model, store, image_id, job)
    reads = known is None and reads_rows(model, job, 0.0 if given is None else float(given.mean()))
    with (yield from _source(model, store, job, source_id, sampling, tally, catalog, reads=reads)) as recording:
        source = Core.load(recording)
        revision = Revision.of(model, job, sampling, recording, source, given, tally)
        tier = recording.tier if revision.is_readable else None
        if known is not None and known.edit_mask is not None:
            edit_mask, begun = known.edit_mask, None
        else:
            edit_mask, begun = yield from revision.detect()
        region = revision.region(edit_mask) if known is None and edit_mask.any() else None
        num_calls, macs = revision.count(region, begun) if region else (0, 0)
        yield MaskFound(edit_mask, float(edit_mask.mean()), num_calls, macs)
        if not edit_mask.any():
            tally.fall_back("mask", "the mask is empty" if job.mask_mode == "given" else "the new words change nothing")
            image_id, known = source_id, source
        if not job.dry_run:
            core = known or source
            if region is not None:
                core = yield from revision.redraw(store, image_id, edit_mask, region, begun)
                _announce(model, store, catalog, image_id, core)
            yield ImageReady(image_id, Image.fromarray(core.picture.pixels))
        yield tally.receipt(
            image_id,
            source_id=source_id,
            similarity=similarity(catalog.embedder if catalog else Pooled(), model, source.prompt, job.prompt),
            tier=tier,
            edited_ratio=float(edit_mask.mean()),
            unknown_words=_unknown(model, job.prompt),
        )


def _identify(model: Model, store: Store, job: EditJob) -> tuple[str, Sampling]:
    """The source's id, and the settings of the edit."""
    if (job.image_id is None) == (job.source_prompt is None):
        raise InputError("image_id", "exactly one of image_id and source_prompt says what to edit")
    if job.source_prompt is not None:
        sampling = resolve(model, job.sampling)
        return generation_id(model, job.source_prompt, sampling, job.tenant), sampling
    recording = _open(model, store, str(job.image_id), job.tenant)
    if recording is None:
        raise UnknownImageError(str(job.image_id))
    with recording:
        return recording.id, beside(Told.load(recording).sampling, job.sampling)


def _given_mask(model: Model, job: EditJob, sampling: Sampling) -> Mask | None:
    """The user's mask in latent positions, before anything is drawn; InputError where it does not fit."""
    if job.edit_mask is None and job.mask_mode != "detect":
        raise InputError("edit_mask", f"is needed for mask_mode {job.mask_mode!r}")
    scale = model.latent_scale
    size = (sampling.height // scale, sampling.width // scale)
    return None if job.edit_mask is None else user_mask(job.edit_mask, size, scale)


def _source(
    model: Model,
    store: Store,
    job: EditJob,
    source_id: str,
    sampling: Sampling,
    tally: Tally,
    catalog: Catalog | None,
    *,
    reads: bool,
) -> Generator[Call | Event, Tensor | None, Recording]:
    """The recording to edit, pinned; drawn first where it is known by its prompt alone.

    So are its rows, where they have left and the edit `reads` them. That makes this edit no cheaper, but the next ones.
    """
    is_told = job.source_prompt is not None
    recording = None if is_told and job.cache == "off" else _open(model, store, source_id, job.tenant)
    if recording is None and not is_told:
        raise UnknownImageError(source_id)
    wants_rows = is_told and reads and job.cache == "read_write"
    if recording is not None and not (wants_rows and recording.activations is None):
        return recording
    known = None
    if recording is None:
        _make_way(store, source_id, job)
    else:
        with recording:
            known = Core.load(recording)
    kept_in = store if job.cache == "read_write" else _own_store(store, job)
    core = yield from draw(model, kept_in, job.tenant, str(job.source_prompt), sampling, tally, "source", known=known)
    if kept_in is store:
        _announce(model, store, catalog, source_id, core)
    if (drawn := kept_in.open(source_id)) is None:
        raise UnknownImageError(source_id)
    return drawn


def _own_store(store: Store, job: EditJob) -> Store:
    """For this job alone; without rows where it would not read them."""
    return Store(store.budget_bytes if job.cache == "read_only" else 0)


def _known(model: Model, store: Store, image_id: str, job: Job) -> Core | None:
    """What the job would draw, where it is recorded and may be taken from there; else nothing is in its way."""
    recording = _open(model, store, image_id, job.tenant) if job.cache != "off" else None
    if recording is None:
        _make_way(store, image_id, job)
        return None
    with recording:
        return Core.load(recording)


def _open(model: Model, store: Store, image_id: str, tenant: str) -> Recording | None:
    """The tenant's recording of this name, by this model; another's is none, nor is an earlier version's."""
    recording = store.open(image_id)
    if recording is None:
        return None
    try:
        told = Told.load(recording)
    except ValueError:
        told = None
    if told is None or (told.tenant, told.model) != (tenant, model.fingerprint):
        recording.close()
        return None
    return recording


def _make_way(store: Store, image_id: str, job: Job) -> None:
    """Of what is drawn anew, and kept, there is none; or one of an earlier version, which would stay."""
    if job.cache == "read_write":
        store.delete(image_id)


def _announce(model: Model, store: Store, catalog: Catalog | None, image_id: str, core: Core) -> None:
    """A new recording can be found, if it can be read."""
    recording = store.open(image_id, uses=False) if catalog else None
    if catalog is None or recording is None:
        return
    with recording:
        if recording.activations is not None:
            catalog.announce(model, core, image_id, recording.activations.own.lie.num_bytes)


def _report_cut(model: Model, prompt: str, tally: Tally) -> None:
    if is_cut(model, prompt):
        num_tokens = model.tokenizers[0].model_max_length
        tally.fall_back("encode", f"the prompt is longer than {num_tokens} tokens: its end was not read")


def _unknown(model: Model, prompt: str) -> tuple[str, ...]:
    """Words that the model says it does not know; none where it does not tell."""
    return tuple(unknown_words(prompt, model.defaults.words)) if model.defaults.words else ()


def _worded(field: str, prompt: str) -> str:
    """The prompt with single blanks; InputError where there is no word in it."""
    words = prompt.split()
    if not words:
        raise InputError(field, "must have a word in it")
    return " ".join(words)
