"""The few numbers of a directory of results that one wants to see first: python -m loadtests.headlines DIRECTORY."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

RECENT_SECONDS = 3600  # results of an earlier run lie beside those of this one


def main() -> None:
    """Prints a table of what was measured in the last hour."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--all", action="store_true", help="those of earlier runs too")
    arguments = parser.parse_args()
    oldest = 0.0 if arguments.all else time.time() - RECENT_SECONDS
    for path in sorted(arguments.directory.glob("*-*.json")):
        if path.stat().st_mtime >= oldest:
            result = json.loads(path.read_text(encoding="utf-8"))
            print(f"\n{path.name}: {result.get('machine')}, {result.get('dtype')}")
            print("\n".join(f"  {line}" for line in lines_of(result)))


def lines_of(result: Mapping[str, Any]) -> Iterator[str]:
    """What a result says first, whichever program's it is."""
    if "ratios" in result and "ratios_of" in result:
        yield from _of_unet(result)
    elif "peaks" in result:
        yield from _of_kernels(result)
    elif "is_whole" in result or "batched" in result:
        yield from _of_edit(result)


def _of_unet(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"{result['ratios_of']}: faster than"
    for other, ratios in result["ratios"].items():
        yield f"  {other:14}" + "".join(f"  {ratio}: {factor:5.2f}x" for ratio, factor in ratios.items())
    for name, spread in result["ms"].items():
        waiting = result["waiting"].get(name)
        stood = "" if waiting is None else f"  {waiting:.1%} waiting for rows"
        yield f"  {name:34} {spread['median']:8.3f} ms  {spread['low']:8.3f} .. {spread['high']:8.3f}{stood}"
    yield from (f"  without {name}: {why}" for name, why in result["left_out"].items())


def _of_kernels(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"peaks {result['peaks']}"
    timed = [told for told in result["kernels"] if "ms" in told]
    for operator in dict.fromkeys(told["operator"] for told in timed):
        own = [told for told in timed if told["operator"] == operator]
        share = median(told["roofline_ms"] / told["ms"] for told in own)
        gain = median(told["dense_ms"] / told["ms"] for told in own if told["dense_ms"])
        medians = f"{share:4.0%} of its roofline, {gain:5.2f}x torch over the map"
        yield f"  {operator:22} {len(own):3} shapes, median: {medians}"
    yield from (f"  WRONG {told['wrong']}" for told in result["kernels"] if "wrong" in told)


def _of_edit(result: Mapping[str, Any]) -> Iterator[str]:
    for name, spread in result.get("speedup", {}).items():
        yield f"{name} ({result['edited_ratio']:.0%}): {spread['median']:.2f}x drawing it again"
    for ratio, told in result.get("masks", {}).items():
        factors = "".join(f"  {name}: {spread['median']:.2f}x" for name, spread in told["speedup"].items())
        yield f"mask {ratio}:{factors} drawing it again"
    if batched := result.get("batched"):
        yield f"{batched['edits']} edits together: {batched['speedup']['median']:.2f}x one by one"


if __name__ == "__main__":
    main()
