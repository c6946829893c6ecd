"""From which likeness on is a recording edited instead of drawing anew? `python -m loadtests.similarity --help`.

A stream of made-up prompts, each an edit that names no source. Sessions begin at popular prompts, by Zipf's law, and
go on with edits; some word their scenes in ways of their own. Nothing is ever evicted, so what is recorded before a
request is the same under all thresholds, and the catalog's decisions follow from embeddings and words alone: exact.
With `--embedding-model` the embeddings are a sentence model's; thresholds of two makers are not comparable.

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
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from cache_store.index import Entry
from cache_store.index.memory import MemoryIndex
from cache_store.store import Store
from loadtests.conditions import conditions
from loadtests.prompt_stream import prompts_asked
from loadtests.similarity_curve import (
    CHANGED_WORDS,
    SIMILARITIES,
    Cell,
    Found,
    Measured,
    cell_rows,
    chosen,
    curve,
    default_of,
)
from service.batching.runner import run
from service.engine.catalog import NUM_HITS, Nearness, space_of
from service.engine.embedder import Embedder, open_embedder
from service.engine.prompts import changed_words
from service.engine.sampling import resolve
from service.engine.weights import Model, load_model
from service.jobs import EditJob, GenerateJob, Job, Outcome, SamplingRequest
from service.postcard.judge import Judge, load_judge
from service.postcard.pairs import EditPair


def sources_of(model: Model, asked: Sequence[str], embedder: Embedder) -> Iterator[list[Found]]:
    """For each request what the catalog looks at, nearest first; for words that are recorded, these alone."""
    index, recorded = MemoryIndex(), set[str]()
    space = space_of(model, embedder, "", resolve(model, SamplingRequest()))
    for prompt in asked:
        if prompt in recorded:
            yield [Found(prompt, prompt, 1.0, 0)]
            continue
        vector = embedder.embed(model, prompt)
        hits = index.nearest(space, vector, NUM_HITS, -1.0)
        yield [
            Found(hit.entry.recording_id, prompt, hit.similarity, _num_changed(hit.entry.recording_id, prompt))
            for hit in hits
        ]
        recorded.add(prompt)
        index.admit(space, vector, Entry(prompt, "here", 1, "host", 0, 0.0))


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
    _timed(model, Store(1 << 30), GenerateJob("a sea", SamplingRequest(num_inference_steps=2)))
    return [
        measure(model, judge, found, SamplingRequest(seed, num_inference_steps))
        for seed, found in enumerate(tqdm(pairs, disable=None))
    ]


def measure(model: Model, judge: Judge, found: Found, sampling: SamplingRequest) -> Measured:
    """Draws both pictures and edits each into the other."""
    store, ways = Store(1 << 30), []
    one, other = found.source_prompt, found.prompt
    drawn = {prompt: _timed(model, store, GenerateJob(prompt, sampling)) for prompt in (one, other)}
    for source, prompt in ((one, other), (other, one)):
        pair = EditPair("", source, prompt, seed=0)
        edit, edit_seconds = _timed(model, store, EditJob(prompt, drawn[source][0].receipt.image_id))
        dense, dense_seconds = drawn[prompt]
        verdicts = [pair.is_success(shown) for shown in judge.attributes_of(_pixels(edit, dense))]
        ways.append((*verdicts, edit_seconds, dense_seconds))
    return Measured(found, *np.mean(ways, 0).tolist())


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
    parser.add_argument("--pairs", type=int, default=30, help="that are drawn and edited, both ways")
    parser.add_argument("--steps", type=int, help="of the sampler; by default the model's own")
    parser.add_argument(
        "--embedding-model", default="", metavar="MODEL", help="directory or hub id of a sentence model"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample", type=Path, metavar="FILE", help="a result: its pairs are not drawn again")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument(
        "--save", type=Path, metavar="DIR", help="also keep it there, as similarity.json or similarity-sentence.json"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, rng = load_model(), random.Random(arguments.seed)
    embedder = open_embedder(arguments.embedding_model)
    stream = list(sources_of(model, prompts_asked(rng, arguments.requests), embedder))
    if arguments.sample:
        kept = json.loads(arguments.sample.read_text(encoding="utf-8"))
        if kept["embedder"] != embedder.name:
            parser.error(f"--sample: its likenesses are by {kept['embedder']!r}, not by {embedder.name!r}")
        before = kept["conditions"]
        measured = [Measured(**each | {"found": Found(**each["found"])}) for each in kept["sample"]]
    else:
        before = conditions(torch.device("cpu"), arguments.seed)
        measured = measure_all(model, sample(rng, stream, arguments.pairs), arguments.steps)
    dense_seconds = float(np.mean([each.dense_seconds for each in measured]))
    rows = curve(stream, measured)
    result = {
        "conditions": before,
        "embedder": embedder.name,
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
        name = "similarity-sentence.json" if arguments.embedding_model else "similarity.json"
        (arguments.save / name).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result) if arguments.json else table(result))


def _num_changed(source_prompt: str, prompt: str) -> int:
    return sum(map(len, changed_words(source_prompt, prompt)))


def _timed(model: Model, store: Store, job: Job) -> tuple[Outcome, float]:
    """The outcome, and the processor's seconds."""
    begin = time.process_time()
    outcome = Outcome.of(run(model, store, job))
    return outcome, time.process_time() - begin


def _pixels(*outcomes: Outcome) -> torch.Tensor:  # uint8 [N, 3, H, W]
    pictures = [np.array(outcome.image.image) for outcome in outcomes if outcome.image]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


if __name__ == "__main__":
    main()
