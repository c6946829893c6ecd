"""Makes the embedded model: python -m service.postcard.train --out DIR.

From nothing: tokenizer, VAE, its decoder on whole pictures, then text encoder and U-Net, then the judge. The same
command again goes on from its checkpoints below --scratch. With --start DIR it begins with the weights of a model
directory, the committed one for instance, and --stages then names what to train further.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from service.postcard.autoencoder import train_autoencoder, train_decoder
from service.postcard.denoiser import train_denoiser
from service.postcard.judge import JUDGE_NAME, save_judge, train_judge
from service.postcard.model import Postcard, Widths, load_postcard, new_postcard, save_postcard
from service.postcard.training import Budget


@dataclass(frozen=True)
class Stage:
    """What a stage trains with unless told otherwise."""

    share: float  # of the minutes
    steps: int
    batch: int
    learning_rate: float


STAGES = {
    "autoencoder": Stage(0.30, 5000, 24, 2e-3),
    "decoder": Stage(0.10, 1700, 4, 6e-4),
    "denoiser": Stage(0.55, 8000, 32, 8e-4),
    "judge": Stage(0.05, 2400, 32, 2e-3),
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The program's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the model directory to write")
    parser.add_argument("--start", type=Path, help="a model directory to start from")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--scratch", type=Path, default=Path(".scratch/postcard"), help="checkpoints, cached latents")
    parser.add_argument("--minutes", type=float, default=math.inf, help="of training, shared among the stages")
    parser.add_argument("--steps", type=int, help="of each stage, in place of its own number")
    parser.add_argument("--batch", type=int, help="of each stage, in place of its own number")
    parser.add_argument("--learning-rate", type=float, help="of each stage, in place of its own")
    parser.add_argument("--pictures", type=int, default=10000)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None, widths: Widths | None = None) -> None:
    """Trains the chosen stages one after the other; the model directory is written after each."""
    options = parse_arguments(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    postcard = load_postcard(options.start) if options.start else new_postcard(options.out, widths or Widths())
    postcard.to(torch.device(options.device))
    for name in options.stages:
        train_stage(name, postcard, options)
        save_postcard(postcard, options.out)


def train_stage(name: str, postcard: Postcard, options: argparse.Namespace) -> None:
    """Trains one stage: the parts of `postcard` in place, the judge into a file beside them."""
    stage = STAGES[name]
    minutes = options.minutes * stage.share / sum(STAGES[other].share for other in options.stages)
    settings = {
        "num_pictures": options.pictures,
        "batch": options.batch or stage.batch,
        "learning_rate": options.learning_rate or stage.learning_rate,
        "budget": Budget(options.steps or stage.steps, minutes),
        "scratch": options.scratch,
    }
    if name == "autoencoder":
        train_autoencoder(postcard.vae, **settings)
    elif name == "decoder":
        train_decoder(postcard.vae, **settings)
    elif name == "denoiser":
        train_denoiser(postcard, **settings)
    else:
        save_judge(train_judge(postcard.vae, **settings), options.out / JUDGE_NAME)


if __name__ == "__main__":
    main()
