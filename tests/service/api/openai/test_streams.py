from __future__ import annotations

import pytest

from service.api.openai.streams import interval


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
