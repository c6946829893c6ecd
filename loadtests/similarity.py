"""From which likeness on is a recording edited instead of drawing anew? `python -m loadtests.similarity --help`.

A stream of made-up prompts, each an edit that names no source. Sessions begin at popular prompts, by Zipf's law, and
go on with edits; some word their scenes in ways of their own. Nothing is ever evicted, so what is recorded before a
request is the same under all thresholds, and the catalog's decisions follow from embeddings and words alone: exact.

What a decision costs and is worth is estimated. Sources that any threshold chooses are put into cells between the
thresholds; from each cell pairs are drawn at random, and each is edited there and back with a seed of its own: as many
words change, the likeness is the same, and the two drawings are also what the edits are compared with. `seconds` are
the processor's own (other programs may run); success is the judge's word that a picture shows what only the new words
name, and nothing that only the old ones do. Cells are weighed as the stream hits them; standard errors are of the
sample, a pair counting once, with one variance within all cells. Sources here are drawings: what an edit of an edit
loses is not seen.

`saved` is the part of the seconds of drawing all anew; `net` is what remains when every edit that fails where the
drawing succeeds is followed by that drawing. `edge` is the success of edits, as a part of drawings', among those that
the next stricter likeness would not admit, or the next smaller number of words: the lesser of the two, for near edits
are so many that a mean over all hides the far ones. The default is the most net where the edge is at least LEAST_EDGE.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from cache_store.index import Entry
from cache_store.index.memory import MemoryIndex
from cache_store.store import MemoryStore
from loadtests.conditions import conditions
from loadtests.traces import CHAIN, EXPONENT
from service.batching.runner import run
from service.engine.catalog import NUM_HITS, Nearness, space_of
from service.engine.prompts import changed_words
from service.engine.sampling import resolve
from service.engine.text import embedding
from service.engine.weights import Model, load_model
from service.jobs import EditJob, GenerateJob, Job, Outcome, SamplingRequest
from service.postcard.judge import Judge, load_judge
from service.postcard.pairs import EDITS, EditPair, plain_prompt
from service.postcard.scenes import Scene, caption, sample_scene

SIMILARITIES = (0.95, 0.9, 0.8, 0.6)
CHANGED_WORDS = (2, 4, 6, 9)
NUM_POPULAR = 80  # scenes that sessions begin with
MOST_OBJECTS = 2  # of those: the kinds of edits know no more
OWN_WORDING_RATIO = 0.3  # of sessions
LEAST_EDGE = 0.8  # what the model's own gate asks of edits that name their source

Cell = tuple[float, int]  # the strictest thresholds that admit it
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """A recorded prompt beside the one that is asked for."""

    source_prompt: str
    prompt: str
    similarity: float
    num_changed: int

    @property
    def cell(self) -> Cell | None:
        """None where no threshold admits it."""
        similarities = [least for least in SIMILARITIES if self.similarity >= least]
        words = [most for most in CHANGED_WORDS if self.num_changed <= most]
        return (similarities[0], words[0]) if similarities and words else None


@dataclass(frozen=True)
class Measured:
    """A pair edited there and back: means of the two."""

    found: Found
    success: float
    dense_success: float
    edit_seconds: float
    dense_seconds: float

    @property
    def cell(self) -> Cell:
        """Of the thresholds."""
        if self.found.cell is None:
            raise ValueError("found must be admitted by a threshold")
        return self.found.cell

    @property
    def values(self) -> Floats:  # [4]
        """Success, the drawing's success, and parts of a drawing's seconds: saved, and left when failures are redrawn.

        An edit that succeeds where the drawing does not counts against one that is the other way around.
        """
        saved = 1 - self.edit_seconds / self.dense_seconds
        return np.array([self.success, self.dense_success, saved, saved - (self.dense_success - self.success)])


def prompts_asked(rng: random.Random, num_requests: int) -> list[str]:
    """The stream."""
    scenes = (sample_scene(rng) for _ in count())
    popular = list(islice((scene for scene in scenes if len(scene.objects) <= MOST_OBJECTS), NUM_POPULAR))
    weights = [rank**-EXPONENT for rank in range(1, NUM_POPULAR + 1)]
    asked: list[str] = []
    while len(asked) < num_requests:
        scene, wording = rng.choices(popular, weights)[0], rng.random()
        asked.append(_worded(scene, wording))
        while rng.random() > 1 / CHAIN:
            scene = _edited(scene, rng)
            asked.append(_worded(scene, wording))
    return asked[:num_requests]


def sources_of(model: Model, asked: Sequence[str]) -> Iterator[list[Found]]:
    """For each request what the catalog looks at, nearest first; for words that are recorded, these alone."""
    index, space, recorded = MemoryIndex(), space_of(model, "", resolve(model, SamplingRequest())), set[str]()
    for prompt in asked:
        if prompt in recorded:
            yield [Found(prompt, prompt, 1.0, 0)]
            continue
        vector = embedding(model, prompt)
        hits = index.nearest(space, vector, NUM_HITS, -1.0)
        yield [
            Found(hit.entry.recording_id, prompt, hit.similarity, _num_changed(hit.entry.recording_id, prompt))
            for hit in hits
        ]
        recorded.add(prompt)
        index.admit(space, vector, Entry(prompt, "here", 1, "host", 0, 0.0))


def chosen(looked_at: Sequence[Found], nearness: Nearness) -> Found | None:
    """The source that the catalog takes."""
    for found in looked_at:
        if found.similarity >= nearness.min_similarity and found.num_changed <= nearness.max_changed_words:
            return found
    return None


def sample(rng: random.Random, stream: Sequence[Sequence[Found]], num_pairs: int) -> list[Found]:
    """Pairs that some threshold chooses, from each cell as the square root of how many it has, and at least one."""
    cells: dict[Cell, dict[Found, None]] = defaultdict(dict)
    for looked_at, most in product(stream, CHANGED_WORDS):
        found = chosen(looked_at, Nearness(min(SIMILARITIES), most))
        if found and found.cell and found.source_prompt != found.prompt:
            cells[found.cell][found] = None
    shuffled = [rng.sample(list(pairs), len(pairs)) for _, pairs in sorted(cells.items())]
    turns = [(turn / len(pairs) ** 0.5, found) for pairs in shuffled for turn, found in enumerate(pairs)]
    return [found for _, found in sorted(turns, key=lambda each: each[0])[:num_pairs]]


def measure_all(model: Model, pairs: Sequence[Found], num_inference_steps: int | None) -> list[Measured]:
    """Each pair with a seed of its own, once the processor is warm."""
    judge = load_judge()
    _timed(model, MemoryStore(1 << 30), GenerateJob("a sea", SamplingRequest(num_inference_steps=2)))
    return [
        measure(model, judge, found, SamplingRequest(seed, num_inference_steps))
        for seed, found in enumerate(tqdm(pairs, disable=None))
    ]


def measure(model: Model, judge: Judge, found: Found, sampling: SamplingRequest) -> Measured:
    """Draws both pictures and edits each into the other."""
    store, ways = MemoryStore(1 << 30), []
    one, other = found.source_prompt, found.prompt
    drawn = {prompt: _timed(model, store, GenerateJob(prompt, sampling)) for prompt in (one, other)}
    for source, prompt in ((one, other), (other, one)):
        pair = EditPair("", source, prompt, seed=0)
        edit, edit_seconds = _timed(model, store, EditJob(prompt, drawn[source][0].receipt.image_id))
        dense, dense_seconds = drawn[prompt]
        verdicts = [pair.is_success(shown) for shown in judge.attributes_of(_pixels(edit, dense))]
        ways.append((*verdicts, edit_seconds, dense_seconds))
    return Measured(found, *np.mean(ways, 0).tolist())


def curve(stream: Sequence[Sequence[Found]], measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """A row for each of the thresholds, the strictest first."""
    means, counts, deviations = cell_means(measured)
    dense_seconds = float(np.mean([each.dense_seconds for each in measured]))
    rows = []
    for min_similarity, max_changed_words in product(SIMILARITIES, CHANGED_WORDS):
        nearness = Nearness(min_similarity, max_changed_words)
        sources = [found for found in (chosen(looked_at, nearness) for looked_at in stream) if found]
        edits = Counter(found.cell for found in sources if found.cell and found.source_prompt != found.prompt)
        num_repeats, num_edits = len(sources) - edits.total(), edits.total()
        sums = sum((number * means[cell] for cell, number in edits.items()), np.zeros(4))
        squares = sum(number**2 / max(1, counts[cell]) for cell, number in edits.items())
        errors = deviations * np.sqrt(squares)
        success, dense_success, success_error = (np.array([*sums[:2], errors[0]]) / max(1, num_edits)).tolist()
        saved, net, saved_error, net_error = (
            np.array([num_repeats + sums[2], num_repeats + sums[3], *errors[2:]]) / len(stream)
        ).tolist()
        rows.append({
            "min_similarity": min_similarity,
            "max_changed_words": max_changed_words,
            "hit_ratio": len(sources) / len(stream),
            "repeats": num_repeats,
            "edits": num_edits,
            "sampled": sum(counts[cell] for cell in edits),
            "success": success,
            "success_error": success_error,
            "dense_success": dense_success,
            "saved": saved,
            "saved_error": saved_error,
            "saved_seconds": saved * len(stream) * dense_seconds,
            "net": net,
            "net_error": net_error,
            "edge": min(
                part_of_drawings({cell: number for cell, number in edits.items() if cell[0] == min_similarity}, means),
                part_of_drawings({cell: number for cell, number in edits.items() if cell[1] == max_changed_words}, means),
            ),
        })  # fmt: skip
    return rows


def cell_means(measured: Sequence[Measured]) -> tuple[Mapping[Cell, Floats], Counter[Cell], Floats]:
    """Means of `values` by cell (of all pairs, where a cell has none), numbers of pairs, and deviations within cells."""
    cells: dict[Cell, list[Floats]] = defaultdict(list)
    for each in measured:
        cells[each.cell].append(each.values)
    overall: Floats = np.mean([each.values for each in measured], 0)
    means = defaultdict(lambda: overall, {cell: np.mean(values, 0) for cell, values in cells.items()})
    within = sum((np.square(each.values - means[each.cell]) for each in measured), np.zeros(4))
    counts = Counter(each.cell for each in measured)
    return means, counts, np.sqrt(within / max(1, len(measured) - len(cells)))


def part_of_drawings(edits: Mapping[Cell, int], means: Mapping[Cell, Floats]) -> float:
    """Success of edits that fall into cells so often, as a part of their drawings' success; 1 of no edits."""
    success, dense_success, *_ = sum((number * means[cell] for cell, number in edits.items()), np.zeros(4)).tolist()
    return float(success / dense_success) if dense_success else 1.0


def default_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The default by the rule above; where nothing is good enough, the strictest."""
    return max((row for row in rows if row["edge"] >= LEAST_EDGE), key=lambda row: row["net"], default=rows[0])


def cell_rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """What was measured, by cell."""
    means, counts, _ = cell_means(measured)
    names = ("success", "dense_success", "saved", "net")
    return [
        {"min_similarity": cell[0], "max_changed_words": cell[1], "pairs": counts[cell]}
        | dict(zip(names, np.round(means[cell], 3).tolist(), strict=True))
        for cell in sorted(counts, key=lambda cell: (-cell[0], cell[1]))
    ]


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = ["likeness  words   hits  edits  pairs  success +-      drawn    saved +-      seconds    net +-      edge"]
    lines += [
        f"{row['min_similarity']:8}  {row['max_changed_words']:5}  {row['hit_ratio']:5.3f}  {row['edits']:5}"
        f"  {row['sampled']:5}  {row['success']:7.3f} {row['success_error']:5.3f}  {row['dense_success']:5.3f}"
        f"    {row['saved']:5.3f} {row['saved_error']:5.3f}    {row['saved_seconds']:7.0f}"
        f"  {row['net']:5.3f} {row['net_error']:5.3f}  {row['edge']:5.3f}"
        for row in result["curve"]
    ]
    best = result["default"]
    drawing = f"a drawing takes {result['dense_seconds']:.2f} s, all {result['requests']} {result['all_seconds']:.0f} s"
    return "\n".join([*lines, drawing, f"default: {best['min_similarity']}, {best['max_changed_words']} words"])


def main() -> None:
    """Prints the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=42, help="that are drawn and edited, both ways")
    parser.add_argument("--steps", type=int, help="of the sampler; by default the model's own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample", type=Path, metavar="FILE", help="a result: its pairs are not drawn again")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--save", type=Path, metavar="DIR", help="also keep it there, as similarity.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, rng = load_model(), random.Random(arguments.seed)
    stream = list(sources_of(model, prompts_asked(rng, arguments.requests)))
    if arguments.sample:
        kept = json.loads(arguments.sample.read_text(encoding="utf-8"))
        before = kept["conditions"]
        measured = [Measured(**each | {"found": Found(**each["found"])}) for each in kept["sample"]]
    else:
        before = conditions(torch.device("cpu"), arguments.seed)
        measured = measure_all(model, sample(rng, stream, arguments.pairs), arguments.steps)
    dense_seconds = float(np.mean([each.dense_seconds for each in measured]))
    rows = curve(stream, measured)
    result = {
        "conditions": before,
        "requests": arguments.requests,
        "pairs": len(measured),
        "dense_seconds": dense_seconds,
        "all_seconds": dense_seconds * arguments.requests,
        "default": default_of(rows),
        "curve": rows,
        "cells": cell_rows(measured),
        "sample": [asdict(each) for each in measured],
    }
    result = json.loads(json.dumps(result), parse_float=lambda digits: round(float(digits), 4))
    if arguments.save:
        arguments.save.mkdir(parents=True, exist_ok=True)
        (arguments.save / "similarity.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result) if arguments.json else table(result))


def _worded(scene: Scene, wording: float) -> str:
    """In the one plain order, or in the way that somebody always words such scenes."""
    return caption(scene, random.Random(wording)) if wording < OWN_WORDING_RATIO else plain_prompt(scene)


def _edited(scene: Scene, rng: random.Random) -> Scene:
    """An edit of a kind that can be."""
    while True:
        edited = rng.choice(list(EDITS.values()))(scene, rng)
        if edited is not None and len(edited.objects) <= MOST_OBJECTS:
            return edited


def _num_changed(source_prompt: str, prompt: str) -> int:
    return sum(map(len, changed_words(source_prompt, prompt)))


def _timed(model: Model, store: MemoryStore, job: Job) -> tuple[Outcome, float]:
    """The outcome, and the processor's seconds."""
    begin = time.process_time()
    outcome = Outcome.of(run(model, store, job))
    return outcome, time.process_time() - begin


def _pixels(*outcomes: Outcome) -> torch.Tensor:  # uint8 [N, 3, H, W]
    pictures = [np.array(outcome.image.image) for outcome in outcomes if outcome.image]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


if __name__ == "__main__":
    main()
