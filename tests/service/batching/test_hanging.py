"""A device whose step takes long, or never ends. A step lasts while `bench.may_step` is not set."""

from __future__ import annotations

import threading

import pytest

from service.batching.batcher import STEP_SECONDS
from service.errors import DeadlineError, JobFailedError, NotReadyError
from service.jobs import Accepted, Failed, Receipt

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


def test_a_job_that_does_not_clean_up_is_a_device_that_hangs(open_batcher, submit, bench):
    may_end = threading.Event()

    def script(name):
        yield Accepted(name, None, 1)
        try:
            yield bench.call(name)
        finally:
            assert may_end.wait(GUARD_SECONDS)

    bench.scripts["dirty"] = script
    batcher = open_batcher()
    batcher.wait_opened()
    bench.may_step.clear()
    job_id, dirty = submit(batcher, "dirty")
    assert bench.has_begun.wait(GUARD_SECONDS)
    batcher.cancel(job_id)
    _, other = submit(batcher, "b")
    bench.may_step.set()
    bench.now += STEP_SECONDS
    assert isinstance(other.last().error, JobFailedError)
    assert batcher.state == "hung"
    may_end.set()
    assert batcher._desk.wait_while({"hung"}, GUARD_SECONDS) == "ready"
    assert isinstance(dirty.last(), Failed)


def test_each_job_that_fails_has_an_error_of_its_own(stepping, submit, bench):
    batcher, running = stepping
    _, waiting = submit(batcher, "b")
    bench.now += STEP_SECONDS
    first, second = running.last().error, waiting.last().error
    assert first is not second
    assert str(first) == str(second)


def test_a_look_that_fails_is_not_the_last(open_batcher, submit, bench, caplog):
    are_wrong, wrong_looks = threading.Event(), threading.Semaphore(0)

    def clock():
        if are_wrong.is_set() and threading.current_thread().name == "watch":
            wrong_looks.release()
            raise OSError("no clock")
        return bench.now

    bench.clock = clock
    batcher = open_batcher()
    batcher.wait_opened()
    bench.may_step.clear()
    are_wrong.set()
    assert wrong_looks.acquire(timeout=GUARD_SECONDS)
    assert wrong_looks.acquire(timeout=GUARD_SECONDS)  # another look: the first is in the log
    are_wrong.clear()
    _, told = submit(batcher, deadline_seconds=5)
    bench.now += 5.0
    assert isinstance(told.last().error, DeadlineError)
    assert "could not be looked at" in caplog.text
