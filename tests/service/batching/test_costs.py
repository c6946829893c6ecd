"""What jobs will take, from synthetic ones that are done."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from service.batching.costs import FIRST_JOB_SECONDS, FIRST_RATIO, GUESSES, Costs, Outlook, Work
from service.batching.usage import Usage, parts
from service.jobs import MaskFound, Receipt

DENSE = 4e9  # multiplications of a call
PLANTED = Work(jobs=0.4, calls=0.01, macs=4e-11, host_bytes=3e-10)
EDIT = Outlook(dense_calls=3, dense_macs=int(DENSE), edit_calls=20, detects=True, tier="host")


def mask(ratio, macs):
    return MaskFound(np.ones((1, 1), bool), ratio, 20 if macs else 0, macs)


def generation(num_steps, planted=PLANTED):
    """A picture that was drawn: what was known of it, its receipt, and what it had."""
    receipt = Receipt("id", macs_computed=num_steps * int(DENSE), macs_dense=num_steps * int(DENSE))
    seconds = planted.jobs + num_steps * (planted.calls + DENSE * planted.macs)
    return Outlook(num_steps, int(DENSE)), None, receipt, Usage(seconds, num_steps)


def edit(ratio, planted=PLANTED):
    """An edit of a mask that was found: a sparse call multiplies a tenth of a dense one's, and what the mask adds."""
    macs = int(20 * DENSE * (0.1 + 0.8 * ratio))
    num_bytes = int(20 * DENSE * 0.02)
    computed = 3 * int(DENSE) + macs
    receipt = Receipt("id", edited_ratio=ratio, macs_computed=computed, macs_dense=20 * int(DENSE), tier="host")
    receipt = replace(receipt, bytes_moved=num_bytes)
    seconds = planted.jobs + 23 * planted.calls + computed * planted.macs + num_bytes * planted.host_bytes
    return EDIT, mask(ratio, macs), receipt, Usage(seconds, 23)


def done(count, planted=PLANTED, costs=None, seed=0):
    rng = random.Random(seed)
    costs = costs or Costs()
    for _ in range(count):
        job = generation(rng.randint(4, 50), planted) if rng.random() < 0.5 else edit(rng.uniform(0.05, 0.4), planted)
        costs = costs.learned(*job)
    return costs


def test_before_any_job_there_is_a_guess_for_the_device():
    drawing = Outlook(20, int(DENSE))
    on_cpu, on_gpu = (Costs().on(device).seconds(drawing) for device in ("cpu", "cuda"))
    assert 0 < on_gpu < on_cpu < 60
    assert Costs().seconds(None) == FIRST_JOB_SECONDS


def test_what_cannot_be_counted_is_taken_for_an_average_job():
    assert Costs().seconds(Outlook(3, float("inf"))) == FIRST_JOB_SECONDS


def test_what_was_learned_is_kept_when_the_device_is_opened_again():
    assert done(3).on("cpu") == done(3)


def test_planted_rates_of_drawings_are_found():
    costs = done(30)
    for num_steps in (4, 20, 100):
        outlook, _, _, usage = generation(num_steps)
        assert costs.seconds(outlook) == pytest.approx(usage.seconds, rel=0.02)


@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.6])
def test_an_edit_of_a_given_mask_is_predicted_by_its_mask(ratio):
    _, _, _, usage = edit(ratio)
    outlook = replace(EDIT, edited_ratio=ratio, detects=False)
    assert done(40).seconds(outlook) == pytest.approx(usage.seconds, rel=0.05)


def test_jobs_that_were_stopped_have_shown_what_their_calls_take():
    """Only those that are quickly done end well, when the device has become four times as slow."""
    slow = Work(*(4 * rate for rate in (0.0, PLANTED.calls, PLANTED.macs, 0.0, 0.0, 0.0)))
    costs = done(40)
    for num_calls in range(3, 43):
        outlook, _, _, usage = generation(num_calls, slow)
        costs = costs.learned_from_part(replace(outlook, dense_calls=50), usage)
    outlook, _, _, usage = generation(50, slow)
    assert costs.seconds(outlook) == pytest.approx(usage.seconds, rel=0.15)


def test_of_a_stopped_job_of_which_nothing_is_known_it_is_learned_that_they_take_so_long_at_least():
    costs = Costs()
    assert costs.learned_from_part(None, Usage(1.0, 3)).job_seconds == FIRST_JOB_SECONDS
    assert costs.learned_from_part(None, Usage(60.0, 3)).job_seconds == pytest.approx(20)


def test_an_edit_that_was_foreseen_as_a_drawing_has_the_calls_that_its_mask_tells():
    """It named no source, and one was found."""
    outlook = Outlook(20, int(DENSE)).found(mask(0.1, int(20 * DENSE * 0.2)), 3)
    assert [outlook.after(calls).num_calls for calls in (3, 13, 23)] == [20, 10, 0]
    _, _, _, usage = generation(8)
    part = done(30).learned_from_part(outlook, Usage(usage.seconds, 3 + 10))
    work, _ = part.works[-1]
    assert work.macs == pytest.approx(3 * DENSE + 10 * DENSE * 0.2)


def test_a_job_that_was_stopped_before_its_first_call_shows_nothing():
    assert done(3).learned_from_part(EDIT, Usage()) == done(3)


def test_an_edit_to_be_detected_is_predicted_by_the_mean_mask():
    costs = Costs()
    assert costs.detected_ratio == FIRST_RATIO
    for _ in range(40):
        costs = costs.learned(*edit(0.1))
    assert costs.detected_ratio == pytest.approx(0.1, abs=0.001)
    assert costs.seconds(EDIT) == pytest.approx(edit(0.1)[3].seconds, rel=0.02)


def test_when_the_mask_is_known_the_edit_is_predicted_by_its_multiplications():
    costs = done(40)
    outlook, found, _, usage = edit(0.33)
    assert costs.seconds(outlook.found(found, 3)) == pytest.approx(usage.seconds, rel=0.02)


def test_a_source_that_was_drawn_is_counted_though_the_receipt_does_not():
    costs = done(40)
    outlook, found, receipt, usage = edit(0.2)
    drawn = replace(outlook, dense_calls=23)
    seconds = usage.seconds + 20 * (PLANTED.calls + DENSE * PLANTED.macs)
    receipt = replace(receipt, seconds={"source": 1.0})
    after = costs.learned(drawn, found, receipt, Usage(seconds, 43))
    assert after.rates.row() == pytest.approx(costs.rates.row(), rel=0.05)


def test_an_edit_that_reads_nothing_is_dense():
    costs = done(40)
    dense = replace(EDIT, tier=None, edited_ratio=0.1, detects=False)
    assert costs.work(dense).macs == 23 * int(DENSE)


def test_a_slower_machine_is_believed():
    slower = Work(*(3 * PLANTED.row()))
    costs = done(15, slower, done(40), seed=1)
    outlook, _, _, usage = generation(20, slower)
    assert costs.seconds(outlook) == pytest.approx(usage.seconds, rel=0.15)


def test_a_job_that_hung_does_not_ruin_the_others():
    outlook, found, receipt, usage = generation(20)
    costs = done(20).learned(outlook, found, receipt, replace(usage, seconds=100 * usage.seconds))
    assert costs.seconds(outlook) == pytest.approx(usage.seconds, rel=0.125)  # the newest job is a tenth of what counts


def test_what_is_answered_from_a_recording_takes_nothing_and_teaches_nothing():
    costs = done(5)
    assert costs.seconds(Outlook()) == 0
    assert costs.learned(Outlook(), None, Receipt("id"), Usage(0.01, 0)) is costs


def test_of_a_job_of_which_nothing_is_known_the_rest_of_the_mean_is_left():
    costs = Costs().learned(None, None, Receipt("id", macs_computed=1), Usage(5.0, 3))
    assert costs.job_seconds == pytest.approx(9.0)
    assert costs.seconds(None, spent_seconds=4.0) == pytest.approx(5.0)
    assert costs.seconds(None, spent_seconds=40.0) == pytest.approx(0.9)  # a tenth: it has not ended


def test_no_more_is_remembered_than_counts():
    assert len(done(80).works) == 64


def test_calls_that_are_done_are_no_longer_ahead():
    outlook = EDIT.found(mask(0.2, 200), 3)
    assert [outlook.after(calls).num_calls for calls in (0, 2, 3, 13, 23, 30)] == [23, 21, 20, 10, 0, 0]
    assert [outlook.after(calls).edit_macs for calls in (3, 13, 23)] == [200, 100, 0]


def test_a_mask_after_which_nothing_is_to_be_done_ends_the_job():
    assert EDIT.found(mask(0.0, 0), 3).after(3).num_calls == 0


def test_a_dry_run_ends_with_the_mask():
    assert EDIT.detection.num_calls == 3
    assert EDIT.found(mask(0.2, 200), 3).detection.after(3).num_calls == 0


def test_the_seconds_of_a_shared_call_are_split_by_rows():
    assert parts(6.0, [10, 20]) == [2, 4]
    assert parts(6.0, [0, 0]) == [3, 3]


def test_every_device_has_a_guess_without_a_zero():
    for guess in GUESSES.values():
        assert (guess.row() > 0).all()
