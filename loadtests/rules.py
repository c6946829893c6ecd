"""Rules of edits, compared: the frozen edits of postcard under several of them, judged.

python -m loadtests.rules margin|detection|storage|thinning|decoding|deep [--pairs N] [--json] [--sheet FILE.png]

`margin`: 0, 1 and 2 latent positions computed beyond the edit mask. `detection`: probes, and the paper's first steps.
`storage`: what recordings are kept in, with the bytes of a source's. `thinning`: each step down from all in half.
`decoding`: all of the edited latents, or rows. `deep`: every step complete, or every second, third and fifth.
For each: successful edits and kept attributes (the judge's word), the mean edited ratio, multiplications as a part of
drawing the picture again (detection included), how much the masks have in common with the first rules' (intersection
over union). In levels of 255, against the edited latents decoded whole (no seam): the step that pasting adds between
neighbouring pixels, as served and for each `paste_margin`, below one of which nobody sees it; and by how much colours
inside the mask are off where rows were decoded (the mean over edits of each one's mean, its worst, the largest at all).
The same of all edits, against their pictures under the first rules.
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
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from tqdm import tqdm

from cache_store.store import Store
from loadtests.bytes import THINNED
from loadtests.conditions import conditions
from service.batching.runner import run
from service.engine.codec import DENSE_RATIO, Pixels, decode, paste
from service.engine.core import Core
from service.engine.masks import Mask, widen
from service.engine.recording import Format, Storage
from service.engine.weights import Model, load_model
from service.jobs import Decoding, Detection, EditJob, EditRules, GenerateJob, Outcome, SamplingRequest
from service.postcard.judge import Judge, load_judge
from service.postcard.pairs import EditPair, load_pairs

Rules = tuple[EditRules, Format]
RULES: dict[str, dict[str, Rules]] = {
    "margin": {f"margin {margin}": (EditRules(margin=margin), Format()) for margin in (0, 1, 2)},
    "detection": {f"detection {name}": (EditRules(detection=name), Format()) for name in get_args(Detection)},
    "storage": {f"storage {name}": (EditRules(), Format(name)) for name in get_args(Storage)},
    "thinning": {name: (EditRules(), form) for name, form in THINNED.items()},
    "deep": {f"deep_every {every}": (EditRules(deep_every=every), Format()) for every in (1, 2, 3, 5)},
    "decoding": {f"decoding {name}": (EditRules(decoding=name), Format()) for name in get_args(Decoding)},
}
PASTE_MARGINS = (0, 1, 2, 3, 4)
CELL = 192  # pixels of a picture on the sheet


@dataclass(frozen=True)
class Trial:
    """One pair under one rule."""

    pair: EditPair
    rules: str
    paste_margin: int
    source: Pixels
    edited: Pixels  # as served
    whole: Pixels  # the edited latents, all decoded, nothing pasted
    edit_mask: Mask
    source_bytes: int
    moved_bytes: int  # read of it by the edit
    macs_ratio: float  # of drawing it again, detection included

    @property
    def is_on_rows(self) -> bool:
        """Whether `decoding: rows` decodes rows of it, and not everything because that is quicker."""
        return bool(self.edit_mask.any() and widen(self.edit_mask, self.paste_margin).mean() <= DENSE_RATIO["cpu"])

    def errors(self, right: Pixels) -> NDArray[np.int_]:
        """Of the colours inside the mask, in levels of 255."""
        scale = self.source.shape[0] // self.edit_mask.shape[0]
        inside = np.kron(self.edit_mask, np.ones((scale, scale), bool))
        return np.abs(self.edited.astype(int) - right)[inside]


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
    model, judge, before = load_model(), load_judge(), conditions(torch.device("cpu"), seed=0)
    pairs = load_pairs()
    chosen = pairs[:: max(1, len(pairs) // arguments.pairs)]
    rules = RULES[arguments.vary]
    trials = [list(trials_of(model, pair, rules)) for pair in tqdm(chosen, disable=None)]
    first, *_ = columns = list(zip(*trials, strict=True))
    table = [summary(judge, column, first) for column in columns]
    if arguments.json:
        print(json.dumps({"conditions": before, "table": table}))
    else:
        for line in table:
            print("  ".join(f"{name} {value}" for name, value in line.items()))
    if arguments.sheet:
        sheet(trials).save(arguments.sheet)


def trials_of(model: Model, pair: EditPair, rules: Mapping[str, Rules]) -> Iterator[Trial]:
    """One pair under each of the rules."""
    for name, (each, form) in rules.items():
        recording_model, store = replace(model, format=form), Store(2 << 30)
        draw = GenerateJob(pair.source_prompt, SamplingRequest(seed=pair.seed))
        source, source_bytes = _outcome(recording_model, store, draw), store.num_bytes
        edit = _outcome(recording_model, store, EditJob(pair.prompt, image_id=source.receipt.image_id, rules=each))
        if edit.mask is None:
            raise ValueError("an edit tells its mask")
        yield Trial(
            pair,
            name,
            each.paste_margin,
            _pixels(source),
            _pixels(edit),
            _whole(model, store, edit),
            edit.mask.edit_mask,
            source_bytes,
            edit.receipt.bytes_moved,
            edit.receipt.macs_computed / max(1, edit.receipt.macs_dense),
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
    edited = [trial for trial in trials if trial.edit_mask.any()]
    served = [_added_step(trial.edited, trial, trial.paste_margin) for trial in edited]
    return {
        "rules": trials[0].rules,
        "pairs": len(trials),
        "success": round(_mean(t.pair.is_success(seen) for t, seen in zip(trials, edits, strict=True)), 3),
        "kept": round(_mean(kept), 3),
        "edited_ratio": round(_mean(trial.edit_mask.mean() for trial in trials), 3),
        "edited_ratio_by_kind": ratios,
        "source_mb": round(_mean(trial.source_bytes for trial in trials) / 1e6, 1),
        "moved_mb": round(_mean(trial.moved_bytes for trial in trials) / 1e6, 1),
        "macs_ratio": round(_mean(trial.macs_ratio for trial in trials), 3),
        "mask_iou": round(_mean(_iou(t.edit_mask, f.edit_mask) for t, f in zip(trials, first, strict=True)), 3),
        "step": round(_mean(served), 2),
        "step_at_paste_margin": {width: round(_mean(_pasted_steps(edited, width)), 2) for width in PASTE_MARGINS},
        "levels_off": {
            kind: _levels_off([(t, t.whole) for t in trials if t.pair.kind == kind and t.is_on_rows]) for kind in ratios
        },
        "levels_from_first": {
            kind: _levels_off(
                [
                    (t, f.edited)
                    for t, f in zip(trials, first, strict=True)
                    if t.edit_mask.any() and t.pair.kind in kinds
                ]
            )
            for kind, kinds in {"all": [*ratios], **{kind: [kind] for kind in ratios}}.items()
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


def _levels_off(compared: Sequence[tuple[Trial, Pixels]]) -> dict[str, float] | None:
    """Of the colours inside the masks of edits, against other pictures; None where there is no edit."""
    errors = [trial.errors(right) for trial, right in compared]
    if not errors:
        return None
    means = [float(of_one.mean()) for of_one in errors]
    largest = max(int(of_one.max()) for of_one in errors)
    return {"edits": len(means), "mean": round(_mean(means), 2), "worst_mean": round(max(means), 2), "max": largest}


def _pasted_steps(trials: Sequence[Trial], width: int) -> list[float]:
    """Of the whole decoded picture, pasted so wide."""
    return [_added_step(paste(trial.source, trial.whole, trial.edit_mask, width), trial, width) for trial in trials]


def _added_step(pasted: Pixels, trial: Trial, paste_margin: int) -> float:
    """Mean over neighbouring pixels of the rim, from the mask's last pixel to the first that is the source's."""
    scale = trial.source.shape[0] // trial.edit_mask.shape[0]
    inside = np.kron(trial.edit_mask, np.ones((scale, scale), bool))
    added = pasted.astype(int) - trial.whole
    rim = widen(inside, paste_margin * scale + 1) & ~inside
    steps = [np.abs(np.diff(added, axis=axis)).mean(-1)[np.delete(rim, 0, axis)] for axis in (0, 1)]
    return float(np.concatenate(steps).mean()) if rim.any() else 0.0


def _whole(model: Model, store: Store, edit: Outcome) -> Pixels:
    """What the edited latents are without pasting."""
    recording = store.open(edit.receipt.image_id)
    if recording is None:
        raise ValueError("an edit is recorded")
    with recording:
        return decode(model, Core.load(recording).latents[-1:]).pixels


def _outcome(model: Model, store: Store, job: GenerateJob | EditJob) -> Outcome:
    return Outcome.of(run(model, store, job))


def _pixels(outcome: Outcome) -> Pixels:
    if outcome.image is None:
        raise ValueError("a dry run has no image")
    return np.asarray(outcome.image.image)


def _batch(pictures: Sequence[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


if __name__ == "__main__":
    main()
