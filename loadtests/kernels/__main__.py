"""Every operator that has a kernel, checked and timed: python -m loadtests.kernels [--json] [--sweep | --check].

At the shapes of Stable Diffusion 2.1 at 768 x 768, both guidance branches, for each mask. A result is first compared
with the reference in float32 (copies and 8-bit rows: bit for bit); a wrong one is told and not timed, and the exit
status is 1. Times are medians of runs that each find cold caches, by CUDA events; beside them torch's own operator over
the whole map, and the time that the products or the bytes take at the rates measured in the same run. `--sweep` times
tiles, warps and splits instead. On a CPU the reference runs at a tiny size: a test of this program.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loadtests.conditions import clocks, conditions, save
from loadtests.kernels import operators, report, sweep
from loadtests.kernels.case import Case
from loadtests.kernels.clock import Clock, Peaks
from loadtests.kernels.scene import Scene, Widths
from loadtests.macs import read_masks
from loadtests.shapes import check_size, synthetic_masks
from sparse_ops.launch import why_not

SIZE, TINY_SIZE = 96, 16
TINY = Widths(channels=32, head=32, num_groups=8, num_tokens=7)
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def main() -> None:
    """Prints a table, or JSON."""
    arguments = _parser().parse_args()
    device = torch.device(arguments.device)
    dtype = DTYPES[arguments.dtype or ("float16" if device.type == "cuda" else "float32")]
    size = SIZE if device.type == "cuda" else TINY_SIZE
    try:
        masks = read_masks(arguments.masks) if arguments.masks else synthetic_masks(size)
        check_size(masks, size)
        if (arguments.what == "sweep" or device.type == "cuda") and (reason := why_not(device)):
            raise ValueError(f"kernels do not run here: {reason}")  # noqa: TRY301  # told as the parser tells
    except ValueError as error:
        _parser().error(str(error))
    result = measure(masks, dtype, Clock(device, arguments.runs), what=arguments.what)
    if arguments.json:
        print(json.dumps(result))
    if arguments.save:
        print(save(result, arguments.what, arguments.save), file=sys.stderr)
    if failed := report.wrong(result["kernels"]):
        sys.exit(f"{len(failed)} of {len(result['kernels'])} are wrong; the first: {failed[0]}")


@torch.no_grad()
def measure(masks: Mapping[str, Tensor], dtype: torch.dtype, clock: Clock, what: str = "kernels") -> dict[str, Any]:
    """What is printed; lines go to the error stream as they come."""
    device = clock.device
    widths = Widths() if device.type == "cuda" else TINY
    scenes = [Scene.of(name, mask.view(-1, *mask.shape[-2:])[0], widths, dtype, device) for name, mask in masks.items()]
    result: dict[str, Any] = {
        **conditions(device, seed=0),
        "dtype": str(dtype).removeprefix("torch."),
        "without_kernels": why_not(device),
        "runs": clock.num_runs,
        "caches": clock.caches,
        "edited_ratio": {name: round(float(mask.float().mean()), 3) for name, mask in masks.items()},
        "kernels": [],
    }
    if what == "check":
        result["kernels"] = list(_shown(map(report.checked, _cases(scenes)), report.line))
    elif what == "sweep":
        result["kernels"] = list(_shown((told for scene in scenes for told in sweep.of_mask(scene, clock)), sweep.line))
    else:
        peaks = Peaks.measured(clock, dtype, scale=1 if device.type == "cuda" else 32)
        result["peaks"] = {name: value and round(value, 1) for name, value in asdict(peaks).items()}
        print(f"peaks {result['peaks']}\n{report.HEAD}", file=sys.stderr)
        told = (report.measured(case, clock, peaks) for case in _cases(scenes))
        result["kernels"] = list(_shown(told, report.line))
    if device.type == "cuda":
        result["clocks_after"] = clocks()
    return result


def _cases(scenes: list[Scene]) -> Iterator[Case]:
    for scene in scenes:
        yield from operators.of_mask(scene)
    yield from operators.of_whole_maps(scenes[0])


def _shown(told: Iterator[dict[str, Any]], line: Any) -> Iterator[dict[str, Any]]:
    for each in told:
        print(line(each), file=sys.stderr, flush=True)
        yield each


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="default: float16, on a CPU float32")
    parser.add_argument("--masks", type=Path, help=".npz of named bool masks [96, 96]; of many masks the first")
    parser.add_argument("--runs", type=int, default=50, help="of each operator")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--sweep", dest="what", action="store_const", const="sweep", help="tiles, warps and splits")
    what.add_argument("--check", dest="what", action="store_const", const="check", help="compare only; compiles all")
    parser.set_defaults(what="kernels")
    parser.add_argument("--json", action="store_true", help="one JSON object on the output; lines go to stderr")
    parser.add_argument("--save", type=Path, metavar="DIRECTORY", help="keep the JSON there, named by device and date")
    return parser


if __name__ == "__main__":
    main()
