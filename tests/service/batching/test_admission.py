from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.admission import Claim, Verdict, ends, gives_way, later, learned, seconds_until_free, weigh


def seconds_until_taken(new, taken, places, caution=1.0):
    return weigh([new], taken, places, caution).retry_after_seconds


def about(truth):
    """What is told is no sooner, and a second or a tenth later at most."""
    half = max(1, truth / 10) / 2
    return pytest.approx(truth + half, abs=half + 1e-9)


def test_jobs_that_run_share_the_device():
    assert ends([Claim(1), Claim(3)], places=2) == [2, 4]


def test_who_waits_takes_the_place_that_is_free_first():
    assert ends([Claim(1), Claim(3), Claim(2)], places=2) == [2, 6, 6]
    assert ends([Claim(1), Claim(3), Claim(2)], places=1) == [1, 4, 6]


def test_nobody_ends_at_no_time():
    assert ends([], places=2) == []


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 100), min_size=1), st.integers(1, 8))
def test_the_last_job_ends_when_the_device_has_done_all(seconds, places):
    ended = ends([Claim(left) for left in seconds], places)
    assert max(ended) == pytest.approx(sum(seconds))
    assert all(end >= left * (1 - 1e-9) for end, left in zip(ended, seconds, strict=True))


def test_a_full_queue_has_a_place_when_the_first_job_ends():
    assert seconds_until_free([Claim(10), Claim(3)], places=2) == 6
    assert seconds_until_free([Claim(0.1)], places=2) == 1  # no client is asked to come back at once
    assert seconds_until_free([Claim(4), Claim(1), Claim(1)], places=1, num_jobs=2) == 5


def test_places_go_to_tenants_that_have_the_fewest_and_one_is_kept_for_others():
    jobs = [Claim(1, tenant=name) for name in ("ann", "ann", "ann", "bob")]
    assert ends(jobs, places=2) == [2, 3, 4, 2]  # beside the first of ann's is bob's, and then none of hers
    assert ends(jobs[:3], places=2) == [1, 2, 3]
    assert ends(jobs[:3], places=1) == [1, 2, 3]


def test_those_that_run_go_on_whoever_came_before():
    assert ends([Claim(1), Claim(1, has_begun=True)], places=1) == [2, 1]


def test_later_less_is_left_of_who_runs_and_of_all_deadlines():
    claims = [Claim(1, 9), Claim(3, 9, 10), Claim(2)]
    assert later(claims, 2, 0.0) == [replace(claims[0], has_begun=True), replace(claims[1], has_begun=True), claims[2]]
    assert later(claims, 2, 3.0) == [Claim(1.5, 6, 7, has_begun=True), Claim(1.5, has_begun=True)]
    assert later(claims, 2, 100.0) == []


def test_later_is_reached_however_numbers_are_rounded():
    claims = [Claim(1e6 + 1 / 3), Claim(1e6), Claim(0.1)]
    for step in range(1, 200):
        assert len(later(claims, 3, 0.3 + step / 7 + 1e-13)) == 2


CLAIMS = st.builds(
    Claim,
    st.floats(0.1, 20),
    st.one_of(st.none(), st.floats(1, 60)),
    share=st.floats(0, 1),
    tenant=st.sampled_from(["", "ann", "bob"]),
)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(CLAIMS, st.lists(CLAIMS, max_size=12), st.integers(1, 8), st.floats(1, 2))
def test_who_comes_again_when_told_is_taken(new, taken, places, caution):
    told = seconds_until_taken(new, taken, places, caution)
    if told is not None:
        assert told <= max(1, *ends(taken, places))
        again = weigh([new], later(taken, places, told + 1e-6), places, caution)
        assert told == 1 or again.retry_after_seconds is None


def test_without_deadlines_every_job_is_taken():
    assert seconds_until_taken(Claim(1000), [Claim(1000)] * 9, places=2) is None


def test_a_job_is_taken_if_it_will_be_done_in_time():
    taken = [Claim(4), Claim(4)]
    assert seconds_until_taken(Claim(2, 10), taken, places=1) is None
    assert seconds_until_taken(Claim(2, 9), taken, places=1) == about(1)
    assert seconds_until_taken(Claim(2, 6), taken, places=1) == about(4)


def test_what_was_promised_to_another_is_kept():
    promised = Claim(4, 5)
    assert seconds_until_taken(Claim(4), [promised], places=2) == about(3)  # now both would end at 8
    assert seconds_until_taken(Claim(4), [promised], places=1) is None  # it waits
    assert seconds_until_taken(Claim(0.5), [promised], places=2) is None


def test_a_promise_that_is_broken_already_binds_nobody():
    assert seconds_until_taken(Claim(4), [Claim(4, 3)], places=2) is None


def test_what_is_late_but_still_of_use_is_put_off_by_nobody():
    late = Claim(4, 3, 4.5)
    assert seconds_until_taken(Claim(4), [late], places=2) == about(4)
    assert seconds_until_taken(Claim(4), [late], places=1) is None  # it waits
    assert seconds_until_taken(Claim(4), [Claim(4, 3, 3.5)], places=2) is None


def test_what_may_be_late_with_caution_is_put_off_by_nobody():
    assert seconds_until_taken(Claim(4), [Claim(4, 9)], places=2) is None
    assert seconds_until_taken(Claim(0.1), [Claim(4, 4.5)], places=2, caution=1.25) == about(2.5)


def test_a_job_that_takes_longer_than_its_deadline_is_tried_when_the_device_is_idle():
    assert seconds_until_taken(Claim(9, 3), [Claim(4), Claim(5)], places=2) == about(9)
    assert seconds_until_taken(Claim(9, 3), [], places=2) is None


def test_with_caution_jobs_are_taken_as_if_they_took_longer():
    taken = [Claim(4), Claim(4)]
    assert seconds_until_taken(Claim(2, 10), taken, places=1, caution=1.25) == about(2)
    assert seconds_until_taken(Claim(2, 12.5), taken, places=1, caution=1.25) is None
    assert seconds_until_taken(Claim(4, 4.5), taken, places=1, caution=1.25) == about(8)  # too long, with caution


def test_a_job_that_asks_for_more_than_half_of_the_device_gives_way():
    hasty, fair = Claim(4, 5, share=0.8), Claim(4, 7.9, share=0.5)
    assert weigh([Claim(4.2)], [hasty], places=2) == Verdict(put_off=(0,))
    assert seconds_until_taken(Claim(4.2), [fair], places=2) == 1
    assert seconds_until_taken(Claim(4.2), [hasty, Claim(4, 8.5, share=0.47)], places=3) == about(7)


def test_what_a_tenant_asks_for_beyond_an_equal_part_gives_way_to_others():
    greedy = [Claim(4, 10, share=0.4, tenant="ann")] * 2
    assert seconds_until_taken(Claim(4, tenant="ann"), greedy, places=4) == about(4)
    assert weigh([Claim(4, tenant="bob")], greedy, places=4) == Verdict(put_off=(0, 1))
    modest = [Claim(4, 10, share=0.4, tenant="ann"), Claim(4, 10, share=0.4, tenant="bob")]
    assert not any(gives_way(claim, Claim(4, tenant="ann"), modest) for claim in modest)
    assert seconds_until_taken(Claim(4, tenant="bob"), modest, places=4) == about(4)
    assert weigh([Claim(4, tenant="eve")], modest, places=4) == Verdict(put_off=(0, 1))  # of three none is promised .4


def test_who_is_not_harmed_does_not_give_way():
    assert weigh([Claim(0.1)], [Claim(4, 5, share=0.8)], places=2) == Verdict()


def test_the_jobs_of_a_request_are_weighed_together():
    taken = [Claim(4)]
    assert weigh([Claim(2, 9)] * 2, taken, places=1).retry_after_seconds is None
    assert weigh([Claim(2, 9)] * 3, taken, places=1).retry_after_seconds == about(1)
    assert weigh([Claim(2, 5)] * 3, taken, places=1).retry_after_seconds == about(
        4
    )  # too long by itself: when all is done
    assert weigh([Claim(2, 5)] * 3, [], places=1) == Verdict()
    assert weigh([Claim(1)] * 2, [Claim(4, 6)], places=3).retry_after_seconds is None
    assert weigh([Claim(1)] * 3, [Claim(4, 6)], places=4).retry_after_seconds == about(3.34)


def test_jobs_that_are_late_together_say_it_once():
    caution = 1.5
    for _ in range(20):
        caution = learned(caution, 1.5, is_late=True)
    assert caution == pytest.approx(1.8)
    assert learned(1.2, 1.5, is_late=True) == pytest.approx(1.8)
    assert learned(2.0, 1.5, is_late=True) == 2


def test_of_jobs_that_were_promised_in_time_one_in_ninety_is_late():
    """Jobs take up to 1.6 times as long as is predicted, and each is given as long as caution says."""
    rng, caution, num_late = random.Random(0), 1.0, 0
    for _ in range(20_000):
        is_late = rng.uniform(0.5, 1.6) > caution
        num_late += is_late
        caution = learned(caution, caution, is_late=is_late)
    assert num_late / 20_000 == pytest.approx(1 / 92, rel=0.1)


def test_caution_has_bounds():
    caution = 1.0
    assert learned(caution, caution, is_late=False) == 1
    for _ in range(100):
        caution = learned(caution, caution, is_late=True)
    assert caution == 2
