from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from service.api.openai.runs import together
from service.api.openai.streams import interval

pytestmark = pytest.mark.anyio


class Stream:
    """Yields numbers, each when it may."""

    def __init__(self, *numbers, error=None):
        self.may = asyncio.Semaphore(0)
        self.is_closed = False
        self._numbers = numbers
        self._error = error

    async def run(self):
        try:
            for number in self._numbers:
                await self.may.acquire()
                yield number
            if self._error:
                raise self._error
        finally:
            self.is_closed = True


async def test_what_comes_first_is_told_first():
    one, other = Stream(1, 2), Stream(3)
    one.may.release()
    told = []
    async for came in together([one.run(), other.run()]):
        told.append(came)
        (other if len(told) == 1 else one).may.release()
    assert told == [(0, 1), (1, 3), (0, 2)]
    assert one.is_closed
    assert other.is_closed


async def test_one_that_fails_closes_all():
    one, other = Stream(error=KeyError("one")), Stream(1)
    with pytest.raises(KeyError):
        [came async for came in together([one.run(), other.run()])]
    assert other.is_closed


async def test_who_takes_no_more_closes_all():
    one, other = Stream(1, 2), Stream(3)
    one.may.release()
    async with aclosing(together([one.run(), other.run()])) as events:
        assert await anext(events) == (0, 1)
    assert one.is_closed
    assert other.is_closed


async def test_none_is_told_of_none():
    assert [came async for came in together([])] == []


@pytest.mark.parametrize("num_partials", [1, 2, 3])
@pytest.mark.parametrize("num_steps", [4, 5, 7, 20, 50, 1000])
def test_as_many_previews_come_as_are_asked_for_and_evenly(num_partials, num_steps):
    every = interval(num_partials, num_steps)
    steps = range(every, num_steps, every)[:num_partials]
    assert len(steps) == num_partials
    assert abs(steps[0] - num_steps / (num_partials + 1)) <= 1


def test_more_partial_images_than_steps_are_as_many_as_there_are():
    assert interval(3, 2) == 1
    assert interval(3, 1) == 1


def test_no_partial_images_are_no_previews():
    assert interval(0, 20) == 0
