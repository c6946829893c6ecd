from __future__ import annotations

import pytest

from service.api.quotas import FIRST_GUESS_SECONDS, Quotas
from service.errors import LimitError


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def refused(spend):
    with pytest.raises(LimitError) as caught:
        spend()
    return caught.value.retry_after_seconds


def test_requests_come_back_evenly(clock):
    quotas = Quotas(jobs=0, requests_per_minute=30, clock=clock)
    for _ in range(30):
        quotas.spend("ann")
    assert refused(lambda: quotas.spend("ann")) == pytest.approx(2)
    clock.now += 1.5
    assert refused(lambda: quotas.spend("ann")) == pytest.approx(0.5)
    clock.now += 0.5
    quotas.spend("ann")
    assert refused(lambda: quotas.spend("ann")) == pytest.approx(2)


def test_an_idle_hour_saves_one_minute(clock):
    quotas = Quotas(jobs=0, requests_per_minute=2, clock=clock)
    quotas.spend("ann")
    clock.now += 3600
    quotas.spend("ann")
    quotas.spend("ann")
    refused(lambda: quotas.spend("ann"))


def test_one_keys_requests_are_not_anothers(clock):
    quotas = Quotas(jobs=1, requests_per_minute=1, clock=clock)
    quotas.spend("ann")
    quotas.spend("bob")
    with quotas.job("ann"), quotas.job("bob"):
        refused(lambda: quotas.job("ann").__enter__())


@pytest.mark.parametrize(("tenant", "most"), [("", 1), ("ann", 0)])
def test_without_a_key_or_a_limit_there_is_none(clock, tenant, most):
    quotas = Quotas(jobs=most, requests_per_minute=most, clock=clock)
    for _ in range(3):
        quotas.spend(tenant)
    with quotas.job(tenant), quotas.job(tenant):
        pass


def test_a_place_is_free_again_whatever_ends_the_job(clock):
    quotas = Quotas(jobs=1, requests_per_minute=0, clock=clock)
    with pytest.raises(ZeroDivisionError), quotas.job("ann"):
        raise ZeroDivisionError
    with quotas.job("ann"):
        pass


def test_the_wait_for_a_place_is_what_the_earliest_job_has_left(clock):
    quotas = Quotas(jobs=2, requests_per_minute=0, clock=clock)
    with quotas.job("ann"):
        clock.now += 3
        with quotas.job("ann"):
            assert refused(lambda: quotas.job("ann").__enter__()) == FIRST_GUESS_SECONDS - 3
            clock.now += 100
            assert refused(lambda: quotas.job("ann").__enter__()) == 1


def test_the_guess_learns_from_jobs_that_ended(clock):
    quotas = Quotas(jobs=1, requests_per_minute=0, clock=clock)
    for _ in range(50):
        with quotas.job("ann"):
            clock.now += 40
    with quotas.job("ann"):
        assert refused(lambda: quotas.job("ann").__enter__()) == pytest.approx(40, rel=0.01)
