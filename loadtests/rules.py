"""How wide to compute and to paste: the frozen edits of postcard at margins 0, 1 and 2, judged.

python -m loadtests.margins [--pairs N] [--json] [--sheet FILE.png]

`margin`: latent positions computed beyond the edit mask: success, kept attributes, multiplications.
`paste_margin`: latent positions around it in which the source blends in: the step that this adds between neighbouring
pixels, in levels of 255, against the edited latents decoded whole (no seam). Below one level nobody sees it.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from tqdm import tqdm

from cache_store.store import MemoryStore
from service.batching.runner import run
from service.engine.codec import Pixels, decode, paste
from service.engine.core import Core
from service.engine.masks import widen
from service.engine.weights import Model, load_model
from service.jobs import EditJob, EditRules, GenerateJob, Outcome, SamplingRequest
from service.postcard.judge import Judge, load_judge
from service.postcard.pairs import EditPair, load_pairs

MARGINS = (0, 1, 2)
PASTE_MARGINS = (0, 1, 2, 3, 4)
CELL = 192  # pixels of a picture on the sheet


@dataclass(frozen=True)
class Trial:
    """One pair at one margin."""

    pair: EditPair
    margin: int
    source: Pixels
    edited: Pixels
    macs_ratio: float  # of drawing it again, detection included
    added_steps: tuple[float, ...]  # by pasting, for each of PASTE_MARGINS


def main() -> None:
    """Runs the pairs and prints a line for each margin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60, help="so many of the frozen pairs, spread over their kinds")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, judge = load_model(), load_judge()
    pairs = load_pairs()
    chosen = pairs[:: max(1, len(pairs) // arguments.pairs)]
    trials = [trial for pair in tqdm(chosen, disable=None) for trial in trials_of(model, pair)]
    table = [summary(judge, [trial for trial in trials if trial.margin == margin]) for margin in MARGINS]
    if arguments.json:
        print(json.dumps(table))
    else:
        for line in table:
            print("  ".join(f"{name} {value}" for name, value in line.items()))
    if arguments.sheet:
        sheet(trials).save(arguments.sheet)


def trials_of(model: Model, pair: EditPair) -> Iterator[Trial]:
    """One pair at each margin."""
    store = MemoryStore(2 << 30)
    source = _outcome(model, store, GenerateJob(pair.source_prompt, SamplingRequest(seed=pair.seed)))
    for margin in MARGINS:
        rules = replace(EditRules(), margin=margin)
        edit = _outcome(model, store, EditJob(pair.prompt, image_id=source.receipt.image_id, rules=rules))
        yield Trial(
            pair,
            margin,
            _pixels(source),
            _pixels(edit),
            edit.receipt.macs_computed / max(1, edit.receipt.macs_dense),
            _added_steps(model, store, source, edit),
        )


def summary(judge: Judge, trials: Sequence[Trial]) -> dict[str, object]:
    """Means over the pairs of one margin."""
    sources = judge.attributes_of(_batch([trial.source for trial in trials]))
    edits = judge.attributes_of(_batch([trial.edited for trial in trials]))
    kept = [
        attribute in after
        for trial, before, after in zip(trials, sources, edits, strict=True)
        for attribute in trial.pair.kept & before
    ]
    added = np.array([trial.added_steps for trial in trials if trial.added_steps]).mean(0)
    return {
        "margin": trials[0].margin,
        "pairs": len(trials),
        "success": round(float(np.mean([t.pair.is_success(seen) for t, seen in zip(trials, edits, strict=True)])), 3),
        "kept": round(float(np.mean(kept)), 3),
        "macs_ratio": round(float(np.mean([trial.macs_ratio for trial in trials])), 3),
        "step_at_paste_margin": {
            width: round(float(step), 2) for width, step in zip(PASTE_MARGINS, added, strict=True)
        },
    }


def sheet(trials: Sequence[Trial]) -> Image.Image:
    """A row for each pair: source, then its edit at each margin."""
    rows = [trials[i : i + len(MARGINS)] for i in range(0, len(trials), len(MARGINS))]
    page = Image.new("RGB", ((1 + len(MARGINS)) * CELL, len(rows) * (CELL + 16)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for number, row in enumerate(rows):
        top = number * (CELL + 16)
        draw.text((2, top), f"{row[0].pair.source_prompt} -> {row[0].pair.prompt}", fill="black", font=font)
        for column, pixels in enumerate([row[0].source, *(trial.edited for trial in row)]):
            page.paste(Image.fromarray(pixels).resize((CELL, CELL)), (column * CELL, top + 15))
    return page


def _added_steps(model: Model, store: MemoryStore, source: Outcome, edit: Outcome) -> tuple[float, ...]:
    """For each paste margin; nothing where nothing was edited."""
    recording = store.open(edit.receipt.image_id)
    if recording is None or edit.mask is None or not edit.mask.edit_mask.any():
        return ()
    with recording:
        drawn = decode(model, Core.load(recording).latents[-1:])
    return tuple(_added_step(_pixels(source), drawn, edit.mask.edit_mask, width) for width in PASTE_MARGINS)


def _added_step(source: Pixels, drawn: Pixels, edit_mask: np.ndarray, paste_margin: int) -> float:
    """Mean over neighbouring pixels of the rim, from the mask's last pixel to the first that is the source's."""
    scale = source.shape[0] // edit_mask.shape[0]
    inside = np.kron(edit_mask, np.ones((scale, scale), bool))
    added = paste(source, drawn, edit_mask, paste_margin).astype(int) - drawn
    rim = widen(inside, paste_margin * scale + 1) & ~inside
    steps = [np.abs(np.diff(added, axis=axis)).mean(-1)[np.delete(rim, 0, axis)] for axis in (0, 1)]
    return float(np.concatenate(steps).mean()) if rim.any() else 0.0


def _outcome(model: Model, store: MemoryStore, job: GenerateJob | EditJob) -> Outcome:
    return Outcome.of(run(model, store, job))


def _pixels(outcome: Outcome) -> Pixels:
    if outcome.image is None:
        raise ValueError("a dry run has no image")
    return np.asarray(outcome.image.image)


def _batch(pictures: Sequence[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


if __name__ == "__main__":
    main()
