from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.policy import Decision, Limits, PendingCall, decide, level

LIMITS = Limits(running_jobs=3, step_images=4)


def call(job_id, shape="s", images=2, waited=0, rows=10, had=0.0, tenant=""):
    return PendingCall(job_id, shape, images, rows, had, waited, tenant)


def test_nothing_to_do_is_an_empty_decision():
    assert decide({}, [], LIMITS) == Decision()


def test_the_first_arrivals_are_admitted_before_the_next_step():
    assert decide(dict.fromkeys("cde", ""), [call("a")], LIMITS) == Decision(admit=("c", "d"))


def test_the_tenant_with_the_fewest_places_is_first():
    waiting = {"c": "ann", "d": "ann", "e": "bob"}
    assert decide(waiting, [call("a", tenant="ann")], LIMITS).admit == ("e", "c")


def test_who_has_all_places_but_one_gets_no_more():
    pending = [call(name, tenant="ann") for name in "ab"]
    assert decide({"c": "ann"}, pending, LIMITS) == Decision(step=("a", "b"))
    assert decide({"c": "ann", "d": "bob"}, pending, LIMITS).admit == ("d",)
    assert decide({"c": "ann"}, [], Limits(running_jobs=1)).admit == ("c",)


def test_without_keys_nobody_is_kept_a_place():
    assert decide(dict.fromkeys("bcd", ""), [call("a")], LIMITS).admit == ("b", "c")


def test_full_places_admit_nobody():
    pending = [call("a"), call("b"), call("c")]
    assert decide({"d": ""}, pending, LIMITS) == Decision(step=("a", "b"))


def test_calls_of_equal_shape_share_a_step():
    assert decide({}, [call("a"), call("b", "other"), call("c")], LIMITS).step == ("a", "c")


def test_a_step_holds_no_more_images_than_it_may():
    assert decide({}, [call("a", images=3), call("b"), call("c", images=1)], LIMITS).step == ("a", "c")


def test_a_call_larger_than_a_step_runs_alone():
    assert decide({}, [call("a", images=9, waited=1), call("b")], LIMITS).step == ("a",)


def test_who_has_had_the_least_of_the_device_is_first():
    pending = [call("a", had=2.0), call("b", "other", had=1.0, waited=9), call("c", had=1.5)]
    assert decide({}, pending, LIMITS).step == ("b",)


def test_of_those_that_had_as_much_the_longest_waiting_is_first():
    pending = [call("a"), call("b"), call("c", "other", waited=1)]
    assert decide({}, pending, LIMITS).step == ("c",)


def test_a_call_that_was_passed_over_too_often_is_first():
    pending = [call("a"), call("b", "other", had=9.0, waited=LIMITS.most_waited_steps)]
    assert decide({}, pending, LIMITS).step == ("b",)


def test_a_large_call_is_no_rider_of_a_small_one_but_a_small_one_is_of_a_large_one():
    small, large = call("small", rows=10, had=1.0), call("large", rows=21, had=2.0)
    assert decide({}, [small, large], LIMITS).step == ("small",)
    assert decide({}, [call("small", rows=10, had=3.0), large], LIMITS).step == ("large", "small")
    assert decide({}, [small, call("large", rows=20, had=2.0)], LIMITS).step == ("small", "large")


def test_a_newcomer_begins_level_with_who_had_the_least():
    assert level(1.0, [call("a", had=5.0), call("b", had=3.0)]) == 3
    assert level(4.0, [call("a", had=5.0), call("b", had=3.0)]) == 4  # it was there before


@dataclass
class Running:
    """A job of a simulated device, whose seconds are rows."""

    shape: str
    rows: int
    left: int  # calls
    had: float = 0.0
    ahead: float = 0.0
    waited: int = 0


class Device:
    """Runs what the policy decides; each call costs its rows."""

    def __init__(self, limits):
        self.limits = limits
        self.jobs = {}
        self.most_waited = 0
        self.level = 0.0

    @property
    def pending(self):
        return [
            PendingCall(name, job.shape, 2, job.rows, job.ahead + job.had, job.waited)
            for name, job in self.jobs.items()
        ]

    def add(self, name, shape, rows, calls):
        self.jobs[name] = Running(shape, rows, calls, ahead=self.level)

    def step(self):
        """Rows by the jobs that were served."""
        self.level = level(self.level, self.pending)
        chosen = {name: self.jobs[name].rows for name in decide({}, self.pending, self.limits).step}
        for name, job in list(self.jobs.items()):
            job.waited = 0 if name in chosen else job.waited + 1
            self.most_waited = max(self.most_waited, job.waited)
            if name in chosen:
                job.had += job.rows
                job.left -= 1
            if not job.left:
                del self.jobs[name]
        return chosen


def test_a_stream_of_sparse_edits_leaves_a_dense_generation_its_part():
    device = Device(Limits(running_jobs=4, most_waited_steps=100))
    device.add("dense", "s", 100, 1000)
    served, number = Counter(), 0
    while number < 200:
        while len(device.jobs) < 4:
            number += 1
            device.add(f"edit {number}", "s", 5, 10)
        served.update(device.step())
    others = served.total() - served["dense"]
    assert others == pytest.approx(3 * served["dense"], rel=0.15)  # three places beside its own


def test_a_stream_of_dense_generations_leaves_a_sparse_edit_its_part():
    """Beside three dense jobs it has a quarter of the device: it is not slowed down to the pace of their calls."""
    device = Device(Limits(running_jobs=4))
    for number in range(3):
        device.add(f"dense {number}", "s", 100, 1000)
    device.add("edit", "s", 5, 40)
    dense = 0.0
    while "edit" in device.jobs:
        dense += sum(rows for name, rows in device.step().items() if name != "edit")
    assert dense <= 3 * (40 * 5 + 100)  # as much as the edit had, and one call each


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from("xy"), st.integers(1, 300), st.integers(1, 30)), min_size=1),
    st.integers(1, 6),
    st.integers(2, 12),
    st.integers(1, 20),
)
def test_no_call_is_passed_over_for_longer_than_is_promised(arrivals, places, step_images, most_waited_steps):
    device = Device(Limits(places, step_images, most_waited_steps))
    waiting = deque(sorted(arrivals))
    step = 0
    while waiting or device.jobs:
        while waiting and waiting[0][0] <= step and len(device.jobs) < places:
            device.add(f"{len(waiting)}", *waiting.popleft()[1:])
        if device.jobs:
            assert device.step()
        step += 1
    assert device.most_waited <= most_waited_steps + places
