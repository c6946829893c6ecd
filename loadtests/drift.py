"""How far may a picture be edited away from what its edits read? Chains of edits of postcard, judged and compared.

An edit reads norm statistics, and all that it does not compute, of a recording that computed everything; edits of edits
replace more and more of that picture, and the statistics stay. Chains of edits of every kind, every second chain of
objects alone. Where the sky or the land changes, the mask is given (20 of 32 rows, from above or from below), elsewhere
it is found. Each sparse edit is made three times, under one mask:

    drifted    of the chain, as the service would make it without a limit; the chain goes on with it
    fresh      of the same picture recorded anew: its latents shown to the network again, all rows and statistics kept
    dense      all positions computed: what the two others are to be

In levels of 255 inside the mask: how far the two are off, as means over edits and of the worst, and by how much drift
is farther, with its standard error. By the judge's word: how many edits succeed.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from cache_store.store import Recording, Store
from loadtests.conditions import conditions
from service.batching.runner import run
from service.engine.call import Call
from service.engine.canvas import Canvas
from service.engine.codec import Pixels
from service.engine.core import Core
from service.engine.denoise import Background, Denoising, Steps
from service.engine.masks import Mask
from service.engine.predict import predict
from service.engine.receipts import Tally
from service.engine.sampling import make_sampler
from service.engine.text import read_branches
from service.engine.weights import Model, load_model
from service.jobs import EditJob, EditRules, GenerateJob, Job, Outcome, SamplingRequest
from service.postcard.judge import Judge, load_judge
from service.postcard.pairs import EDITS, EditPair, plain_prompt
from service.postcard.scenes import Scene, sample_scene

WAYS = ("drifted", "fresh", "dense")
EDGES = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)  # of what was replaced before
GIVEN = {"sky": slice(None, 20), "land": slice(12, None)}  # of 32 rows of latent positions
SCALE = 8  # pixels of a latent position
MOST_OBJECTS = 2  # the kinds of edits know no more


@dataclass(frozen=True)
class Link:
    """One sparse edit of a chain."""

    pair: EditPair
    replaced_ratio: float  # of its source, before it
    depth: int  # of its source
    edit_mask: Mask
    pictures: tuple[Pixels, ...]  # in the order of `WAYS`
    successes: tuple[bool, ...]  # the same

    @cached_property
    def levels_off(self) -> tuple[float, float]:
        """Drifted and fresh: the mean distance from dense inside the mask."""
        inside = _wide(self.edit_mask)
        drifted, fresh, dense = (picture[inside].astype(int) for picture in self.pictures)
        return float(np.abs(drifted - dense).mean()), float(np.abs(fresh - dense).mean())

    def as_row(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "seed": self.pair.seed,
            "kind": self.pair.kind,
            "replaced_ratio": self.replaced_ratio,
            "depth": self.depth,
            "edited_ratio": float(self.edit_mask.mean()),
            "levels_off": dict(zip(WAYS, self.levels_off, strict=False)),
            "success": dict(zip(WAYS, self.successes, strict=True)),
        }


def chain(model: Model, judge: Judge, seed: int, num_edits: int, sampling: SamplingRequest) -> Iterator[Link]:
    """The sparse edits of one; those that are dense or change nothing are gone on from, or passed over."""
    rng, store = random.Random(seed), Store(4 << 30)
    scene = _first_scene(rng)
    source = _run(model, store, GenerateJob(plain_prompt(scene), replace(sampling, seed=seed)))
    kinds = list(EDITS) if seed % 2 == 0 else [kind for kind in EDITS if kind not in GIVEN]
    for _ in range(num_edits):
        kind, edited = _edited(scene, kinds, rng)
        pair = EditPair(kind, plain_prompt(scene), plain_prompt(edited), seed)
        source, link = next_link(model, judge, store, source, pair)
        scene = edited
        if link is not None:
            yield link


def next_link(model: Model, judge: Judge, store: Store, source: Outcome, pair: EditPair) -> tuple[Outcome, Link | None]:
    """The edit that the chain goes on with; the three of them, where it is sparse."""
    job = EditJob(pair.prompt, source.receipt.image_id, rules=EditRules(most_replaced_ratio=1.0), **_mask_of(pair.kind))
    drifted = _run(model, store, job)
    if drifted.mask is None or {fallback.stage for fallback in drifted.receipt.fallbacks} & {"mask", "denoise"}:
        return drifted, None
    with closing(_open(store, source.receipt.image_id)) as recording:
        again, depth = record_again(model, recording), recording.depth
        replaced = recording.activations.replaced_ratio("prediction") if recording.activations else 1.0
    given = replace(job, edit_mask=_image(drifted.mask.edit_mask), mask_mode="given")
    fresh, dense = _run(model, again, given), _run(model, store, replace(given, cache="off"))
    pictures = tuple(_pixels(outcome) for outcome in (drifted, fresh, dense))
    seen = judge.attributes_of(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))
    successes = tuple(pair.is_success(attributes) for attributes in seen)
    return drifted, Link(pair, replaced, depth, drifted.mask.edit_mask, pictures, successes)


def record_again(model: Model, recording: Recording) -> Store:
    """A store with the same picture, all rows and statistics computed from its own latents."""
    store, core = Store(4 << 30), Core.load(recording)
    canvas, num_steps = Canvas.of(model, core.sampling), core.sampling.num_inference_steps
    with canvas.draft(store, recording.id, with_maps=False) as draft:
        loop = Denoising(
            canvas=canvas,
            sampler=make_sampler(model, core.sampling.sampler, num_steps),
            text=read_branches(model, core.prompt, core.sampling),
            active=canvas.everything,
            stage="source",
            tally=Tally(),
            draft=draft,
            background=Background(torch.zeros(core.latents.shape[2:], dtype=torch.bool), core.latents),
        )
        _answer(model, loop.run(core.latents[:1], range(num_steps)))
        core.commit(draft)
    return store


def table(links: Sequence[Link]) -> list[dict[str, Any]]:
    """A row for all edits whose sources were replaced to like parts."""
    ranges = [(0.0, 0.0), *pairwise(EDGES)]
    within = [[link for link in links if _is_within(link.replaced_ratio, *edges)] for edges in ranges]
    return [{"range": edges} | summary(some) for edges, some in zip(ranges, within, strict=True) if some]


def summary(links: Sequence[Link]) -> dict[str, Any]:
    """Of edits that are alike."""
    off = np.array([link.levels_off for link in links])  # [edits, 2]
    more = off[:, 0] - off[:, 1]
    error = more.std(ddof=1) / len(links) ** 0.5 if len(links) > 1 else float("nan")
    successes = np.array([link.successes for link in links]).sum(0).tolist()
    return {
        "edits": len(links),
        "replaced_ratio": _mean([link.replaced_ratio for link in links]),
        "depth": _mean([link.depth for link in links]),
        "edited_ratio": _mean([link.edit_mask.mean() for link in links]),
        "levels_off": dict(zip(WAYS, off.mean(0).round(2).tolist(), strict=False)),
        "worst": dict(zip(WAYS, off.max(0).round(1).tolist(), strict=False)),
        "by_drift": round(float(more.mean()), 2),
        "by_drift_error": None if np.isnan(error) else round(float(error), 2),
        "success": dict(zip(WAYS, successes, strict=True)),
    }


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """The table for people."""
    lines = [
        "replaced   edits  depth   levels off: drifted  fresh   worst: drifted  fresh   by drift    success of each"
    ]
    for row in rows:
        off, worst, success = (row[name] for name in ("levels_off", "worst", "success"))
        lines.append(
            f"{row['range'][0]:.3f}-{row['range'][1]:.3f}  {row['edits']:4}  {row['depth']:5.1f}"
            f"  {off['drifted']:19.1f}  {off['fresh']:5.1f}  {worst['drifted']:14.1f}  {worst['fresh']:5.1f}"
            f"  {row['by_drift']:5.1f} +- {row['by_drift_error'] or 0:3.1f}  {list(success.values())}"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--edits", type=int, default=8, help="of each")
    parser.add_argument("--steps", type=int, help="of the sampler; by default the model's own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--save", type=Path, metavar="DIR", help="also keep it there, as drift.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, judge, before = load_model(), load_judge(), conditions(torch.device("cpu"), seed=0)
    sampling = SamplingRequest(num_inference_steps=arguments.steps)
    seeds = tqdm(range(arguments.chains), disable=None)
    links = [link for seed in seeds for link in chain(model, judge, seed, arguments.edits, sampling)]
    rows = table(links)
    result = {"conditions": before, "table": rows, "links": [link.as_row() for link in links]}
    result = json.loads(json.dumps(result), parse_float=lambda digits: round(float(digits), 3))
    if arguments.save:
        arguments.save.mkdir(parents=True, exist_ok=True)
        (arguments.save / "drift.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result) if arguments.json else as_text(rows))


def _answer(model: Model, steps: Steps) -> None:
    """Runs a loop of network calls to its end."""
    answer = None
    with torch.no_grad():
        while True:
            try:
                call = steps.send(answer)
            except StopIteration:
                return
            if isinstance(call, Call):
                (answer,) = predict(model.unet, [call])


def _mask_of(kind: str) -> dict[str, Any]:
    """What an edit job is told of its mask."""
    if kind not in GIVEN:
        return {}
    mask = np.zeros((32, 32), bool)
    mask[GIVEN[kind]] = True
    return {"edit_mask": _image(mask), "mask_mode": "given"}


def _image(mask: Mask) -> Image.Image:
    return Image.fromarray(_wide(mask).astype(np.uint8) * 255)


def _wide(mask: Mask) -> Mask:
    """In pixels."""
    return np.kron(mask, np.ones((SCALE, SCALE), bool))


def _is_within(ratio: float, low: float, high: float) -> bool:
    return low < ratio <= high or ratio == low == high


def _first_scene(rng: random.Random) -> Scene:
    return next(scene for scene in (sample_scene(rng) for _ in count()) if len(scene.objects) <= MOST_OBJECTS)


def _edited(scene: Scene, kinds: Sequence[str], rng: random.Random) -> tuple[str, Scene]:
    """An edit of one of these kinds that can be."""
    while True:
        kind = rng.choice(kinds)
        edited = EDITS[kind](scene, rng)
        if edited is not None and len(edited.objects) <= MOST_OBJECTS:
            return kind, edited


def _open(store: Store, recording_id: str) -> Recording:
    recording = store.open(recording_id)
    if recording is None:
        raise ValueError("a picture is recorded")
    return recording


def _run(model: Model, store: Store, job: Job) -> Outcome:
    return Outcome.of(run(model, store, job))


def _pixels(outcome: Outcome) -> Pixels:
    if outcome.image is None:
        raise ValueError("a dry run has no image")
    return np.asarray(outcome.image.image)


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 3)


if __name__ == "__main__":
    main()
