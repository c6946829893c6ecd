"""Seconds of one call of Stable Diffusion 2.1's U-Net on this CPU, dense next to sparse.

866 M random weights (time does not depend on what they are), 96 x 96 latents, both guidance branches, bf16, one
thread, all resolutions sparse, margin 0, recorded keys and values (or attention inputs: `--record inputs`), one step
held in a dict, not in the store. Dense is the fastest of ours, ours while it records, and diffusers'. Needs 8 GB and
some six minutes; stop everything else first.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loadtests.conditions import conditions
from loadtests.inputs import both
from loadtests.shapes import NUM_TOKENS, check_size, load_masks, synthetic_masks
from sparse_ops.context import Context
from sparse_ops.plan import Plan, active_positions, dense_plans, make_plans
from sparse_ops.positions import Positions

SIZE = 96
SD21 = {
    "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True,
    "sample_size": SIZE, "upcast_attention": True,
}  # fmt: skip


class Kept(dict[str, Tensor]):
    """Keeps one dense step of a batch: the writer."""

    def rows(self, key: str, level: int, values: Tensor, positions: Positions) -> None:
        """All rows, copied."""
        del level, positions
        self[key] = values.clone()

    def statistics(self, key: str, values: Tensor) -> None:
        """Of all images."""
        self[key] = values


class Reading:
    """Gives what was kept: the reader."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def rows(self, key: str, positions: Positions) -> Tensor:
        """Rows [M, C]."""
        return self._kept[key].index_select(0, positions.index)

    def keys(self, key: str, plan: Plan) -> Tensor:
        """Attended rows in their places among all keys."""
        kept = self._kept[key]
        joined = kept.new_empty(len(plan.keys), kept.shape[1])
        ends = zip(plan.keys.offsets[1:], plan.attended.images(), strict=True)
        for end, part in ends:
            count = part.stop - part.start
            torch.index_select(kept, 0, plan.attended.index[part], out=joined[end - count : end])
        return joined

    def statistics(self, key: str) -> Tensor:
        """Mean and variance [B, 2, G]."""
        return self._kept[key]


def seconds_of(name: str, run: Callable[[], object], num_runs: int = 1) -> float:
    """The best of some runs; tells what it is doing."""
    seconds = []
    for _ in range(num_runs):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
        print(f"{name} {seconds[-1]:.2f} s", file=sys.stderr, flush=True)
    return min(seconds)


@torch.no_grad()
def measure(
    masks: dict[str, Tensor], *, keep_inputs: bool, config: Mapping[str, Any] = SD21, size: int = SIZE
) -> dict[str, object]:
    """What is printed."""
    theirs, ours = both(config, torch.bfloat16, torch.device("cpu"), seed=0)
    inputs = torch.randn(2, 4, size, size, dtype=torch.bfloat16), torch.tensor([500, 500])
    embeds = torch.randn(2, NUM_TOKENS, ours.cfg.context_channels, dtype=torch.bfloat16)
    text = ours.read(embeds)  # once for a prompt, not for each step
    num_levels = len(ours.cfg.channels)
    everything, kept = dense_plans(2, size, size, num_levels), Kept()
    recording = Context(everything, writer=kept, keep_inputs=keep_inputs)
    seconds = {"recording": seconds_of("recording", lambda: ours(*inputs, text, recording))}
    for name, mask in masks.items():
        plans = make_plans(active_positions(mask.expand(2, -1, -1), num_levels))
        context = Context(plans, Reading(kept), keep_inputs=keep_inputs)
        seconds[name] = seconds_of(name, lambda context=context: ours(*inputs, text, context), num_runs=4)  # type: ignore[misc]  # mypy cannot infer the lambda's default
    seconds["dense"] = seconds_of("dense", lambda: ours(*inputs, text, Context(everything)))
    seconds["dense, diffusers"] = seconds_of("dense, diffusers", lambda: theirs(*inputs, embeds))
    dense = min(seconds[name] for name in ("recording", "dense", "dense, diffusers"))
    return {
        "latents": [2, 4, size, size],
        "channels": ours.cfg.channels,
        "dtype": "bfloat16",
        "recorded": "inputs" if keep_inputs else "keys_values",
        "conditions": conditions(torch.device("cpu"), seed=0),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "ratios": {name: round(dense / seconds[name], 2) for name in masks},
    }


def main() -> None:
    """Prints seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=Path, help=".npz of named bool masks [96, 96]")
    parser.add_argument("--record", choices=("keys_values", "inputs"), default="keys_values")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    masks = load_masks(arguments.masks) if arguments.masks else synthetic_masks(SIZE)
    try:
        check_size(masks, SIZE)
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(arguments.threads)
    result = measure(masks, keep_inputs=arguments.record == "inputs")
    print(json.dumps(result) if arguments.json else "\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
