"""Ways to evict, compared on made-up requests, without running a network: `python -m loadtests.cache_policy --help`.

Everybody holds what was just made, and drops what is worth least in its own eyes until the bytes suffice. LFU, GDSF and
ours remember how often a picture was used also when its rows are gone; `ours_forgetting` does not. On independent
requests `popularity` is told the probabilities: who has to learn them cannot be expected to do better.

With unequal sizes Belady's rule is not the optimum, and to find that is NP-hard. So it is bracketed, as in "Practical
Bounds on Optimal Caching with Variable Object Sizes" (Berger, Beckmann, Harchol-Balter): each pause between two uses
costs bytes x time and gains seconds. `pfoo_l` takes pauses by gain per cost where they still fit: it knows the future,
and can be done. `bound` (PFOO-U) takes them until bytes x time of the whole trace are used up, wherever: nobody saves
more. Shares of seconds are of the best offline policy: that of Belady, Belady by worth and PFOO-L which saves most.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtests.conditions import commit
from loadtests.policies import NEVER, POLICIES, Policy, Popularity, next_uses
from loadtests.traces import TRACES, Trace

Bools = NDArray[np.bool_]
OFFLINE = ("belady", "belady_worth", "pfoo_l")


def simulate(trace: Trace, capacity_bytes: int, policy: Policy) -> Bools:
    """[requests]: which are hits. The picture that is asked for is held while others leave."""
    hits = np.zeros(len(trace.asked), dtype=np.bool_)
    place = np.full(len(trace.num_bytes), -1)  # in `held`
    held = np.empty(len(trace.num_bytes), dtype=np.int64)
    num_held, free_bytes = 0, capacity_bytes
    for now, picture in enumerate(trace.asked.tolist()):
        hits[now] = place[picture] >= 0
        policy.use(picture, now, hit=bool(hits[now]))
        if hits[now]:
            continue
        free_bytes -= int(trace.num_bytes[picture])
        others = held[:num_held].copy()
        worth = policy.worth(others, now).astype(np.float64) if free_bytes < 0 else np.empty(0)
        held[num_held], place[picture], num_held = picture, num_held, num_held + 1
        while free_bytes < 0:
            least = int(worth.argmin())
            leaves, worth[least] = int(others[least]), np.inf
            policy.leave(leaves, now)
            num_held -= 1
            held[place[leaves]], place[held[num_held]], place[leaves] = held[num_held], place[leaves], -1
            free_bytes += int(trace.num_bytes[leaves])
    return hits


def pfoo(trace: Trace, capacity_bytes: int) -> tuple[Bools, float]:
    """What PFOO-L hits [requests], and the seconds that nobody can save more than (PFOO-U)."""
    again = next_uses(trace.asked)
    first = np.flatnonzero(again < NEVER)
    last, pictures = again[first], trace.asked[first]
    sizes, gains = trace.num_bytes[pictures], trace.seconds_saved[pictures]
    costs = sizes * (last - first).astype(np.float64)
    order = np.argsort(-gains / costs, kind="stable")
    parts = np.clip((capacity_bytes * len(trace.asked) - (np.cumsum(costs[order]) - costs[order])) / costs[order], 0, 1)
    hits = np.zeros(len(trace.asked), dtype=np.bool_)
    free = np.full(len(trace.asked), capacity_bytes)
    for pause in order.tolist():
        span = free[first[pause] : last[pause]]
        if span.min() >= sizes[pause]:
            span -= sizes[pause]
            hits[last[pause]] = True
    return hits, float(gains[order] @ parts)


def compare(trace: Trace, cache_ratio: float) -> dict[str, Any]:
    """Every policy on one trace, in a cache of so much of the bytes asked for. ValueError where a picture is larger."""
    capacity_bytes = int(cache_ratio * trace.used_bytes)
    if capacity_bytes < trace.num_bytes.max():
        raise ValueError(
            f"the cache must hold the largest picture, {trace.num_bytes.max()} bytes, got {capacity_bytes}"
        )
    policies = {name: each for name, each in POLICIES.items() if each is not Popularity or trace.popularity is not None}
    hits = {name: simulate(trace, capacity_bytes, each(trace)) for name, each in policies.items()}
    hits["pfoo_l"], bound_seconds = pfoo(trace, capacity_bytes)
    sizes, gains = trace.num_bytes[trace.asked], trace.seconds_saved[trace.asked]
    saved = {name: float(gains[its].sum()) for name, its in hits.items()}
    best = max(OFFLINE, key=lambda name: saved[name])
    return {
        "num_pictures": len(np.unique(trace.asked)),
        "capacity_bytes": capacity_bytes,
        "dense_seconds": round(float(gains.sum())),
        "best_offline": best,
        "bound_share": round(bound_seconds / saved[best], 4),
        "policies": {
            name: {
                "hit_ratio": round(float(its.mean()), 4),
                "byte_hit_ratio": round(float(sizes[its].sum() / sizes.sum()), 4),
                "seconds_saved": round(saved[name]),
                "share": round(saved[name] / saved[best], 4),
            }
            for name, its in hits.items()
        },
    }


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = []
    for name, its in result["traces"].items():
        lines.append(f"{name}: {its['num_pictures']} pictures, {its['dense_seconds']} s dense")
        lines += [
            f"  {policy:16} hits {each['hit_ratio']:6.3f}  of bytes {each['byte_hit_ratio']:6.3f}"
            f"  {each['seconds_saved']:8} s  {each['share']:6.3f}"
            for policy, each in its["policies"].items()
        ]
        lines.append(f"  {'bound':56}  {its['bound_share']:6.3f} of {its['best_offline']}")
    return "\n".join(lines)


def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", nargs="+", choices=TRACES, default=list(TRACES), help="the first is the default")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--pictures", type=int, default=10_000, help="that Zipf's law draws from")
    parser.add_argument("--cache", type=float, default=0.1, help="the cache's share of all bytes asked for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--save", type=Path, metavar="DIR", help="also keep it there, as cache_policy.json")
    arguments = parser.parse_args()
    told = {"requests": arguments.requests, "pictures": arguments.pictures, "cache": arguments.cache}
    result: dict[str, Any] = told | {"seed": arguments.seed, "numpy": np.__version__, "commit": commit(), "traces": {}}
    for name in arguments.traces:
        trace = TRACES[name](np.random.default_rng(arguments.seed), arguments.requests, arguments.pictures)
        try:
            result["traces"][name] = compare(trace, arguments.cache)
        except ValueError as error:
            parser.error(str(error))
    if arguments.save:
        arguments.save.mkdir(parents=True, exist_ok=True)
        (arguments.save / "cache_policy.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result) if arguments.json else table(result))


if __name__ == "__main__":
    main()
