"""Rates that were planted are found again, through noise, outliers and change."""

from __future__ import annotations

import numpy as np
import pytest

from service.batching.fitting import fit

GUESS = np.array([0.1, 5e-3, 2e-11, 1e-10])  # a job, a call, a multiplication, a byte
TRUE = np.array([0.3, 2e-2, 5e-11, 3e-10])


def jobs(count, seed=0):
    """Features of jobs of 4 to 50 calls, dense to very sparse, with and without reading."""
    rng = np.random.default_rng(seed)
    calls = rng.integers(4, 50, count)
    macs = calls * 4e9 * rng.uniform(0.1, 1, count)
    num_bytes = rng.uniform(0, 1e9, count) * rng.integers(0, 2, count)
    return np.stack([np.ones(count), calls, macs, num_bytes], 1)


def noise(count, seed=1):
    return np.random.default_rng(seed).uniform(0.95, 1.05, count)


OTHERS = jobs(50, seed=2)


def ratios(rates):
    """What is predicted of other jobs, over what they take."""
    return (OTHERS @ rates) / (OTHERS @ TRUE)


def test_planted_rates_are_found():
    assert fit(jobs(8), jobs(8) @ TRUE, GUESS) == pytest.approx(TRUE, rel=0.01)


def test_what_was_predicted_to_take_no_time_is_believed_when_it_takes_some():
    """By the rates before, calls and multiplications are free; a job that was stopped is nothing but those."""
    features = np.array([[1, 2, 4.4e8, 0], [1, 4, 8.8e8, 0], [0, 2, 4.4e8, 0]])
    seen = np.array([0.3, 0.4, 0.1])
    rates = fit(features, seen, GUESS, start=np.array([0.35, 0, 0, 0]))
    assert features @ rates == pytest.approx(seen, rel=0.02)


def test_noise_of_five_percent_is_no_more_in_predictions():
    rates = fit(jobs(64), jobs(64) @ TRUE * noise(64), GUESS)
    assert ratios(rates) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("factor", [1 / 100, 1 / 3, 3, 100])
def test_one_outlier_moves_little(factor):
    seen = jobs(24) @ TRUE * noise(24)
    seen[-1] *= factor
    assert ratios(fit(jobs(24), seen, GUESS)).mean() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("factor", [1 / 3, 3])
def test_another_speed_is_believed_after_fifteen_jobs(factor):
    seen = jobs(64) @ TRUE * noise(64)
    before = fit(jobs(64), seen, GUESS)
    assert ratios(before).mean() == pytest.approx(1, rel=0.05)
    seen[-15:] *= factor
    assert ratios(fit(jobs(64), seen, GUESS, before)).mean() == pytest.approx(factor, rel=0.15)


@pytest.mark.parametrize("factor", [1e-3, 1e-1, 1e3])
def test_the_scale_of_the_guess_does_not_matter(factor):
    seen = jobs(16) @ TRUE
    assert ratios(fit(jobs(16), seen, GUESS * factor)) == pytest.approx(1, abs=0.01)


def test_after_one_job_such_a_job_is_predicted():
    rates = fit(jobs(1), jobs(1) @ TRUE, GUESS)
    assert jobs(1) @ rates == pytest.approx(jobs(1) @ TRUE)


def test_what_jobs_do_not_tell_apart_stays_in_proportion():
    alike = np.array([[1.0, 10, 1e10, 0]] * 5)
    rates = fit(alike, 2 * alike @ GUESS, GUESS)
    assert rates == pytest.approx(2 * GUESS, rel=1e-3)


def test_no_rate_is_negative():
    rng = np.random.default_rng(3)
    for _ in range(20):
        rates = fit(jobs(10), rng.uniform(0.01, 100, 10), GUESS)
        assert (rates >= 0).all()
        assert np.isfinite(rates).all()
