"""A case measured, as plain data and as a line of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loadtests.kernels.case import Case, WrongResultError, check
from loadtests.kernels.clock import Clock, Peaks

NUMBERS = f"{'ms':>8} {'TFLOP/s':>8} {'GB/s':>7} {'share':>6} {'roof ms':>8} {'dense ms':>9} {'gain':>6}"
HEAD = f"{'operator':22} {'shape':62} {NUMBERS}"


def measured(case: Case, clock: Clock, peaks: Peaks) -> dict[str, Any]:
    """Checked, then timed. Of a wrong result there is no time, only `wrong`."""
    told: dict[str, Any] = {"operator": case.operator, "shape": case.shape}
    try:
        told["error"] = check(case)
    except WrongResultError as error:
        return told | {"wrong": str(error)}
    ours = clock.time(case.ours)
    dense = clock.time(case.dense) if case.dense else None
    tflops, gb_s = 2 * case.multiply_adds / ours.ms / 1e9, case.num_bytes / ours.ms / 1e6
    roofline_ms = roofline(case, peaks)
    return told | {
        "ms": round(ours.ms, 4),
        "spread_ms": [round(ours.low, 4), round(ours.high, 4)],
        "tflops": round(tflops, 2),
        "gb_s": round(gb_s, 1),
        "matrix_share": round(tflops / peaks.matrix_tflops, 3),
        "wire_share": round(gb_s / _wire_gb_s(case, peaks), 3),
        "roofline_ms": round(roofline_ms, 4),
        "dense_ms": round(dense.ms, 4) if dense else None,
    }


def roofline(case: Case, peaks: Peaks) -> float:
    """Milliseconds that its products or its bytes take at least, at this card's measured best."""
    return max(2 * case.multiply_adds / peaks.matrix_tflops / 1e9, case.num_bytes / _wire_gb_s(case, peaks) / 1e6)


def checked(case: Case) -> dict[str, Any]:
    """Only whether it is right."""
    told: dict[str, Any] = {"operator": case.operator, "shape": case.shape}
    try:
        return told | {"error": check(case)}
    except WrongResultError as error:
        return told | {"wrong": str(error)}


def line(told: Mapping[str, Any]) -> str:
    """For people; the share is that of the limit which binds."""
    begin = f"{told['operator']:22} {told['shape']:62}"
    if "wrong" in told:
        return f"{begin} WRONG: {told['wrong']}"
    if "ms" not in told:
        return f"{begin} right to {told['error']:.0e}"
    share, dense = told["roofline_ms"] / told["ms"], told["dense_ms"]
    gain = f"{dense:9.4f} {dense / told['ms']:5.1f}x" if dense else ""
    rates = f"{told['ms']:8.4f} {told['tflops']:8.1f} {told['gb_s']:7.0f}"
    return f"{begin} {rates} {share:6.0%} {told['roofline_ms']:8.4f} {gain}"


def wrong(kernels: Iterable[Mapping[str, Any]]) -> Sequence[str]:
    """What went wrong, if something did."""
    return [str(told["wrong"]) for told in kernels if told.get("wrong")]


def _wire_gb_s(case: Case, peaks: Peaks) -> float:
    return peaks.pinned_gb_s if case.wire == "pinned" and peaks.pinned_gb_s else peaks.memory_gb_s
