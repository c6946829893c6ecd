"""More than a service can do: who is served in time, how fast the others are refused, and what becomes of its memory.

    python -m loadtests.overload --seconds 60 --factor 4 --json

First a closed loop of as many clients as jobs run at a time measures how many jobs a second it does: its capacity. Then
jobs arrive at random (Poisson), `--factor` times as many as that, whether or not earlier ones have been answered, and
each with a deadline. They are edits of a few kept pictures, each computed anew, and some new pictures; nothing of them
is kept. Without `--url` it is a service of its own, `retouch serve` as RETOUCH_ settings have it.

A job that was taken is in time when its whole answer is here by its deadline. Of a refusal that time counts, too, as
the client waits for it. `lag_seconds` are how late the generator itself was: where they are not small it shares a
processor with the service, and all times are larger than they would be. The service's memory and the error of its
predictions are read from its /metrics.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import torch

from loadtests.arrivals import Sent, poisson, send_at, send_in_turn
from loadtests.conditions import conditions
from loadtests.served import metrics_of, served
from service.client import AsyncClient
from service.client.calls import GenerateFields
from service.errors import BusyError, DeadlineError, NotReadyError, RetouchError

End = Literal["done", "late", "refused", "not_ready", "failed"]
ENDS: tuple[End, ...] = ("done", "late", "refused", "not_ready", "failed")
QUICK_SECONDS = 0.05  # a refusal
SAMPLE_SECONDS = 1.0
MIB = 2**20

SOURCES = ("a green hill under a clear sky", "a sea under a cloudy sky", "a snow mountain under a night sky")
ADDED = ("a red house", "a tree", "a tent", "fireworks", "a boat", "a blue house")


@dataclass(frozen=True)
class Plan:
    """What is asked."""

    seconds: float = 60.0  # of overload
    factor: float = 4.0  # times the capacity
    deadline_seconds: float = 10.0
    capacity_seconds: float = 20.0
    clients: int = 8  # of the closed loop
    size: int = 128  # pixels
    steps: int = 8
    new_ratio: float = 0.2  # of jobs, that draw a new picture
    seed: int = 0

    @property
    def sampling(self) -> GenerateFields:
        """Of every picture."""
        return {"num_inference_steps": self.steps, "width": self.size, "height": self.size}


@dataclass(frozen=True)
class Ended:
    """One request, from its sending to the last byte of its answer."""

    end: End
    seconds: float


@dataclass
class Asker:
    """Asks one service for jobs, each other than those before."""

    client: AsyncClient
    plan: Plan
    sources: Sequence[str] = ()  # ids
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.plan.seed)

    async def draw_sources(self) -> None:
        """The pictures that are edited."""
        drawn = [await self.client.generate(prompt, **self.plan.sampling) for prompt in SOURCES]
        self.sources = [one.image_id for one in drawn]

    async def ask(self, number: int, *, deadline_seconds: float | None = None) -> Ended:
        """One job, and how it ended."""
        begin = time.perf_counter()
        try:
            await self._job(number, deadline_seconds)
            end: End = "done"
        except DeadlineError:
            end = "late"
        except BusyError:
            end = "refused"
        except NotReadyError:
            end = "not_ready"
        except (RetouchError, httpx.HTTPError):
            end = "failed"
        return Ended(end, time.perf_counter() - begin)

    async def _job(self, number: int, deadline_seconds: float | None) -> None:
        if self.rng.random() < self.plan.new_ratio:
            prompt = self.rng.choice(SOURCES)
            new: GenerateFields = {"seed": 1 + number, "cache": "off", "deadline_seconds": deadline_seconds}
            await self.client.generate(prompt, **new | self.plan.sampling)
            return
        source = self.rng.randrange(len(self.sources))
        await self.client.edit(
            f"{SOURCES[source]} with {self.rng.choice(ADDED)}",
            image_id=self.sources[source],
            cache="read_only",
            deadline_seconds=deadline_seconds,
        )


async def measure(url: str, plan: Plan) -> dict[str, Any]:
    """Capacity, then overload.

    RetouchError or httpx.HTTPError where the service does not even draw the sources; RuntimeError if nothing else.
    """
    unbounded = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None, max_keepalive_connections=None))
    async with AsyncClient(url, transport=unbounded) as client, httpx.AsyncClient(base_url=url) as scraper:
        asker = Asker(client, plan)
        await asker.draw_sources()
        alone, seconds = await send_in_turn(plan.clients, plan.capacity_seconds, asker.ask)
        capacity = sum(one.end == "done" for one in alone) / seconds
        if not capacity:
            raise RuntimeError(f"no job was done, {Counter(one.end for one in alone)}")
        before = await metrics_of(scraper)
        times = list(poisson(plan.factor * capacity, plan.seconds, asker.rng))
        async with _sampling(scraper) as samples:
            sent = await send_at(times, partial(asker.ask, deadline_seconds=plan.deadline_seconds))
        after = await metrics_of(scraper)
    return {
        "plan": asdict(plan),
        "capacity": {"jobs_per_second": round(capacity, 3), "seconds": told([one.seconds for one in alone])},
        **summary(sent, plan),
        "server": server(before, samples, after),
    }


def summary(sent: Sent[Ended], plan: Plan) -> dict[str, Any]:
    """How the requests ended."""
    ended = Counter(one.end for one in sent.answers)
    taken = [one for one in sent.answers if one.end in {"done", "late"}]
    in_time = [one for one in taken if one.end == "done" and one.seconds <= plan.deadline_seconds]
    refused = [one.seconds for one in sent.answers if one.end in {"refused", "not_ready"}]
    return {
        "sent": len(sent.answers),
        "ended": {end: ended[end] for end in ENDS},
        "lag_seconds": told(sent.lag_seconds),
        "accepted": {
            "jobs_per_second": round(len(in_time) / plan.seconds, 3),
            "seconds": told([one.seconds for one in taken]),
            "in_time": _share(len(in_time), len(taken)),
        },
        "refusals": {
            "seconds": told(refused),
            "quick": _share(sum(seconds < QUICK_SECONDS for seconds in refused), len(refused)),
        },
    }


def server(before: dict[str, float], samples: list[dict[str, float]], after: dict[str, float]) -> dict[str, Any] | None:
    """Its memory in MiB and by how many seconds of the device it foretold jobs wrongly; None where it does not tell."""
    if not before:
        return None
    memory = [round(one["process_resident_memory_bytes"] / MIB) for one in (before, *samples, after)]
    files = [int(one["process_open_fds"]) for one in (before, *samples, after)]
    wrong, jobs = (
        after[name] - before[name] for name in ("retouch_prediction_error_seconds_total", "retouch_predictions_total")
    )
    return {
        "memory_mib": {"before": memory[0], "max": max(memory), "after": memory[-1], "each_10_s": memory[::10]},
        "open_files": {"before": files[0], "max": max(files), "after": files[-1]},
        "prediction_error_seconds": round(wrong / jobs, 3) if jobs else None,
    }


def told(seconds: Sequence[float]) -> dict[str, float] | None:
    """The middle and the end of a distribution; None of nothing."""
    if not seconds:
        return None
    return {
        name: round(float(np.quantile(seconds, part)), 4) for name, part in (("p50", 0.5), ("p95", 0.95), ("max", 1))
    }


@asynccontextmanager
async def _sampling(scraper: httpx.AsyncClient) -> AsyncIterator[list[dict[str, float]]]:
    """What /metrics says meanwhile."""
    samples: list[dict[str, float]] = []

    async def sample() -> None:
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            if found := await metrics_of(scraper):
                samples.append(found)

    sampler = asyncio.create_task(sample())
    try:
        yield samples
    finally:
        sampler.cancel()
        await asyncio.gather(sampler, return_exceptions=True)


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def as_text(result: dict[str, Any]) -> str:
    """The result for people."""
    plan, ended, accepted, refusals = (result[name] for name in ("plan", "ended", "accepted", "refusals"))
    lines = [
        f"capacity {result['capacity']['jobs_per_second']} jobs a second, each in {result['capacity']['seconds']} s",
        f"{plan['factor']:g} times that for {plan['seconds']:g} s: {result['sent']} sent, {ended}",
        f"accepted: {accepted['seconds']} s, deadline {plan['deadline_seconds']:g} s, in time {accepted['in_time']}",
        f"refused: {refusals['seconds']} s, under {QUICK_SECONDS:g} s {refusals['quick']}",
        f"sent late by {result['lag_seconds']} s",
        f"the service: {result['server']}",
    ]
    return "\n".join(lines)


def main() -> None:
    """Prints what was measured."""
    plan = Plan()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a service that runs; default: one of its own")
    parser.add_argument("--seconds", type=float, default=plan.seconds, help="of overload")
    parser.add_argument("--factor", type=float, default=plan.factor, help="times the capacity")
    parser.add_argument("--deadline-seconds", type=float, default=plan.deadline_seconds, help="of each job")
    parser.add_argument("--capacity-seconds", type=float, default=plan.capacity_seconds, help="of the closed loop")
    parser.add_argument("--clients", type=int, default=plan.clients, help="of the closed loop")
    parser.add_argument("--size", type=int, default=plan.size, help="of the pictures, in pixels")
    parser.add_argument("--steps", type=int, default=plan.steps)
    parser.add_argument("--seed", type=int, default=plan.seed)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("--save", type=Path, metavar="DIR", help="also keep it there, as overload.json")
    arguments = parser.parse_args()
    own = {name: value for name, value in vars(arguments).items() if name not in {"url", "json", "save"}}
    told_first = conditions(torch.device("cpu"), arguments.seed)
    settings = {name: value for name, value in sorted(os.environ.items()) if name.startswith("RETOUCH_")}
    with nullcontext(arguments.url) if arguments.url else served() as url:
        result = told_first | {"settings": settings} | asyncio.run(measure(url, Plan(**own)))
    if arguments.save:
        arguments.save.mkdir(parents=True, exist_ok=True)
        (arguments.save / "overload.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result) if arguments.json else as_text(result))


if __name__ == "__main__":
    main()
