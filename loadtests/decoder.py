"""What the VAE decoder costs, dense and on rows: `python -m loadtests.decoder [--masks FILE.npz | --seconds] [--json]`.

Multiplications, without weights, in the shape of Stable Diffusion's VAE: `sparse_gmac` decodes what an edit pastes (its
mask, `--paste-margin` positions wider); a file of many packed masks gives their mean. The norms of the changed rows are
sums over these rows, and multiply no matrices.

`--seconds`: postcard's decoder on one thread for squares of several sizes, each next to a dense decode, medians. They
are the processor's own, without the share of other programs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from loadtests.conditions import conditions
from loadtests.macs import read_masks
from loadtests.shapes import check_size, synthetic_masks
from service.engine.decoder import decode, decode_rows, layers_of
from service.engine.weights import load_model
from sparse_ops.shells import make_shells

SCALE = 8  # pixels of a latent position
POSTCARD = 32  # latent positions a side
SIDES = (6, 10, 14, 18, 20, 22, 26)  # of squares, in latent positions


def published() -> Any:
    """The decoder of Stable Diffusion 1.x, 2.x and XL, without memory for weights."""
    with torch.device("meta"):
        return AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4,
        )  # fmt: skip


def convolutions_of(vae: Any) -> list[int]:
    """Weights of each convolution above the latent's resolution, in the order of the data, shortcuts included."""
    weights: list[int] = []
    blocks = list(vae.decoder.up_blocks)
    for below, block in pairwise(blocks):
        weights.append(below.upsamplers[0].conv.weight.numel())
        for resnet in block.resnets:
            shortcut = resnet.conv_shortcut.weight.numel() if resnet.conv_shortcut is not None else 0
            weights += [resnet.conv1.weight.numel(), resnet.conv2.weight.numel() + shortcut]
    return [*weights, vae.decoder.conv_out.weight.numel()]


def count(vae: Any, rows: Sequence[int], num_positions: int) -> int:
    """Multiplications for so many rows of each convolution, and the latent's own resolution dense."""
    decoder = vae.decoder
    low = [vae.post_quant_conv, decoder.conv_in, decoder.mid_block, *decoder.up_blocks[0].resnets]
    modules = [module for part in low for module in part.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    weights = sum(module.weight.numel() for module in modules)
    attentions = [attention for attention in decoder.mid_block.attentions if attention is not None]
    products = sum(2 * attention.to_q.out_features for attention in attentions)
    above = sum(num * of for num, of in zip(rows, convolutions_of(vae), strict=True))
    total: int = num_positions * weights + num_positions**2 * products + above
    return total


def rows_of(vae: Any, mask: Tensor, paste_margin: int) -> list[int]:  # bool [h, w]
    """Rows of each convolution above the latent's resolution."""
    wide = F.max_pool2d(mask[None, None].float(), 2 * paste_margin + 1, 1, paste_margin)[0, 0].bool()
    needed = wide.repeat_interleave(SCALE, 0).repeat_interleave(SCALE, 1)
    return [len(shell) for shell in make_shells(needed, layers_of(vae))]


def measure(masks: dict[str, Tensor], size: int, paste_margin: int) -> dict[str, Any]:
    """What is printed, in GMAC."""
    vae, everything = published(), torch.ones(size, size, dtype=torch.bool)

    def gmac(mask: Tensor) -> float:
        return count(vae, rows_of(vae, mask, paste_margin), size**2) / 1e9

    dense = gmac(everything)
    sparse = {
        name: sum(gmac(each) for each in mask.view(-1, size, size)) / len(mask.view(-1, size, size))
        for name, mask in masks.items()
    }
    return {
        "dense_gmac": round(dense, 1),
        "sparse_gmac": {name: round(value, 1) for name, value in sparse.items()},
        "ratios": {name: round(dense / value, 2) for name, value in sparse.items()},
        "paste_margin": paste_margin,
    }


def measure_seconds(num_rounds: int) -> dict[str, Any]:
    """What is printed with `--seconds`: for each part of the picture, how much quicker its rows are."""
    torch.set_num_threads(1)
    vae, before = load_model().vae, conditions(torch.device("cpu"), seed=0)
    latents = torch.randn(1, 4, POSTCARD, POSTCARD, generator=torch.Generator().manual_seed(0))
    statistics = decode(vae, latents).statistics
    pairs: dict[int, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for side in SIDES * num_rounds:
        needed, begin = torch.zeros(POSTCARD * SCALE, POSTCARD * SCALE, dtype=torch.bool), (POSTCARD - side) // 2
        needed[begin * SCALE :, begin * SCALE :][: side * SCALE, : side * SCALE] = True
        times = _seconds(decode, vae, latents), _seconds(decode_rows, vae, latents, needed, statistics)
        pairs[side].append(times)
    medians = {side: [median(column) for column in zip(*each, strict=True)] for side, each in pairs.items()}
    return {
        "conditions": before,
        "rounds": num_rounds,
        "dense_seconds": round(median(dense for dense, _ in medians.values()), 3),
        "ratios": {round((side / POSTCARD) ** 2, 2): round(dense / rows, 2) for side, (dense, rows) in medians.items()},
    }


def _seconds(run: Callable[..., object], *arguments: object) -> float:
    begin = time.process_time()
    run(*arguments)
    return time.process_time() - begin


def main() -> None:
    """Prints the counts for one file of masks, or the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=768, help="image height and width in pixels")
    parser.add_argument("--masks", type=Path, help=".npz of named bool masks, or of packed `masks` and `shape`")
    parser.add_argument("--paste-margin", type=int, default=1)
    parser.add_argument("--seconds", action="store_true", help="times of postcard's decoder instead of counts")
    parser.add_argument("--rounds", type=int, default=7, help="of --seconds")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    size = arguments.size // SCALE
    try:
        masks = read_masks(arguments.masks) if arguments.masks else synthetic_masks(size)
        check_size(masks, size)
    except ValueError as error:
        parser.error(str(error))
    counted = not arguments.seconds
    result = measure(masks, size, arguments.paste_margin) if counted else measure_seconds(arguments.rounds)
    print(json.dumps(result) if arguments.json else "\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
