"""Whole edits, encode to decode, beside what is done today: python -m loadtests.edit [--pairs N] [--json].

For frozen edits of postcard, interleaved: our edit (its source recorded, as a service has it), the same with its mask
given, our dense drawing of the new words, and diffusers' own text-to-image, image-to-image (SDEdit, strength 0.8) and
in-painting (under our mask), all with the same steps and guidance. The first pair warms up and is not counted.
`speedup` is the median of dense / edit over pairs, by which of ours and diffusers' dense is faster.

On a GPU each edit has run once before it is timed, as the first edit whose mask is of a new bucket captures its pass;
`new` is what those first ones took, which met a bucket or did not. A service has met most after some hundred edits.
For its receipt an edit here embeds both prompts; a service knows the source's, which is 12 ms less.

Interrupted (Ctrl-C, or `timeout --signal=INT`), it tells what is whole by then: pairs, rounds of masks, of the batch.

`masks`: the same ways at given masks of 5, 11, 23 and 35 % of the picture, whatever the words; there the search for
the mask is timed alone (`detection`), and `edit, with detection` is both together. `batched`: eight edits of 5 % whose
steps share network calls, beside the same eight one by one.

`--model random` is Stable Diffusion 2.1's size with random weights, written to a temporary directory: of its edits only
those at given masks are timed, as its own masks mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loadtests.conditions import conditions, save
from loadtests.random_model import write_random_model
from loadtests.shapes import synthetic_mask
from loadtests.timings import Timings, spread
from loadtests.ways import Peers, Stopwatch, Ways
from service.engine.graphs import CudaRecorder, Graphs
from service.engine.masks import Mask
from service.engine.predict import predict
from service.engine.weights import find_model, load_model
from service.postcard.model import MODEL_DIRECTORY
from service.postcard.pairs import EditPair, load_pairs

MASK_RATIOS = (0.05, 0.11, 0.23, 0.35)
BATCH, BATCH_RATIO = 8, 0.05
GRAPHS_BYTES = 4 << 30  # as a service has it
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Plan:
    """What is timed."""

    pairs: Sequence[EditPair]  # that find their own masks; one more, the first, warms up
    mask_ratios: Sequence[float] = MASK_RATIOS
    batch: int = BATCH
    repeats: int = 3  # of given masks and of the batch, after one that warms up


def main() -> None:
    """Prints medians and ratios."""
    arguments = _parser().parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    dtype = DTYPES[arguments.dtype or ("float16" if device.type == "cuda" else "float32")]
    pairs = load_pairs()
    num_pairs = 0 if arguments.model == "random" else arguments.pairs
    plan = Plan(pairs[:: max(1, len(pairs) // num_pairs)] if num_pairs else [], repeats=arguments.repeats)
    with ExitStack() as stack:
        directory = MODEL_DIRECTORY
        if arguments.model == "random":
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            write_random_model(directory, device)
        elif arguments.model != "postcard":
            directory = find_model(arguments.model)
        ways = ways_of(directory, device, dtype, arguments.steps, int(arguments.store_gib * (1 << 30)))
        result = {"model": arguments.model} | measure(ways, plan)
    if arguments.save:
        program = "edit" if arguments.model == "postcard" else f"edit-{Path(arguments.model).name}"
        print(save(result, program, arguments.save), file=sys.stderr)
    print(json.dumps(result) if arguments.json else "\n".join(f"{name}: {value}" for name, value in result.items()))


def ways_of(directory: Path, device: torch.device, dtype: torch.dtype, steps: int | None, store_bytes: int) -> Ways:
    """All that draws with the weights of a directory."""
    model = load_model(directory, device=device, dtype=dtype)
    graphs = Graphs(CudaRecorder(device), GRAPHS_BYTES) if device.type == "cuda" else None
    return Ways(
        model,
        Peers(directory, device, dtype),
        steps or model.defaults.num_inference_steps,
        store_bytes,
        partial(predict, graphs=graphs),
    )


@torch.no_grad()
def measure(ways: Ways, plan: Plan) -> dict[str, Any]:
    """What is printed; interrupted, what is known by then."""
    result = {
        **conditions(ways.model.device, seed=0),
        "dtype": str(ways.model.dtype).removeprefix("torch."),
        "without_kernels": ways.model.without_kernels,
        "pixels": [ways.model.defaults.height, ways.model.defaults.width],
        "steps": ways.num_steps,
        "pairs": 0,
        "is_whole": False,
    }
    try:
        for known in chain(measure_pairs(ways, plan.pairs), measure_masks(ways, plan), measure_batch(ways, plan)):
            result |= known
    except KeyboardInterrupt:
        print("interrupted: what was measured is told", file=sys.stderr)
        return result
    return result | {"is_whole": True}


def measure_pairs(ways: Ways, pairs: Sequence[EditPair]) -> Iterator[dict[str, Any]]:
    """Edits that find their own masks; told pair by pair."""
    timings = Timings()
    for number, pair in enumerate([*pairs[:1], *pairs]):
        print(f"{number} {pair.prompt}", file=sys.stderr, flush=True)
        source = ways.record(pair.source_prompt, pair.seed)
        new = ways.time_new(source, pair.prompt, None)
        timings.new += new if number > 1 else []  # the first pair was there before
        seconds, outcome = ways.time_all(source, pair.prompt, None)
        if number:
            timings.add(seconds, outcome.receipt.seconds, outcome.receipt.edited_ratio)
            yield {"pairs": number} | timings.summary(("edit", "edit, mask given"))


def measure_masks(ways: Ways, plan: Plan) -> Iterator[dict[str, Any]]:
    """Edits under given masks of one source, ratio after ratio, round after round; told round by round."""
    source, timings = ways.record(PROMPTS[0], seed=0), {ratio: Timings() for ratio in plan.mask_ratios}
    compared = ("edit, mask given", "edit, with detection")
    for number in range(1 + plan.repeats):
        for ratio in plan.mask_ratios:
            print(f"{number} mask of {ratio:.0%}", file=sys.stderr, flush=True)
            new = ways.time_new(source, PROMPTS[1], _mask(ways, ratio, number))
            timings[ratio].new += new if number else []
            seconds, outcome = ways.time_all(source, PROMPTS[1], _mask(ways, ratio, number))
            seconds["edit, with detection"] = seconds["edit, mask given"] + seconds["detection"]
            if number:
                timings[ratio].add(seconds, outcome.receipt.seconds, outcome.receipt.edited_ratio)
        if number:
            yield {"masks": {f"{ratio:.2f}": each.summary(compared) for ratio, each in timings.items()}}


def measure_batch(ways: Ways, plan: Plan) -> Iterator[dict[str, Any]]:
    """Small edits of one source, with masks of their own, together and one by one; told round by round."""
    source, seconds = ways.record(PROMPTS[0], seed=0), defaultdict[str, list[float]](list)
    masks = [_mask(ways, BATCH_RATIO, number) for number in range(plan.batch)]
    jobs = [ways.given(source, PROMPTS[1 + number % (len(PROMPTS) - 1)], mask) for number, mask in enumerate(masks)]
    edited_ratio = round(float(np.mean([mask.mean() for mask in masks])), 3)
    for number in range(1 + plan.repeats):
        print(f"{number} batch of {len(jobs)}", file=sys.stderr, flush=True)
        watch = Stopwatch(ways.model.device)
        watch.time("one by one", lambda: [ways.edit(source, job) for job in jobs])
        watch.time("together", lambda: ways.edit_together(source, jobs))
        if number:
            for name, value in watch.seconds.items():
                seconds[name].append(value)
            speedup = spread(np.array(seconds["one by one"]) / np.array(seconds["together"]))
            took = {name: spread(values) for name, values in seconds.items()}
            yield {"batched": {"edits": len(jobs), "edited_ratio": edited_ratio, "seconds": took, "speedup": speedup}}


def _mask(ways: Ways, ratio: float, seed: int) -> Mask:
    size = ways.model.defaults.height // ways.model.latent_scale
    return synthetic_mask(size, ratio, seed).numpy()


PROMPTS = (
    "a desert under a clear sky with a red house",
    "a desert under a clear sky with a blue house",
    "a desert under a clear sky with a tent",
    "a desert under a clear sky with a tree",
    "a desert under a night sky with a red house",
    "a desert under a cloudy sky with a red house",
    "a desert under a sunset sky with a red house",
    "a green hill under a clear sky with a red house",
    "a forest under a clear sky with a red house",
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="postcard", help="postcard, random, or a diffusers directory (SD 1.x, 2.x)")
    parser.add_argument("--pairs", type=int, default=20, help="so many of the frozen pairs, spread over their kinds")
    parser.add_argument("--repeats", type=int, default=3, help="of given masks and of the batch")
    parser.add_argument("--steps", type=int, help="default: the model's own")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="default: float16, on a CPU float32")
    parser.add_argument("--store-gib", type=float, default=2, help="of memory for recordings")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("--save", type=Path, metavar="DIRECTORY", help="keep the JSON there, named by device and date")
    return parser


if __name__ == "__main__":
    main()
