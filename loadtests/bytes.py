"""Bytes of one step of a recording, both guidance branches, without running a network: `python -m loadtests.bytes`.

Stored is what a picture keeps of each step; cross-attention maps, which only the first steps have, are counted apart.
Read is what a sparse step moves of it: the halo's rows, those that are attended, the rest of the prediction and the
statistics. The paper stores 4192 MB a step at 768 and moves 1348 / 1192 / 987 MB at 5 / 15 / 30 %. MB are 1e6 bytes.
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
from service.engine.recording import SCALES, Format, Storage, columns_of, layout_of
from service.engine.unet import UNet, UNetConfig
from sparse_ops.plan import Plan, active_positions, make_plans

BRANCHES = 2
STORAGES: dict[str, Storage] = {"fp16": "float16", "int8": "int8", "fp8": "fp8"}
Megabytes = dict[str, float | dict[str, float]]


def report(cfg: UNetConfig, size: int, masks: dict[str, Tensor]) -> dict[str, dict[str, Megabytes]]:
    """By what is kept of self-attention and by storage: MB stored, MB read under each mask [size, size]."""
    plans = {ratio_name(name): _plans(mask, len(cfg.channels)) for name, mask in masks.items()}
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


def _plans(mask: Tensor, num_levels: int) -> list[Plan]:
    return make_plans(active_positions(mask.expand(BRANCHES, -1, -1), num_levels))


def _megabytes(layout: Layout, plans: dict[str, list[Plan]]) -> Megabytes:
    maps = sum(plane.num_bytes() for name, plane in layout.items() if name.startswith("maps"))
    stored = sum(plane.num_bytes() for plane in layout.values()) - maps
    read = {ratio: _rounded(read_bytes(layout, its)) for ratio, its in plans.items()}
    return {"stored": _rounded(stored), "maps": _rounded(maps), "read": read}


def _rounded(num_bytes: int) -> float:
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


def lines(kept: dict[str, dict[str, Megabytes]]) -> list[str]:
    """A table for people."""
    told = []
    for name, storages in kept.items():
        for short, its in storages.items():
            read = its["read"]
            moved = " / ".join(f"{value:.1f}" for value in read.values()) if isinstance(read, dict) else ""
            told.append(f"{name:12} {short:5} stored {its['stored']:7.1f} MB, maps {its['maps']:5.1f}, read {moved}")
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
    kept = report(SHAPES[arguments.model], size, masks)
    print(json.dumps(kept) if arguments.json else "\n".join(lines(kept)))


if __name__ == "__main__":
    main()
