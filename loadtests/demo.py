"""A chain of edits on the embedded model, and a sheet that shows each: source, mask, edit, and drawing it all again.

python -m loadtests.demo [--out FILE.png] [--seed N]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from cache_store.store import Store
from service.batching.runner import run
from service.engine.given_mask import to_png_array
from service.engine.weights import Model, load_model
from service.jobs import EditJob, GenerateJob, Job, Outcome, Receipt, SamplingRequest

CHAIN = (
    "a mountain under a cloudy sky",
    "a snow mountain under a cloudy sky",
    "a snow mountain under a cloudy sky with a red house",
    "a snow mountain under a cloudy sky with a red house and fireworks",
)
OUT = Path(__file__).parent / "results" / "demo.png"
TINT = (255, 0, 110)
GAP, CAPTION = 8, 36  # pixels


@dataclass(frozen=True)
class Row:
    """One edit, and what it is to be compared with."""

    prompt: str
    source: Image.Image
    edit: Outcome
    again: Outcome  # the same prompt and seed, drawn densely


def main() -> None:
    """Runs the chain and writes the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = chain(load_model(), CHAIN, arguments.seed)
    sheet(rows).save(arguments.out)
    print(f"{arguments.out.name}: {len(rows)} edits, look at it", file=sys.stderr)


def chain(model: Model, prompts: Sequence[str], seed: int, steps: int | None = None) -> list[Row]:
    """Draws the first prompt, then edits it to each of the next; every one also drawn again for comparison."""
    store, sampling = Store(2 << 30), SamplingRequest(seed=seed, num_inference_steps=steps)
    last = _outcome(model, store, GenerateJob(prompts[0], sampling))
    rows = []
    for prompt in prompts[1:]:
        edit = _outcome(model, store, EditJob(prompt, image_id=_image_id(last)))
        again = _outcome(model, store, GenerateJob(prompt, sampling, cache="off"))
        rows.append(Row(prompt, _image(last), edit, again))
        last = edit
    return rows


def sheet(rows: Sequence[Row]) -> Image.Image:
    """A row for each edit, with seconds and multiplications under the pictures."""
    width, height = rows[0].source.size
    page = Image.new("RGB", (4 * (width + GAP) + GAP, len(rows) * (height + CAPTION + GAP) + GAP + 20), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for column, title in enumerate(("source", "mask", "edit", "drawn again, same seed")):
        draw.text((GAP + column * (width + GAP), 4), title, fill="black", font=font)
    for number, row in enumerate(rows):
        top = 20 + GAP + number * (height + CAPTION + GAP)
        cells = (
            (row.source, ""),
            (overlay(row), f"{row.edit.receipt.edited_ratio:.0%} of the picture"),
            (_image(row.edit), _cost(row.edit.receipt)),
            (_image(row.again), _cost(row.again.receipt)),
        )
        for column, (picture, caption) in enumerate(cells):
            left = GAP + column * (width + GAP)
            page.paste(picture, (left, top))
            draw.text((left, top + height + 2), caption, fill="black", font=font)
        draw.text((GAP, top + height + 18), row.prompt, fill=(90, 90, 90), font=font)
    return page


def overlay(row: Row) -> Image.Image:
    """The source, tinted where the edit changes it."""
    if row.edit.mask is None:
        return row.source
    edit_mask = row.edit.mask.edit_mask
    alpha = Image.fromarray(to_png_array(edit_mask, row.source.height // edit_mask.shape[0]) // 255 * np.uint8(140))
    return Image.composite(Image.new("RGB", row.source.size, TINT), row.source, alpha)


def _cost(receipt: Receipt) -> str:
    return f"{receipt.seconds['total']:.1f} s, {receipt.macs_computed / 1e9:.0f} GMAC"


def _outcome(model: Model, store: Store, job: Job) -> Outcome:
    return Outcome.of(run(model, store, job))


def _image(outcome: Outcome) -> Image.Image:
    if outcome.image is None:
        raise ValueError("a dry run has no image")
    return outcome.image.image


def _image_id(outcome: Outcome) -> str:
    if outcome.image is None:
        raise ValueError("a dry run has no image")
    return outcome.image.image_id


if __name__ == "__main__":
    main()
