"""What a device does before its first job: kernels are compiled, the passes that most edits need are captured."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import product

from PIL import Image

from cache_store.store import Store
from service.batching.policy import Limits
from service.batching.runner import Predict, Runner
from service.engine.weights import Model
from service.jobs import EditJob, Event, Failed, GenerateJob, Job, Receipt, SamplingRequest

log = logging.getLogger(__name__)

RATIOS = tuple(0.05 * 1.25**rung for rung in range(10))  # of a picture: one for each rung of a bucket's rows
PIECES = (1, 4)  # squares along an edge, together of that ratio: whole regions and ragged ones
STORE_BYTES = 4 << 30
STEPS = SamplingRequest(num_inference_steps=5)  # those that record cross-attention, and those that do not


def warm_up(model: Model, predict: Predict) -> None:
    """Draws a picture, and edits it in small and large regions and by its words, by jobs like any others.

    These regions are of the buckets of three quarters of the published masks; the passes of others are captured when
    they come. A failure is logged: it would meet every job, too.
    """
    begin = time.perf_counter()
    store = Store(STORE_BYTES, pinned=model.device.type == "cuda")
    with closing(store):
        *events, receipt = _run(model, store, GenerateJob("warm", STEPS), predict)
        if isinstance(receipt, Receipt):
            width, height = (side // model.latent_scale for side in (model.defaults.width, model.defaults.height))
            masks = [region(width, height, ratio, pieces) for ratio in RATIOS for pieces in PIECES]
            jobs = [EditJob("warmer", receipt.image_id, edit_mask=mask, mask_mode="given") for mask in masks]
            for job in [*jobs, EditJob("warmer", receipt.image_id)]:
                events += _run(model, store, job, predict)
    for event in [*events, receipt]:
        if isinstance(event, Failed):
            log.error("warming up failed", exc_info=event.error)
            return
    log.info("warmed up in %.1f s", time.perf_counter() - begin)


def region(width: int, height: int, ratio: float, pieces: int) -> Image.Image:
    """A mask of so many latent positions: this part of them, in so many rectangles along each edge; white changes."""
    mask, across, down = Image.new("L", (width, height)), width // pieces, height // pieces
    right, bottom = (max(1, round(side * ratio**0.5)) for side in (across, down))
    for column, row in product(range(pieces), repeat=2):
        left, top = column * across, row * down
        mask.paste(255, (left, top, left + right, top + bottom))
    return mask


def _run(model: Model, store: Store, job: Job, predict: Predict) -> Iterator[Event]:
    runner = Runner(model, store, Limits(), predict=predict)
    runner.add("warm-up", job)
    while not runner.idle:
        yield from (event for _, event in runner.step())
