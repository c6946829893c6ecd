"""Which tile, how many warps and splits are best for each shape: what `choose_conv` and attention are to be set by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from itertools import product
from math import inf, isfinite
from typing import Any
from unittest.mock import patch

from torch import Tensor

from loadtests.kernels.clock import Clock
from loadtests.kernels.operators import CHANNELS, INPUTS
from loadtests.kernels.scene import NUM_LEVELS, Scene
from sparse_ops import cuda, launch
from sparse_ops.cuda import conv
from sparse_ops.cuda.conv import ConvTile
from sparse_ops.segments import even

TILES = (
    ConvTile.of(64, 64, 32, (2, 2), 4),
    ConvTile.of(64, 64, 64, (2, 2), 3),
    ConvTile.of(96, 64, 32, (2, 2), 4),
    ConvTile.of(128, 64, 32, (2, 2), 4),
    ConvTile.of(128, 64, 64, (4, 2), 3),
    ConvTile.of(128, 128, 32, (2, 4), 4),
    ConvTile.of(256, 64, 32, (4, 1), 4),
)
attention = import_module("sparse_ops.cuda.attention")  # the package's `attention` is the function
WARPS = (4, 8)
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
TOLERANCE = 2e-3  # between two ways of summing up, of the norm

Times = dict[tuple[str, int], float]  # milliseconds by what was chosen, and splits


def of_mask(scene: Scene, clock: Clock) -> Iterator[dict[str, Any]]:
    """Each shape's times, best first, and what is chosen today."""
    for level, plan in enumerate(scene.plans):
        if plan.same is not None:  # it is of a resolution of which a mask leaves nothing
            for width in dict.fromkeys(sum(inputs) for inputs in INPUTS[level]):
                yield convolution(scene, level, plan.same, width * scene.widths.channels, clock)
    for level in range(NUM_LEVELS):
        yield self_attention(scene, level, clock)


def convolution(scene: Scene, level: int, neighbors: Tensor, channels: int, clock: Clock) -> dict[str, Any]:
    """The gather and its products alone: no norm, and no halo apart."""
    plan, out_channels = scene.plans[level], scene.widths.channels * CHANNELS[level]
    sources = scene.random(len(plan.rows) + len(plan.halo), channels)
    weight, bias = scene.weight(out_channels, channels), scene.random(out_channels)

    def run() -> Tensor:
        return conv.conv3x3(sources, [], neighbors, weight, bias)

    def choose(tile: ConvTile, splits: int) -> Callable[..., tuple[ConvTile, int]]:
        return lambda *_: (tile, splits)

    expected, times = run(), Times()
    for tile, splits in product(TILES, SPLITS):
        with patch.object(conv, "choose_conv", choose(tile, splits)):
            times[tile.kernel.entry, splits] = _checked_ms(run, expected, clock)
    shape = {"rows": len(neighbors), "channels": channels, "out_channels": out_channels}
    return _told("conv3x3", scene, shape, times, _launched(run), clock.time(run).ms)


def self_attention(scene: Scene, level: int, clock: Clock) -> dict[str, Any]:
    """Rows to all keys of their image; warps are 16 queries each."""
    plan, channels = scene.plans[level], scene.widths.channels * CHANNELS[level]
    num_heads, num_keys = channels // scene.widths.head, plan.height * plan.width
    queries = scene.random(len(plan.rows), channels)
    keys, values = (scene.random(2 * num_keys, channels) for _ in range(2))
    of_keys = even(2, num_keys, scene.device)

    def run() -> Tensor:
        return cuda.attention(queries, plan.rows, keys, values, of_keys, num_heads=num_heads)

    expected, times = run(), Times()
    for warps, splits in product(WARPS, SPLITS):
        kernel = attention.attention_kernel(scene.widths.head, warps=warps)
        with (
            patch.object(attention, "attention_kernel", return_value=kernel),
            patch.object(attention, "choose_splits", return_value=splits),
        ):
            times[kernel.entry, splits] = _checked_ms(run, expected, clock)
    shape = {"rows": len(queries), "keys": num_keys, "heads": num_heads}
    return _told("attention", scene, shape, times, _launched(run), clock.time(run).ms)


def line(told: Mapping[str, Any]) -> str:
    """For people: the three best, and today's."""
    best = "; ".join(f"{entry} / {splits}: {ms:.4f}" for entry, splits, ms in told["ms"][:3])
    entry, splits = told["chosen"]
    shape = " ".join(f"{name} {value}" for name, value in told["shape"].items())
    chosen = f"chosen {entry} / {splits}: {told['chosen_ms']:.4f}"
    return f"{told['operator']:10} {told['mask']:8} {shape:44} {best}  |  {chosen}"


def _launched(run: Callable[[], Tensor]) -> tuple[str, int]:
    """The entry and the splits that are chosen today."""
    with patch.object(launch, "launch", wraps=launch.launch) as launched:
        run()
    kernel, grid = launched.call_args.args[:2]
    return kernel.entry, grid[2]


def _checked_ms(run: Callable[[], Tensor], expected: Tensor, clock: Clock) -> float:
    """Milliseconds; infinity where the sum is another."""
    off = float((run().float() - expected.float()).norm() / expected.float().norm())
    return clock.time(run).ms if off <= TOLERANCE else inf


def _told(
    operator: str, scene: Scene, shape: Mapping[str, int], times: Times, chosen: tuple[str, int], chosen_ms: float
) -> dict[str, Any]:
    ordered = sorted(times, key=lambda each: times[each])
    return {
        "operator": operator,
        "mask": scene.name,
        "shape": dict(shape),
        "ms": [[*each, round(times[each], 4)] for each in ordered if isfinite(times[each])],
        "wrong": [list(each) for each in ordered if not isfinite(times[each])],
        "chosen": list(chosen),
        "chosen_ms": round(chosen_ms, 4),
    }
