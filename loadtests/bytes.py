"""Bytes of recordings, both guidance branches, without running a network: `python -m loadtests.bytes`.

First of one step, then of recordings of 20 and 50 steps, of which not every one keeps everything.

Stored is what a picture keeps of each step; cross-attention maps, which only the first steps have, are counted apart.
Read is what a sparse step moves of it: the halo's rows, those that are attended, the rest of the prediction and the
statistics. The paper stores 4192 MB a step at 768 and moves 1348 / 1192 / 987 MB at 5 / 15 / 30 %. MB are 1e6 bytes.
`stored` and `maps` of a recording are those of all its steps, `stored_per_step` and `read` the mean of a step.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cache_store.layout import Layout
from loadtests.shapes import NUM_TOKENS, SHAPES, check_size, load_masks, ratio_name, synthetic_masks
from service.engine.masks import num_detection_steps
from service.engine.recording import SCALES, Format, Storage, columns_of, layout_of
from service.engine.unet import UNet, UNetConfig
from sparse_ops.plan import Plan, active_positions, make_plans

BRANCHES = 2
STORAGES: dict[str, Storage] = {"fp16": "float16", "int8": "int8", "fp8": "fp8"}
THINNED: dict[str, Format] = {  # what is worth having, from the most bytes to the least
    "fp16": Format("float16"),
    "fp16, attention every 2nd": Format("float16", attention_every=2),
    "fp16, attention every 5th": Format("float16", attention_every=5),
    "fp16, rows every 2nd": Format("float16", rows_every=2),
    "int8": Format("int8"),
    "int8, attention every 2nd": Format("int8", attention_every=2),
    "int8, attention every 5th": Format("int8", attention_every=5),
    "int8, rows every 2nd": Format("int8", rows_every=2),
    "int8, both every 2nd": Format("int8", attention_every=2, rows_every=2),
    "int8, attention every 5th, rows every 2nd": Format("int8", attention_every=5, rows_every=2),
}
NUM_STEPS = (20, 50)
Megabytes = dict[str, float | dict[str, float]]


def report(cfg: UNetConfig, size: int, masks: dict[str, Tensor]) -> dict[str, dict[str, Megabytes]]:
    """By what is kept of self-attention and by storage: MB stored, MB read under each mask [size, size]."""
    plans = _plans_of(cfg, masks)
    with torch.device("meta"):
        unet = UNet(cfg)
    kept: dict[str, dict[str, Megabytes]] = {}
    for name, keep_inputs in (("inputs", True), ("keys_values", False)):
        columns = columns_of(unet, size, size, NUM_TOKENS, keep_inputs)
        layouts = {
            short: layout_of(columns, Format(storage, keep_inputs), 1, 1, BRANCHES)
            for short, storage in STORAGES.items()
        }
        kept[name] = {short: _megabytes(layout, plans) for short, layout in layouts.items()}
    return kept


def recordings(cfg: UNetConfig, size: int, masks: dict[str, Tensor]) -> dict[str, dict[str, Megabytes]]:
    """By number of steps and by what they keep: MB of whole recordings, and a step's in the mean."""
    plans = _plans_of(cfg, masks)
    with torch.device("meta"):
        unet = UNet(cfg)
    columns = columns_of(unet, size, size, NUM_TOKENS, keep_inputs=True)
    kept: dict[str, dict[str, Megabytes]] = {}
    for num_steps in NUM_STEPS:
        given = num_steps, num_detection_steps(num_steps), BRANCHES
        layouts = {name: layout_of(columns, form, *given) for name, form in THINNED.items()}
        kept[str(num_steps)] = {name: _of_recording(layout, plans, num_steps) for name, layout in layouts.items()}
    return kept


def _of_recording(layout: Layout, plans: dict[str, list[Plan]], num_steps: int) -> Megabytes:
    stored = sum(plane.num_bytes() for name, plane in layout.items() if not name.startswith("maps"))
    return _megabytes(layout, plans, num_steps) | {"stored_per_step": _rounded(stored / num_steps)}


def _plans_of(cfg: UNetConfig, masks: dict[str, Tensor]) -> dict[str, list[Plan]]:
    return {ratio_name(name): _plans(mask, len(cfg.channels)) for name, mask in masks.items()}


def _plans(mask: Tensor, num_levels: int) -> list[Plan]:
    return make_plans(active_positions(mask.expand(BRANCHES, -1, -1), num_levels))


def _megabytes(layout: Layout, plans: dict[str, list[Plan]], num_steps: int = 1) -> Megabytes:
    maps = sum(plane.num_bytes() for name, plane in layout.items() if name.startswith("maps"))
    stored = sum(plane.num_bytes() for plane in layout.values()) - maps
    read = {ratio: _rounded(read_bytes(layout, its) / num_steps) for ratio, its in plans.items()}
    return {"stored": _rounded(stored), "maps": _rounded(maps), "read": read}


def _rounded(num_bytes: float) -> float:
    return round(num_bytes / 1e6, 1)


def read_bytes(layout: Layout, plans: Sequence[Plan]) -> int:
    """What sparse steps read, of all planes and steps that the layout has."""
    return sum(plane.num_bytes(_num_rows(name, plans)) for name, plane in layout.items())


def _num_rows(plane: str, plans: Sequence[Plan]) -> int:
    kind, _, level = plane.removeprefix(SCALES).partition(".")
    plan = plans[int(level or 0)]
    return {
        "rows": len(plan.halo), "attention": len(plan.attended), "prediction": len(plan.rest), "statistics": plan.batch,
    }.get(kind, 0)  # fmt: skip


def lines(kept: dict[str, dict[str, Megabytes]], whole: dict[str, dict[str, Megabytes]]) -> list[str]:
    """A table for people: of one step, then of recordings."""
    told = []
    for name, each in [*kept.items(), *((f"{num_steps} steps", its) for num_steps, its in whole.items())]:
        for short, its in each.items():
            read = its["read"]
            moved = " / ".join(f"{value:.1f}" for value in read.values()) if isinstance(read, dict) else ""
            per_step = f" ({its['stored_per_step']:5.1f} a step)" if "stored_per_step" in its else ""
            stored = f"stored {its['stored']:7.1f} MB{per_step}, maps {its['maps']:5.1f}"
            told.append(f"{name:12} {short:41} {stored}, read a step {moved}")
    return told


def main() -> None:
    """Prints megabytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="sd2.1")
    parser.add_argument("--size", type=int, default=768, help="of the picture, in pixels")
    parser.add_argument("--masks", type=Path, help=".npz of named bool masks, an eighth of that size")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    size = arguments.size // 8
    masks = load_masks(arguments.masks) if arguments.masks else synthetic_masks(size)
    try:
        check_size(masks, size)
    except ValueError as error:
        parser.error(str(error))
    given = SHAPES[arguments.model], size, masks
    kept, whole = report(*given), recordings(*given)
    print(json.dumps(kept | {"recordings": whole}) if arguments.json else "\n".join(lines(kept, whole)))


if __name__ == "__main__":
    main()
