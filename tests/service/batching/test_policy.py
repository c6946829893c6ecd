from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.policy import Decision, Limits, PendingCall, decide

LIMITS = Limits(running_jobs=3, step_images=4)


def call(job_id, shape="s", images=2, waited=0):
    return PendingCall(job_id, shape, images, waited)


def test_nothing_to_do_is_an_empty_decision():
    assert decide([], [], LIMITS) == Decision()


def test_the_first_arrivals_are_admitted_before_the_next_step():
    assert decide(["c", "d", "e"], [call("a")], LIMITS) == Decision(admit=("c", "d"))


def test_full_places_admit_nobody():
    pending = [call("a"), call("b"), call("c")]
    assert decide(["d"], pending, LIMITS) == Decision(step=("a", "b"))


def test_calls_of_equal_shape_share_a_step():
    assert decide([], [call("a"), call("b", "other"), call("c")], LIMITS).step == ("a", "c")


def test_a_step_holds_no_more_images_than_it_may():
    assert decide([], [call("a", images=3), call("b"), call("c", images=1)], LIMITS).step == ("a", "c")


def test_a_call_larger_than_a_step_runs_alone():
    assert decide([], [call("a", images=9, waited=1), call("b")], LIMITS).step == ("a",)


def test_the_longest_waiting_call_decides_the_shape():
    pending = [call("a"), call("b"), call("c", "other", waited=1)]
    assert decide([], pending, LIMITS).step == ("c",)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("xyz"), st.integers(1, 6)), min_size=1, max_size=8), st.integers(1, 8))
def test_no_call_waits_for_more_steps_than_there_are_jobs(shapes, step_images):
    limits = Limits(running_jobs=8, step_images=step_images)
    waited = [0] * len(shapes)
    for _ in range(40):
        pending = [call(str(i), shape, images, waited[i]) for i, (shape, images) in enumerate(shapes)]
        chosen = {int(job_id) for job_id in decide([], pending, limits).step}
        waited = [0 if i in chosen else waited[i] + 1 for i in range(len(shapes))]
        assert chosen
        assert max(waited) < len(shapes)
