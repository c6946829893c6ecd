"""After a failure nobody asks for a while."""

from cache_store.index.breaker import Breaker


def test_a_failure_opens_it_and_a_good_try_closes_it(world_clock):
    breaker = Breaker(world_clock, first_seconds=0.5)
    assert breaker.closed
    breaker.trip()
    assert (breaker.closed, breaker.wait_seconds) == (False, 0.5)
    breaker.reset()
    assert (breaker.closed, breaker.wait_seconds) == (True, 0)


def test_waits_double_up_to_the_most_and_start_over_after_a_good_try(world_clock):
    breaker = Breaker(world_clock, first_seconds=1, most_seconds=5)
    waits = []
    for _ in range(5):
        breaker.trip()
        waits.append(breaker.wait_seconds)
        world_clock.seconds += waits[-1]
        assert breaker.wait_seconds == 0
    assert waits == [1, 2, 4, 5, 5]
    breaker.reset()
    breaker.trip()
    assert breaker.wait_seconds == 1


def test_many_failures_at_once_are_one(world_clock):
    breaker = Breaker(world_clock, first_seconds=1)
    for _ in range(9):
        breaker.trip()
    world_clock.seconds += 0.25
    breaker.trip()
    assert breaker.wait_seconds == 0.75


def test_where_nothing_was_tried_yet_a_try_is_due(world_clock):
    breaker = Breaker(world_clock, closed=False)
    assert (breaker.closed, breaker.wait_seconds) == (False, 0)
