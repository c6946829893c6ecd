"""Whole edits, encode to decode, beside what is done today: python -m loadtests.edit [--pairs N] [--json].

For frozen edits of postcard, interleaved: our edit (its source recorded, as a service has it), the same with its mask
given, our dense drawing of the new words, and diffusers' own text-to-image, image-to-image (SDEdit, strength 0.8) and
in-painting (under our mask), all with the same steps and guidance. The first pair warms up and is not counted.
`speedup` is the median of dense / edit over pairs, by which of ours and diffusers' dense is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from PIL import Image

from cache_store.store import MemoryStore
from loadtests.conditions import conditions
from service.batching.runner import run
from service.engine.masks import to_png_array
from service.engine.weights import Model, load_model
from service.jobs import EditJob, GenerateJob, Outcome, SamplingRequest
from service.postcard.model import MODEL_DIRECTORY
from service.postcard.pairs import EditPair, load_pairs

STRENGTH = 0.8  # of image-to-image: so much of the steps is drawn
STAGES = ("encode", "detect", "denoise", "decode")


class Peers:
    """Diffusers' pipelines over one set of weights."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.draw = StableDiffusionPipeline.from_pretrained(MODEL_DIRECTORY, dtype=dtype).to(device)
        parts = {**self.draw.components, "requires_safety_checker": False}
        self.redraw = StableDiffusionImg2ImgPipeline(**parts)
        self.inpaint = StableDiffusionInpaintPipeline(**parts)
        for pipeline in (self.draw, self.redraw, self.inpaint):
            pipeline.set_progress_bar_config(disable=True)


def main() -> None:
    """Prints medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20, help="so many of the frozen pairs, spread over their kinds")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    pairs = load_pairs()
    chosen = pairs[:: max(1, len(pairs) // arguments.pairs)]
    result = measure([chosen[0], *chosen], device)
    print(json.dumps(result) if arguments.json else "\n".join(f"{name}: {value}" for name, value in result.items()))


@torch.no_grad()
def measure(pairs: Sequence[EditPair], device: torch.device) -> dict[str, Any]:
    """What is printed; the first pair is not counted."""
    under = conditions(device, seed=0)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    model, peers = load_model(device=device, dtype=dtype), Peers(device, dtype)
    seconds: dict[str, list[float]] = defaultdict(list)
    stages: dict[str, list[float]] = defaultdict(list)
    ratios = []
    for number, pair in enumerate(pairs):
        timed, outcome = measure_pair(model, peers, pair)
        print(f"{number} {pair.prompt}", file=sys.stderr)
        if number:
            for name, value in timed.items():
                seconds[name].append(value)
            for stage in STAGES:
                stages[stage].append(outcome.receipt.seconds.get(stage, 0.0))
            ratios.append(outcome.receipt.edited_ratio)
    dense = np.minimum(seconds["dense"], seconds["diffusers"])
    return {
        **under,
        "dtype": str(dtype).removeprefix("torch."),
        "pairs": len(ratios),
        "edited_ratio": round(float(np.mean(ratios)), 3),
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "stages": {name: spread(values)["median"] for name, values in stages.items()},
        "speedup": {name: spread(dense / np.array(seconds[name])) for name in ("edit", "edit, mask given")},
    }


def measure_pair(model: Model, peers: Peers, pair: EditPair) -> tuple[Mapping[str, float], Outcome]:
    """Seconds of each way, one after the other, and what our edit told."""
    store, sampling = MemoryStore(2 << 30), SamplingRequest(seed=pair.seed)
    source = Outcome.of(run(model, store, GenerateJob(pair.source_prompt, sampling)))
    if source.image is None:
        raise ValueError("a drawn picture has an image")
    image_id, picture = source.image.image_id, source.image.image
    seconds: dict[str, float] = {}

    def timed(name: str, way: Callable[[], Any]) -> Any:
        _wait(model.device)
        begin = time.perf_counter()
        result = way()
        _wait(model.device)
        seconds[name] = time.perf_counter() - begin
        return result

    edit = timed("edit", lambda: Outcome.of(run(model, store, EditJob(pair.prompt, image_id))))
    mask = Image.fromarray(to_png_array(edit.mask.edit_mask, model.latent_scale))
    given = EditJob(pair.prompt, image_id, edit_mask=mask, mask_mode="given")
    timed("edit, mask given", lambda: Outcome.of(run(model, store, given)))
    again = GenerateJob(pair.prompt, sampling, cache="off")
    timed("dense", lambda: Outcome.of(run(model, store, again)))
    common = {
        "prompt": pair.prompt,
        "num_inference_steps": model.defaults.num_inference_steps,
        "guidance_scale": model.defaults.guidance_scale,
        "generator": torch.Generator().manual_seed(pair.seed),
    }
    timed("diffusers", lambda: peers.draw(**common, guidance_rescale=model.defaults.guidance_rescale))
    timed("image-to-image", lambda: peers.redraw(**common, image=picture, strength=STRENGTH))
    timed("in-painting", lambda: peers.inpaint(**common, image=picture, mask_image=mask, strength=1.0))
    return seconds, edit


def spread(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = (round(float(value), 3) for value in np.quantile(values, [0.25, 0.5, 0.75]))
    return {"median": median, "low": low, "high": high}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
