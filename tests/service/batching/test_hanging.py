"""A device whose step takes long, or never ends. A step lasts while `bench.may_step` is not set."""

from __future__ import annotations

import pytest

from service.batching.batcher import STEP_SECONDS
from service.errors import DeadlineError, JobFailedError, NotReadyError
from service.jobs import Accepted, Receipt

GUARD_SECONDS = 30  # a test that hangs fails


@pytest.fixture
def stepping(open_batcher, submit, bench):
    """A batcher whose device is within a step, and what its job has been told."""
    batcher = open_batcher()
    batcher.wait_opened()
    bench.may_step.clear()
    _, told = submit(batcher, "a", deadline_seconds=2 * STEP_SECONDS)
    assert isinstance(told.next(), Accepted)
    assert bench.has_begun.wait(GUARD_SECONDS)
    return batcher, told


def test_a_deadline_is_told_while_a_step_lasts(stepping, submit, bench):
    batcher, _ = stepping
    _, told = submit(batcher, "b", deadline_seconds=100)
    bench.now += 100.0
    assert isinstance(told.last().error, DeadlineError)
    assert batcher.state == "ready"
    bench.may_step.set()
    assert submit(batcher)[1].kinds() == [Accepted, Receipt]
    assert "b" not in {name for step in bench.steps for name in step}
    assert told.empty()


def test_when_the_device_hangs_all_jobs_fail_and_none_is_taken(stepping, submit, bench, caplog):
    batcher, running = stepping
    _, waiting = submit(batcher, "b")
    bench.now += STEP_SECONDS
    for told in (running, waiting):
        error = told.last().error
        assert isinstance(error, JobFailedError)
        assert "has not ended its step within 300 s" in str(error)
    assert batcher.state == "hung"
    assert caplog.text.count("the device hangs") == 1
    with pytest.raises(NotReadyError, match="not ended its step") as refused:
        submit(batcher)
    assert refused.value.retry_after_seconds == 60
    assert batcher.numbers().ended_jobs == {"failed": 2}


def test_a_device_that_hung_takes_jobs_again_when_its_step_ends(stepping, submit, bench):
    batcher, running = stepping
    bench.now += STEP_SECONDS
    running.last()
    bench.may_step.set()
    assert batcher._desk.wait_while({"hung"}, GUARD_SECONDS) == "ready"
    assert submit(batcher)[1].kinds() == [Accepted, Receipt]
    assert running.empty()
    assert bench.closed == ["a"]


def test_a_long_step_is_no_hanging_one(stepping, bench):
    batcher, told = stepping
    bench.now += STEP_SECONDS - 1
    batcher.look()
    assert batcher.state == "ready"
    bench.may_step.set()
    assert isinstance(told.last(), Receipt)


def test_a_device_with_nothing_to_do_does_not_hang(open_batcher, submit, bench):
    batcher = open_batcher()
    batcher.wait_opened()
    submit(batcher)[1].kinds()
    bench.now += 10 * STEP_SECONDS
    batcher.look()
    assert batcher.state == "ready"


def test_a_service_that_shuts_down_is_draining_also_while_its_device_hangs(stepping, bench):
    batcher, told = stepping
    bench.now += STEP_SECONDS
    told.last()
    batcher.close(deadline_seconds=0.01)
    bench.may_step.set()
    assert batcher._desk.wait_while({"draining", "hung"}, GUARD_SECONDS) == "dead"
