"""Rules of edits, compared: the frozen edits of postcard under several of them, judged.

python -m loadtests.rules margin|detection|storage [--pairs N] [--json] [--sheet FILE.png]

`margin`: 0, 1 and 2 latent positions computed beyond the edit mask. `detection`: probes, and the paper's first steps.
`storage`: what recordings are kept in, with the bytes of a source's.
For each: successful edits and kept attributes (the judge's word), the mean edited ratio, multiplications as a part of
drawing the picture again (detection included), how much the masks have in common with the first rules' (intersection
over union), and for each `paste_margin` the step that pasting adds between neighbouring pixels, in levels of 255,
against the edited latents decoded whole (no seam). Below one level nobody sees it.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from tqdm import tqdm

from cache_store.store import MemoryStore
from service.batching.runner import run
from service.engine.codec import Pixels, decode, paste
from service.engine.core import Core
from service.engine.masks import Mask, widen
from service.engine.recording import Format, Storage
from service.engine.weights import Model, load_model
from service.jobs import Detection, EditJob, EditRules, GenerateJob, Outcome, SamplingRequest
from service.postcard.judge import Judge, load_judge
from service.postcard.pairs import EditPair, load_pairs

Rules = tuple[EditRules, Format]
RULES: dict[str, dict[str, Rules]] = {
    "margin": {f"margin {margin}": (EditRules(margin=margin), Format()) for margin in (0, 1, 2)},
    "detection": {f"detection {name}": (EditRules(detection=name), Format()) for name in get_args(Detection)},
    "storage": {f"storage {name}": (EditRules(), Format(name)) for name in get_args(Storage)},
}
PASTE_MARGINS = (0, 1, 2, 3, 4)
CELL = 192  # pixels of a picture on the sheet


@dataclass(frozen=True)
class Trial:
    """One pair under one rule."""

    pair: EditPair
    rules: str
    source: Pixels
    edited: Pixels
    edit_mask: Mask
    source_bytes: int
    macs_ratio: float  # of drawing it again, detection included
    added_steps: tuple[float, ...]  # by pasting, for each of PASTE_MARGINS


def main() -> None:
    """Runs the pairs and prints a line for each of the rules."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vary", choices=RULES)
    parser.add_argument("--pairs", type=int, default=60, help="so many of the frozen pairs, spread over their kinds")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, judge = load_model(), load_judge()
    pairs = load_pairs()
    chosen = pairs[:: max(1, len(pairs) // arguments.pairs)]
    rules = RULES[arguments.vary]
    trials = [list(trials_of(model, pair, rules)) for pair in tqdm(chosen, disable=None)]
    first, *_ = columns = list(zip(*trials, strict=True))
    table = [summary(judge, column, first) for column in columns]
    if arguments.json:
        print(json.dumps(table))
    else:
        for line in table:
            print("  ".join(f"{name} {value}" for name, value in line.items()))
    if arguments.sheet:
        sheet(trials).save(arguments.sheet)


def trials_of(model: Model, pair: EditPair, rules: Mapping[str, Rules]) -> Iterator[Trial]:
    """One pair under each of the rules."""
    for name, (each, form) in rules.items():
        recording_model, store = replace(model, format=form), MemoryStore(2 << 30)
        draw = GenerateJob(pair.source_prompt, SamplingRequest(seed=pair.seed))
        source, source_bytes = _outcome(recording_model, store, draw), store.num_bytes
        edit = _outcome(recording_model, store, EditJob(pair.prompt, image_id=source.receipt.image_id, rules=each))
        if edit.mask is None:
            raise ValueError("an edit tells its mask")
        yield Trial(
            pair,
            name,
            _pixels(source),
            _pixels(edit),
            edit.mask.edit_mask,
            source_bytes,
            edit.receipt.macs_computed / max(1, edit.receipt.macs_dense),
            _added_steps(model, store, source, edit),
        )


def summary(judge: Judge, trials: Sequence[Trial], first: Sequence[Trial]) -> dict[str, object]:
    """Means over the pairs; masks are compared with those of `first`."""
    sources = judge.attributes_of(_batch([trial.source for trial in trials]))
    edits = judge.attributes_of(_batch([trial.edited for trial in trials]))
    kept = [
        attribute in after
        for trial, before, after in zip(trials, sources, edits, strict=True)
        for attribute in trial.pair.kept & before
    ]
    ratios = {
        kind: round(_mean(trial.edit_mask.mean() for trial in trials if trial.pair.kind == kind), 3)
        for kind in dict.fromkeys(trial.pair.kind for trial in trials)
    }
    added = np.array([trial.added_steps for trial in trials if trial.added_steps]).mean(0)
    return {
        "rules": trials[0].rules,
        "pairs": len(trials),
        "success": round(_mean(t.pair.is_success(seen) for t, seen in zip(trials, edits, strict=True)), 3),
        "kept": round(_mean(kept), 3),
        "edited_ratio": round(_mean(trial.edit_mask.mean() for trial in trials), 3),
        "edited_ratio_by_kind": ratios,
        "source_mb": round(_mean(trial.source_bytes for trial in trials) / 1e6, 1),
        "macs_ratio": round(_mean(trial.macs_ratio for trial in trials), 3),
        "mask_iou": round(_mean(_iou(t.edit_mask, f.edit_mask) for t, f in zip(trials, first, strict=True)), 3),
        "step_at_paste_margin": {
            width: round(float(step), 2) for width, step in zip(PASTE_MARGINS, added, strict=True)
        },
    }


def sheet(trials: Sequence[Sequence[Trial]]) -> Image.Image:
    """A row for each pair: source, then its edit under each of the rules."""
    page = Image.new("RGB", ((1 + len(trials[0])) * CELL, len(trials) * (CELL + 16)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for number, row in enumerate(trials):
        top = number * (CELL + 16)
        draw.text((2, top), f"{row[0].pair.source_prompt} -> {row[0].pair.prompt}", fill="black", font=font)
        for column, pixels in enumerate([row[0].source, *(trial.edited for trial in row)]):
            page.paste(Image.fromarray(pixels).resize((CELL, CELL)), (column * CELL, top + 15))
    return page


def _iou(one: Mask, other: Mask) -> float:
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 1.0


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _added_steps(model: Model, store: MemoryStore, source: Outcome, edit: Outcome) -> tuple[float, ...]:
    """For each paste margin; nothing where nothing was edited."""
    recording = store.open(edit.receipt.image_id)
    if recording is None or edit.mask is None or not edit.mask.edit_mask.any():
        return ()
    with recording:
        drawn = decode(model, Core.load(recording).latents[-1:]).pixels
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
