"""Requests for pictures, made up and seeded, on which ways to evict are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

EXPONENT = 0.9  # of Zipf's law
CHAIN = 4  # requests of a session on average: as many as service.md's locust edits
GAP_SECONDS = 60.0  # between two of a session, on average: somebody looks, and writes new words


@dataclass(frozen=True)
class Trace:
    """A request each second. A picture is what is kept of a session: a recording, as one piece."""

    asked: Integers  # [requests] which picture
    num_bytes: Integers  # [pictures]
    seconds_saved: Floats  # [pictures] by one hit
    popularity: Floats | None = None  # [pictures] where requests are independent: the probability of each

    @property
    def used_bytes(self) -> int:
        """Of all pictures that are asked for."""
        return int(self.num_bytes[np.unique(self.asked)].sum())


def sessions(rng: Generator, num_requests: int, num_pictures: int) -> Trace:
    """Every CHAIN seconds somebody comes to a picture, by Zipf's law, and edits on after GAP_SECONDS, geometrically."""
    num_sessions = 2 * num_requests // CHAIN + 1  # the later half is not reached
    lengths = rng.geometric(1 / CHAIN, num_sessions)
    first = np.cumsum(lengths) - lengths
    waits = np.cumsum(rng.exponential(GAP_SECONDS, lengths.sum()))
    starts = np.cumsum(rng.exponential(CHAIN, num_sessions))
    seconds = waits + np.repeat(starts - waits[first], lengths)
    pictures = np.repeat(_zipf(rng, num_sessions, num_pictures), lengths)
    return _with_sizes(rng, pictures[np.argsort(seconds)[:num_requests]], num_pictures)


def independent(rng: Generator, num_requests: int, num_pictures: int) -> Trace:
    """Each request is drawn by Zipf's law for itself: nothing follows from who was asked for last."""
    trace = _with_sizes(rng, _zipf(rng, num_requests, num_pictures), num_pictures)
    return Trace(trace.asked, trace.num_bytes, trace.seconds_saved, _probabilities(num_pictures))


def recent(rng: Generator, num_requests: int, num_pictures: int) -> Trace:
    """Every picture has its day: exponentially less is asked for what is older. Here last use tells all."""
    born = np.arange(num_requests) * num_pictures / num_requests
    ages = rng.exponential(0.03 * num_pictures, num_requests)
    return _with_sizes(rng, np.maximum(born - ages, 0).astype(np.int64), num_pictures)


def shifting(rng: Generator, num_requests: int, num_pictures: int) -> Trace:
    """As `independent`, but ten times all popularity is dealt anew."""
    asked = np.concatenate([
        rng.permutation(num_pictures)[_zipf(rng, len(part), num_pictures)]
        for part in np.array_split(np.arange(num_requests), 10)
    ])  # fmt: skip
    return _with_sizes(rng, asked, num_pictures)


def scan(rng: Generator, num_requests: int, num_pictures: int) -> Trace:
    """As `independent`, but every second request is for a picture that is never asked for again."""
    asked = _zipf(rng, num_requests, num_pictures)
    asked[1::2] = num_pictures + np.arange(num_requests // 2)
    return _with_sizes(rng, asked, num_pictures + num_requests // 2)


def loop(rng: Generator, num_requests: int, num_pictures: int) -> Trace:
    """A fifth of the pictures, around and around: who was used last is needed last."""
    return _with_sizes(rng, np.arange(num_requests) % (num_pictures // 5), num_pictures)


TRACES: dict[str, Callable[[Generator, int, int], Trace]] = {
    each.__name__: each for each in (sessions, independent, recent, shifting, scan, loop)
}


def _probabilities(num_pictures: int) -> Floats:
    weights = np.arange(1, num_pictures + 1) ** -EXPONENT
    return np.asarray(weights / weights.sum())


def _zipf(rng: Generator, num_draws: int, num_pictures: int) -> Integers:
    return rng.choice(num_pictures, num_draws, p=_probabilities(num_pictures))


def _with_sizes(rng: Generator, asked: Integers, num_pictures: int) -> Trace:
    """Sizes log-uniform over a factor of 10, seconds in proportion, times e to the power of 0.5 x normal noise."""
    num_bytes = (10e6 * 10 ** rng.uniform(0, 1, num_pictures)).astype(np.int64)
    seconds = num_bytes / 10e6 * np.exp(0.5 * rng.standard_normal(num_pictures))
    return Trace(asked, num_bytes, seconds)
