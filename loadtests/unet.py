"""U-Net calls a second, sparse beside what is done today: python -m loadtests.unet [--model sdxl] [--masks FILE.npz].

Random weights, both guidance branches, float16 on a GPU. In one run, interleaved (each way makes some calls in a row,
then the next way, round after round): diffusers as it is and compiled, tomesd, DeepCache, our dense call, and our
sparse calls for each mask, widened by each margin, launch by launch and as captured CUDA graphs. Rows that are read lie
in device memory; `host` ways gather them from pinned host memory, each step's while the one before it computes, and
tell for which part of a call their stream stood still (`waiting`). What is computed is not kept. First each of ours is
checked: dense is diffusers' prediction, sparse is the recorded one, bit for bit outside of the mask.

`ms` is of one call: the median over rounds, and quartiles. `ratios` says by which factor our sparse call (`ratios_of`:
margin 0, rows on the device, captured where that can be) is faster than each other way. What did not take part is in
`left_out`, with the reason; interrupted, it tells what was measured by then. Masks of a packed file are sampled, and
each round takes the next one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from loadtests.conditions import clocks, conditions, save
from loadtests.contest import CallStep, Contest, Make
from loadtests.inputs import Inputs, both
from loadtests.macs import read_masks
from loadtests.passes import CapturedOnly, Passes
from loadtests.peers import COMPILE_MODE, KEEP_INTERVAL, eager, peers, settings
from loadtests.shapes import CONFIGS, ratio_name, resized, sampled, synthetic_masks, widened
from service.engine.graphs import CudaRecorder, Graphs, Recorder
from sparse_ops.launch import why_not

GRAPHS_BYTES = 16 << 30
OURS = ("dense", "dense graphs", "sparse", "sparse graphs", "host", "host graphs")
WAYS = ("eager", "compile", "tomesd", "deepcache", *OURS)
TOLERANCE = {torch.float16: 2e-2, torch.float32: 1e-4}  # of the norm, through some hundred operators


@dataclass(frozen=True)
class Settings:
    """What is measured, and how often."""

    config: Mapping[str, Any]  # of diffusers' network
    size: int  # latent positions along an edge
    dtype: torch.dtype
    device: torch.device
    margins: Sequence[int] = (0, 1, 2)
    ways: Sequence[str] = WAYS
    num_calls: int = 2 * KEEP_INTERVAL  # in a row, after one that is not counted
    num_rounds: int = 10
    compile_mode: str = COMPILE_MODE
    seed: int = 0


class WrongPredictionError(Exception):
    """Ours is not what it should be; the text says by how much."""


def main() -> None:
    """Prints times and ratios."""
    parser = _parser()
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    size = arguments.size // 8
    try:
        masks = read_masks(arguments.masks) if arguments.masks else synthetic_masks(size)
    except ValueError as error:
        parser.error(str(error))
    masks = {name: resized(sampled(mask, arguments.sample), size) for name, mask in masks.items()}
    given = Settings(
        CONFIGS[arguments.model],
        size,
        torch.float16 if device.type == "cuda" else torch.float32,
        device,
        margins=arguments.margins,
        ways=[way for way in WAYS if way not in arguments.without],
        num_rounds=max(arguments.rounds, *map(len, masks.values())),  # so that each mask has its turn
        compile_mode=arguments.compile_mode,
    )
    result = {"model": arguments.model, "pixels": arguments.size} | measure(given, masks)
    if arguments.save:
        is_main = (arguments.model, arguments.size) == ("sd2.1", 768)
        program = "unet" if is_main else f"unet-{arguments.model}-{arguments.size}"
        print(save(result, program, arguments.save), file=sys.stderr)
    print(json.dumps(result) if arguments.json else "\n".join(f"{name}: {value}" for name, value in result.items()))
    if failed := [way for way in result["failed"] if way.startswith(OURS)]:
        sys.exit(f"of ours these failed: {', '.join(failed)}")


@torch.no_grad()
def measure(given: Settings, masks: Mapping[str, Tensor], recorder: Recorder | None = None) -> dict[str, Any]:
    """What is printed, for masks bool [N, H, W] by name. `recorder` is to capture passes where there is no GPU."""
    torch.backends.cudnn.benchmark = True  # the fastest of its convolutions, for all who use them
    under = conditions(given.device, given.seed)
    theirs, unet = both(given.config, given.dtype, given.device, given.seed)
    inputs = Inputs.random(unet.cfg, given.size, given.dtype, given.device, given.seed)
    passes = Passes.recorded(unet, inputs, 1 + given.num_calls)
    if recorder is None and given.device.type == "cuda":
        recorder = CudaRecorder(given.device)
    graphs = None if recorder is None else CapturedOnly(recorder, GRAPHS_BYTES)
    contest = Contest(given.device, given.num_calls)
    if graphs is None:
        contest.left_out.update({way: "passes are captured on a GPU" for way in given.ways if way.endswith("graphs")})
    for name, make in _ways(given, theirs, passes, masks, graphs):
        contest.enter(name, make)
    num_rounds = contest.run(given.num_rounds)
    return {
        **under,
        "clocks_after": clocks() if given.device.type == "cuda" else None,
        "without_kernels": why_not(given.device),
        "latents": list(inputs.sample.shape),
        "dtype": str(given.dtype).removeprefix("torch."),
        "peers": settings(given.compile_mode),
        "calls": given.num_calls,
        "rounds": num_rounds,
        "masks": _described(masks, given.margins),
        **_results(contest, list(masks), given.margins[0]),
    }


def _ways(
    given: Settings,
    theirs: UNet2DConditionModel,
    passes: Passes,
    masks: Mapping[str, Tensor],
    graphs: Graphs | None,
) -> Iterator[tuple[str, Make]]:
    """All that are asked for, by name; last the one that takes a minute to be made."""
    others = peers(given.compile_mode)
    for name, peer in others.items():
        if name in given.ways and name != "compile":
            yield name, partial(_alone, peer, theirs, passes.inputs)
    captured = {"": None} if graphs is None else {"": None, " graphs": graphs}  # an empty one is false
    for suffix, by in captured.items():
        if f"dense{suffix}" in given.ways:
            yield f"dense{suffix}", partial(_dense, passes, theirs, by)
        for name, margin in ((name, margin) for name in masks for margin in given.margins):
            wide = widened(masks[name], margin)
            for tier in ("sparse", "host"):
                is_asked = f"{tier}{suffix}" in given.ways and (tier == "sparse" or margin == given.margins[0])
                if is_asked:
                    yield _way(tier, suffix, name, margin), partial(_sparse, passes, wide, by, from_host=tier == "host")
    if "compile" in given.ways:
        yield "compile", partial(_alone, others["compile"], theirs, passes.inputs)


def _way(tier: str, suffix: str, mask: str, margin: int) -> str:
    return f"{tier}{suffix} {ratio_name(mask)} margin {margin}"


def _alone(peer: Any, theirs: UNet2DConditionModel, inputs: Inputs) -> list[CallStep]:
    return [peer(theirs, inputs)]


def _dense(passes: Passes, theirs: UNet2DConditionModel, graphs: Graphs | None) -> list[CallStep]:
    """Checked: it is diffusers' prediction."""
    call = passes.dense(graphs)
    _check(call(0), eager(theirs, passes.inputs)(0), passes.inputs.sample.dtype)
    return [call]


def _sparse(passes: Passes, masks: Tensor, graphs: Graphs | None, *, from_host: bool) -> list[CallStep]:
    """Checked: nothing has changed, so each is the recorded prediction."""
    calls = [passes.sparse(mask, from_host=from_host, graphs=graphs) for mask in masks]
    for call, mask in zip(calls, masks, strict=True):
        call(0)
        _check(call.noise, passes.noise, passes.inputs.sample.dtype)
        outside = (~mask).to(passes.noise.device)
        if not torch.equal(call.noise.movedim(1, 3)[:, outside], passes.noise.movedim(1, 3)[:, outside]):
            raise WrongPredictionError("outside of the mask it is not the recorded prediction")
    return [*calls]


def _check(noise: Tensor, expected: Any, dtype: torch.dtype) -> None:
    off = float((noise.float() - expected.float()).norm() / expected.float().norm())
    if not off <= TOLERANCE[dtype]:  # a NaN is not
        raise WrongPredictionError(
            f"the prediction is off by {off:.1e} of its norm, {TOLERANCE[dtype]:.0e} is rounding"
        )


def _described(masks: Mapping[str, Tensor], margins: Sequence[int]) -> dict[str, Any]:
    """Of each mask its name in the file, how many there are, and which part is computed under each margin."""
    return {
        ratio_name(name): {
            "mask": name,
            "count": len(stack),
            "computed_ratio": {margin: round(float(widened(stack, margin).float().mean()), 4) for margin in margins},
        }
        for name, stack in masks.items()
    }


def _results(contest: Contest, masks: Sequence[str], margin: int) -> dict[str, Any]:
    """Times, and ratios to ours."""
    ms = contest.ms()
    suffix = " graphs" if _way("sparse", " graphs", masks[0], margin) in ms else ""
    own = {ratio_name(name): _way("sparse", suffix, name, margin) for name in masks}
    others = [name for name in ms if not name.startswith(("sparse", "host"))]
    return {
        "ratios_of": f"sparse{suffix}, margin {margin}, rows on the device",
        "ratios": {
            other: {ratio: round(ms[other]["median"] / ms[way]["median"], 2) for ratio, way in own.items() if way in ms}
            for other in others
        },
        "calls_per_second": {name: round(1e3 / spread["median"], 2) for name, spread in ms.items()},
        "ms": ms,
        "waiting": contest.waiting(),
        "left_out": contest.left_out,
        "failed": contest.failed,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=CONFIGS, default="sd2.1")
    parser.add_argument("--size", type=int, choices=(512, 768, 1024), default=768, help="pixels along an edge")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--masks", type=Path, help=".npz of named bool masks, or of packed `masks` and `shape`")
    parser.add_argument(
        "--sample",
        type=int,
        default=20,
        help="of packed masks so many, a seeded choice (then --margins 0 saves memory)",
    )
    parser.add_argument("--margins", type=int, nargs="+", default=[0, 1, 2], help="positions computed around a mask")
    parser.add_argument("--without", nargs="*", default=[], choices=WAYS, help="ways that do not take part")
    parser.add_argument("--compile-mode", default=COMPILE_MODE, help="of torch.compile")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("--save", type=Path, metavar="DIRECTORY", help="keep the JSON there, named by device and date")
    return parser


if __name__ == "__main__":
    main()
