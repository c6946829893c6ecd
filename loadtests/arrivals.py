"""Requests that come when they come, whether or not earlier ones have been answered: an open loop.

A closed loop, whose clients each wait for their answer before they ask again, slows down with the service it measures,
and so hides how long people would wait.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Sent(Generic[T]):
    """What came of all requests, in the order in which they were sent."""

    answers: list[T]
    lag_seconds: list[float]  # how much later than it was due each was sent; the generator's own fault


def poisson(rate: float, seconds: float, rng: random.Random) -> Iterator[float]:
    """Times of arrival from now on, `rate` a second in the mean and independent of each other."""
    now = rng.expovariate(rate)
    while now < seconds:
        yield now
        now += rng.expovariate(rate)


async def send_at(times: Sequence[float], ask: Callable[[int], Awaitable[T]]) -> Sent[T]:
    """Asks with 0, 1, 2 ... at these times, in seconds from now on, and waits for the last answer."""
    loop = asyncio.get_running_loop()
    begin, lags = loop.time(), []
    async with asyncio.TaskGroup() as group:
        asking = []
        for number, time in enumerate(times):
            await asyncio.sleep(begin + time - loop.time())
            lags.append(loop.time() - begin - time)
            asking.append(group.create_task(_awaited(ask, number)))
    return Sent([task.result() for task in asking], lags)


async def send_in_turn(num_clients: int, seconds: float, ask: Callable[[int], Awaitable[T]]) -> tuple[list[T], float]:
    """A closed loop: each client asks again when it is answered, until the time is over. Answers, and the seconds."""
    loop = asyncio.get_running_loop()
    begin, answers = loop.time(), list[T]()
    numbers = iter(range(1 << 62))

    async def client() -> None:
        while loop.time() - begin < seconds:
            answers.append(await ask(next(numbers)))

    await asyncio.gather(*[client() for _ in range(num_clients)])
    return answers, loop.time() - begin


async def _awaited(ask: Callable[[int], Awaitable[T]], number: int) -> T:
    return await ask(number)
