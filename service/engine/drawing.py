"""A picture drawn from its prompt, densely, and recorded while it is drawn."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import nullcontext

import torch
from PIL import Image
from torch import Tensor

from cache_store.store import Store
from service.engine.call import Call
from service.engine.canvas import Canvas, never
from service.engine.codec import Pixels, decode
from service.engine.core import Core, generation_id
from service.engine.denoise import Denoising
from service.engine.receipts import Tally
from service.engine.sampling import first_latents, make_sampler
from service.engine.text import read_branches
from service.engine.weights import Model
from service.jobs import Event, Preview, Sampling, Stage


def draw(
    model: Model,
    store: Store | None,  # None: nothing is kept
    tenant: str,
    prompt: str,
    sampling: Sampling,
    tally: Tally,
    stage: Stage,
    preview_every: int = 0,
    known: Core | None = None,
) -> Generator[Call | Event, Tensor | None, Core]:
    """All steps of a picture, each recorded; the recording is visible when the picture is done.

    Of a picture that is `known` only the rows are recorded: it stays as it is. Where they find no room no step is made.
    """
    with tally.timed("encode"):
        text = read_branches(model, prompt, sampling)
    first, num_steps = first_latents(model, sampling), sampling.num_inference_steps
    canvas = Canvas.of(model, sampling)
    words = canvas.words()
    draft = canvas.draft(store, generation_id(model, prompt, sampling, tenant)) if store else None
    if known and (draft is None or draft.activations is None):
        return known
    loop = Denoising(
        canvas=canvas,
        sampler=make_sampler(model, sampling.sampler, num_steps),
        text=text,
        active=canvas.everything,
        stage=stage,
        tally=tally,
        draft=draft,
        keep_maps=canvas.keep_maps(draft, words) if draft else never,
        preview=lambda step, original: whole_preview(step, decode(model, original).pixels),
        preview_every=preview_every,
    )
    with draft or nullcontext():
        latents = yield from loop.run(first, range(num_steps))
        core = known
        if core is None:
            with tally.timed("decode"):
                picture = decode(model, latents[-1])
            trace = torch.cat([first, *latents])
            beginning = trace[: canvas.num_map_steps + 1]
            about = prompt, sampling, None, tenant, model.fingerprint
            core = Core(*about, trace, picture, words.mean(), beginning=beginning)
        if draft:
            core.commit(draft)
    return core


def whole_preview(step: int, pixels: Pixels) -> Preview:
    """All of a picture as it will probably look."""
    return Preview(step, Image.fromarray(pixels), (0, 0, pixels.shape[1], pixels.shape[0]))
