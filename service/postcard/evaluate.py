"""Measures a model against the gates it must pass: python -m service.postcard.evaluate [--json] [--model DIR].

The judge and the VAE on held-out pictures; generation from held-out combinations; the frozen edits by the engine, next
to dense regeneration of the edited prompts.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from cache_store.store import Store
from service.batching.runner import run
from service.engine.weights import Model, load_model
from service.jobs import EditJob, GenerateJob, ImageReady, Job, Outcome, SamplingRequest
from service.postcard.gates import Gate, edit_gates, generation_gates, judge_gates, reconstruction_gate
from service.postcard.judge import Judge, load_judge
from service.postcard.model import MODEL_DIRECTORY
from service.postcard.pairs import EditPair, load_pairs
from service.postcard.pictures import decode, encode, pixels_of, scene_of
from service.postcard.scenes import caption

NUM_PICTURES = 200
BATCH = 10
STORE_BYTES = 1 << 30
PARTS = ("pictures", "generation", "edits")


class Generator:
    """A model as diffusers runs it, in float32, with the settings that its own retouch.json asks for."""

    def __init__(self, directory: Path, device: str) -> None:
        self.pipeline = StableDiffusionPipeline.from_pretrained(directory, dtype=torch.float32).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.settings = json.loads((directory / "retouch.json").read_text(encoding="utf-8"))
        del self.settings["words"]

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """uint8 pixels [prompts, 3, 256, 256], each from its own seed."""
        pixels = []
        for first in tqdm(range(0, len(prompts), BATCH), desc="pictures", disable=None):
            batch = slice(first, first + BATCH)
            noise = [torch.Generator().manual_seed(seed) for seed in seeds[batch]]
            images = self.pipeline(list(prompts[batch]), generator=noise, output_type="np", **self.settings).images
            pixels.append(torch.from_numpy((images * 255).round().astype(np.uint8)).permute(0, 3, 1, 2))
        return torch.cat(pixels)


def measure_pictures(generator: Generator, judge: Judge) -> list[Gate]:
    """The judge's and the VAE's gates, on the same held-out pictures."""
    vae, numbers = generator.pipeline.vae, range(NUM_PICTURES)
    pixels = pixels_of(numbers, held_out=True)
    reconstructed = torch.cat(
        [decode(vae, encode(vae, some.to(vae.device))).cpu() for some in torch.split(pixels, BATCH)]
    )
    shown = [scene_of(number, held_out=True).attributes for number in numbers]
    return [
        *judge_gates("pictures", judge.attributes_of(pixels), shown),
        *judge_gates("the VAE's copies", judge.attributes_of(reconstructed), shown),
        reconstruction_gate(pixels, reconstructed),
    ]


def measure_generation(generator: Generator, judge: Judge) -> list[Gate]:
    """Pictures of held-out combinations."""
    numbers = range(NUM_PICTURES)
    scenes = [scene_of(number, held_out=True) for number in numbers]
    prompts = [caption(scene, random.Random(number)) for number, scene in enumerate(scenes)]
    return generation_gates(scenes, judge.attributes_of(generator.generate(prompts, numbers)))


def measure_edits(generator: Generator, judge: Judge, engine: Model) -> list[Gate]:
    """The frozen pairs, edited by the engine and regenerated densely from the same seeds."""
    pairs, store = load_pairs(), Store(STORE_BYTES)
    pictures = [edit_by_engine(engine, store, pair) for pair in tqdm(pairs, desc="edits", disable=None)]
    sources, edited = (judge.attributes_of(torch.cat(pixels)) for pixels in zip(*pictures, strict=True))
    dense = generator.generate([pair.prompt for pair in pairs], [pair.seed for pair in pairs])
    return edit_gates(pairs, sources, edited, judge.attributes_of(dense))


def edit_by_engine(engine: Model, store: Store, pair: EditPair) -> tuple[Tensor, Tensor]:
    """The source picture and its edit, uint8 [1, 3, 256, 256] each; nothing else here knows how the engine is asked."""
    sampling = SamplingRequest(seed=pair.seed)
    source = drawn(engine, store, GenerateJob(pair.source_prompt, sampling))
    edited = drawn(engine, store, EditJob(pair.prompt, image_id=source.image_id, sampling=sampling))
    first, second = (torch.from_numpy(np.array(ready.image)).permute(2, 0, 1)[None] for ready in (source, edited))
    return first, second


def drawn(engine: Model, store: Store, job: Job) -> ImageReady:
    """The picture that a job ends with."""
    image = Outcome.of(run(engine, store, job)).image
    if image is None:
        raise RuntimeError("the job ended without a picture")
    return image


def main(arguments: list[str] | None = None) -> int:
    """Prints the gates; returns 1 if one of them is not passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL_DIRECTORY)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    generator, judge = Generator(options.model, options.device), load_judge()
    gates: list[Gate] = []
    if "pictures" in options.parts:
        gates += measure_pictures(generator, judge)
    if "generation" in options.parts:
        gates += measure_generation(generator, judge)
    if "edits" in options.parts:
        gates += measure_edits(generator, judge, load_model(options.model, options.device))
    print(as_json(gates) if options.json else as_table(gates))  # noqa: T201  # a program
    return 0 if all(gate.is_passed for gate in gates) else 1


def as_table(gates: Sequence[Gate]) -> str:
    """One line a gate."""
    return "\n".join(
        f"{'pass' if gate.is_passed else 'FAIL'}  {gate.measured:7.3f}  at least {gate.least:5.2f}  {gate.name}"
        for gate in gates
    )


def as_json(gates: Sequence[Gate]) -> str:
    """The gates as a JSON list."""
    return json.dumps([{**asdict(gate), "is_passed": gate.is_passed} for gate in gates], indent=2)


if __name__ == "__main__":
    raise SystemExit(main())
