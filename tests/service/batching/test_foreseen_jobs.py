"""Jobs whose cost is told: predicted, admitted by their deadlines, and ended by them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from service.batching.admission import FIRST_CAUTION
from service.batching.costs import Outlook
from service.batching.ledger import PROMISED
from service.batching.policy import Limits
from service.errors import BusyError, DeadlineError, UnknownImageError
from service.jobs import Accepted, Cancelled, EditJob, Failed, MaskFound, Receipt

GUARD_SECONDS = 30  # a test that hangs fails
CALL_MACS = 10**10  # of the bench's calls


def foresee(job):
    """Each job is three calls of one second each, on a machine that takes as long for a multiplication."""
    assert job.prompt != "defect"
    if job.prompt == "nobody's":
        raise UnknownImageError("nobody's")
    outlook = Outlook(dense_calls=3, dense_macs=CALL_MACS)
    return replace(outlook, edit_calls=3, detects=True, tier="host") if isinstance(job, EditJob) else outlook


foresee.device = "cpu"


@pytest.fixture
def seeing(open_batcher, submit, bench):
    """A batcher that tells what jobs will take, and has learned that it is 3 s; none of its places is taken."""
    bench.foresight, bench.call_seconds, bench.limits = foresee, 1.0, Limits(running_jobs=2)
    batcher = open_batcher()
    batcher.wait_opened()
    for _ in range(20):
        submit(batcher, "learned from")[1].kinds()
    bench.steps.clear()
    bench.has_begun.clear()
    return batcher


def is_taken(batcher, submit, bench):
    """Whether, beside another job, one is taken that would be done after 6 s, with the first caution just in time."""
    bench.has_begun.clear()
    bench.may_step.clear()
    told = [submit(batcher, "b")[1]]
    assert bench.has_begun.wait(GUARD_SECONDS)
    with suppress(BusyError):
        told.append(submit(batcher, deadline_seconds=6.2 * FIRST_CAUTION / PROMISED)[1])
    bench.may_step.set()
    assert all(one.kinds()[-1] is Receipt for one in told)
    return len(told) == 2


def test_numbers_tell_what_waits_and_for_how_long(seeing, submit, bench):
    bench.may_step.clear()
    told = [submit(seeing)[1]]
    assert bench.has_begun.wait(GUARD_SECONDS)
    told += [submit(seeing)[1] for _ in range(2)]
    numbers = seeing.numbers()
    assert (numbers.queued_jobs, numbers.running_jobs) == (2, 1)
    assert numbers.queue_seconds == pytest.approx(9, rel=0.01)
    bench.may_step.set()
    for one in told:
        one.kinds()
    assert seeing.numbers().queue_seconds == 0


def test_numbers_tell_how_wrong_predictions_were(seeing, submit, bench):
    before = seeing.numbers()
    bench.call_seconds = 2.0
    submit(seeing)[1].kinds()
    after = seeing.numbers()
    assert after.num_predicted - before.num_predicted == 1
    assert after.error_seconds - before.error_seconds == pytest.approx(3, rel=0.02)


def test_a_job_that_would_be_too_late_is_refused_and_told_when_it_would_not(seeing, submit, bench):
    bench.may_step.clear()
    for _ in range(2):
        submit(seeing)
    with pytest.raises(BusyError, match="late") as refused:
        submit(seeing, deadline_seconds=5)
    told = refused.value.retry_after_seconds
    truth = 9 - 5 * PROMISED / FIRST_CAUTION  # it would be done after 9 s
    assert truth - 0.1 <= told <= truth + 1
    assert seeing.numbers().num_refused == 1
    submit(seeing, deadline_seconds=9.2 * FIRST_CAUTION / PROMISED)


def test_of_a_deadline_the_last_part_is_not_the_devices(seeing, submit, bench):
    bench.may_step.clear()
    for _ in range(2):
        submit(seeing)
    with pytest.raises(BusyError, match="late"):
        submit(seeing, deadline_seconds=9.2 * FIRST_CAUTION)


def test_no_job_is_taken_that_would_make_another_late(seeing, submit, bench):
    bench.may_step.clear()
    submit(seeing, deadline_seconds=7 / PROMISED)
    with pytest.raises(BusyError, match="late"):
        submit(seeing)


def test_a_hasty_job_shuts_out_nobody_and_teaches_no_caution(seeing, submit, bench):
    bench.may_step.clear()
    hasty = submit(seeing, deadline_seconds=4 / PROMISED)[1]
    other = submit(seeing, "b")[1]
    bench.call_seconds = 3.0
    bench.may_step.set()
    assert isinstance(hasty.last().error, DeadlineError)
    assert other.kinds()[-1] is Receipt
    bench.call_seconds = 1.0
    assert is_taken(seeing, submit, bench)


def test_an_idle_device_tries_whatever_comes(seeing, submit):
    assert submit(seeing, deadline_seconds=1)[1].last().error.deadline_seconds == 1


def test_a_running_job_ends_at_the_step_after_its_deadline(seeing, submit, bench):
    _, told = submit(seeing, deadline_seconds=2)
    error = told.last().error
    assert isinstance(error, DeadlineError)
    assert str(error) == "the deadline of 2 s was over before the job was done"
    assert bench.steps == [["a"]] * 2
    assert bench.closed == ["a"]


def test_after_late_jobs_admission_is_more_cautious(seeing, submit, bench):
    assert is_taken(seeing, submit, bench)
    bench.call_seconds = 10.0
    assert submit(seeing, deadline_seconds=7)[1].kinds()[-1] is Failed
    bench.call_seconds = 1.0
    assert not is_taken(seeing, submit, bench)


def test_a_waiting_job_ends_when_its_deadline_is_over(seeing, submit, bench):
    bench.may_step.clear()
    first = [submit(seeing, "b")[1] for _ in range(2)]
    _, told = submit(seeing, deadline_seconds=12 / PROMISED)
    bench.call_seconds = 10.0
    bench.may_step.set()
    assert told.kinds() == [Failed]
    assert [one.kinds()[-1] for one in first] == [Receipt] * 2


def test_a_job_that_will_fail_is_taken_and_fails(seeing, submit, bench):
    def refuse(name):
        raise UnknownImageError(name)

    bench.scripts["nobody's"] = refuse
    assert isinstance(submit(seeing, "nobody's")[1].last().error, UnknownImageError)


def test_a_job_whose_cost_cannot_be_told_is_taken_for_an_average_one(seeing, submit, bench, caplog):
    bench.may_step.clear()
    submit(seeing, "defect")
    assert seeing.numbers().queue_seconds == pytest.approx(3, rel=0.05)
    assert "cost could not be told" in caplog.text


def test_a_dry_run_is_told_what_the_edit_would_take(seeing, submit, bench):
    def script(name):
        yield Accepted(name, "source", 3)
        for _ in range(3):
            yield bench.call(name)
        yield MaskFound(np.ones((2, 2), bool), 0.1, num_calls=3, macs=CALL_MACS)
        yield Receipt(name, "source", macs_computed=3 * CALL_MACS)

    bench.scripts["an edit"] = script
    dry = submit(seeing, EditJob("an edit", "source", dry_run=True))[1].last()
    assert 3.5 < dry.predicted_seconds < 6.5  # three calls more, of a third of the multiplications
    assert submit(seeing, EditJob("an edit", "source"))[1].last().predicted_seconds is None


@pytest.mark.parametrize("outlook", [Outlook(), Outlook(dense_calls=3, dense_macs=float("inf"))])
def test_what_was_foreseen_wrongly_ends_no_other_job_when_it_is_stopped(open_batcher, submit, bench, outlook):
    """A picture that was recorded when it was foreseen may be gone when its job begins."""
    bench.foresight = lambda _job: outlook
    bench.foresight.device = "cpu"
    bench.call_seconds = 1.0
    batcher = open_batcher()
    batcher.wait_opened()
    for _ in range(3):
        bench.has_begun.clear()
        bench.may_step.clear()
        (job_id, told), (_, other) = submit(batcher), submit(batcher, "b")
        assert bench.has_begun.wait(GUARD_SECONDS)
        batcher.cancel(job_id)
        bench.may_step.set()
        assert told.kinds()[-1] is Cancelled
        assert other.kinds()[-1] is Receipt
    assert batcher.numbers().num_restarts == 0
    assert batcher.numbers().queue_seconds == 0
