"""Multiplications of one U-Net call, dense and sparse, without weights: `python -m loadtests.macs --help`.

Both guidance branches (batch 2), all resolutions sparse, 77 tokens. `sparse_gmac` is at margin 0 with recorded keys
and values; `variants` widens the masks by 1 and 2 latent positions, or projects recorded attention inputs. A file of
many packed masks gives their mean, an edit of nothing included.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor
from torch.nn import functional as F

from loadtests.shapes import NUM_TOKENS, SHAPES, check_size, load_masks, synthetic_masks
from service.engine.macs import Kind, MacModel
from sparse_ops.plan import active_positions, make_plans

Counts = dict[tuple[int, Kind], float]  # GMAC of both guidance branches
VARIANTS = {"margin_1": (1, False), "margin_2": (2, False), "recorded_inputs": (0, True)}


def sparse_counts(model: MacModel, masks: Tensor, *, margin: int = 0) -> tuple[Counts, Counts]:
    """The mean over masks [N, H, W], with recorded keys and values, and with recorded inputs.

    A batch of edits multiplies what each alone does, so many masks are planned as one batch.
    """
    widened = F.max_pool2d(masks[:, None].float(), 2 * margin + 1, 1, margin)[:, 0].bool()
    totals: tuple[Counter[tuple[int, Kind]], Counter[tuple[int, Kind]]] = Counter(), Counter()
    for first in range(0, len(widened), 50):
        plans = make_plans(active_positions(widened[first : first + 50], len(model.weights)))
        for recorded_inputs, total in enumerate(totals):
            total.update(model.breakdown(plans, recorded_inputs=bool(recorded_inputs)))
    keys_values, inputs = ({where: 2 * macs / len(masks) / 1e9 for where, macs in total.items()} for total in totals)
    return keys_values, inputs


def by_resolution(model: MacModel, counts: Counts) -> dict[str, dict[str, float]]:
    """Kinds for each resolution, named by its size."""
    sizes = [(-(-model.height // 2**level), -(-model.width // 2**level)) for level in range(len(model.weights))]
    return {
        f"{height}x{width}": {kind: round(macs, 2) for (own, kind), macs in counts.items() if own == level}
        for level, (height, width) in enumerate(sizes)
    }


def measure(model: MacModel, masks: dict[str, Tensor]) -> dict[str, Any]:
    """What is printed, in GMAC."""
    everything, _ = sparse_counts(model, torch.ones(1, model.height, model.width, dtype=torch.bool))
    counts = {
        name: [sparse_counts(model, mask.view(-1, *mask.shape[-2:]), margin=margin) for margin in range(3)]
        for name, mask in masks.items()
    }

    def totals(margin: int, *, recorded_inputs: bool) -> dict[str, float]:
        return {name: round(sum(each[margin][recorded_inputs].values()), 1) for name, each in counts.items()}

    return {
        "dense_gmac": round(sum(everything.values()), 1),
        "sparse_gmac": totals(0, recorded_inputs=False),
        "variants": {name: totals(margin, recorded_inputs=inputs) for name, (margin, inputs) in VARIANTS.items()},
        "by": {"dense": by_resolution(model, everything)}
        | {name: by_resolution(model, each[0][0]) for name, each in counts.items()},
    }


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    dense = result["dense_gmac"]
    lines = [f"dense {dense:9.1f} GMAC"]
    for title, totals in {"sparse": result["sparse_gmac"], **result["variants"]}.items():
        lines += [f"{title:16} {name:10} {gmac:9.1f} GMAC  {dense / gmac:5.2f}x" for name, gmac in totals.items()]
    for name, resolutions in result["by"].items():
        for resolution, kinds in resolutions.items():
            lines.append(f"{name:10} {resolution:8}" + "".join(f"  {kind} {gmac:8.2f}" for kind, gmac in kinds.items()))
    return "\n".join(lines)


def read_masks(path: Path) -> dict[str, Tensor]:
    """The masks of a file; ValueError where it does not hold any."""
    try:
        with path.open("rb") as file:
            is_archive = is_zipfile(file)
        masks = load_masks(path) if is_archive else {}  # numpy would leave another file open
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # the readers of zip, deflate and npy each raise their own
        raise ValueError(f"{path} must be an .npz file of masks: {error}") from error
    if not masks:
        raise ValueError(f"{path} must be an .npz file of masks, holds none")
    return masks


def main() -> None:
    """Prints the counts of one network for one file of masks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="sd2.1")
    parser.add_argument("--size", type=int, default=768, help="image height and width in pixels")
    parser.add_argument("--masks", type=Path, help=".npz of named bool masks, or of packed `masks` and `shape`")
    parser.add_argument("--sample", type=int, help="of packed masks take only so many, a seeded choice")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # small integer work: two threads would wait for each other
    size = arguments.size // 8
    try:
        masks = read_masks(arguments.masks) if arguments.masks else synthetic_masks(size)
        check_size(masks, size)
    except ValueError as error:
        parser.error(str(error))
    if arguments.sample and "mean" in masks:
        chosen = torch.randperm(len(masks["mean"]), generator=torch.Generator().manual_seed(0))[: arguments.sample]
        masks["mean"] = masks["mean"][chosen]
    result = measure(MacModel.of(SHAPES[arguments.model], size, size, NUM_TOKENS), masks)
    print(json.dumps(result) if arguments.json else table(result))


if __name__ == "__main__":
    main()
