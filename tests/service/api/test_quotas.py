from __future__ import annotations

import pytest

from service.api.quotas import FIRST_GUESS_SECONDS, Quotas
from service.errors import InputError, LimitError


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
    with quotas.jobs("ann", 1), quotas.jobs("bob", 1):
        refused(lambda: quotas.jobs("ann", 1).__enter__())


@pytest.mark.parametrize(("tenant", "most"), [("", 1), ("ann", 0)])
def test_without_a_key_or_a_limit_there_is_none(clock, tenant, most):
    quotas = Quotas(jobs=most, requests_per_minute=most, clock=clock)
    for _ in range(3):
        quotas.spend(tenant)
    with quotas.jobs(tenant, 1), quotas.jobs(tenant, 1):
        pass


def test_a_place_is_free_again_whatever_ends_the_job(clock):
    quotas = Quotas(jobs=1, requests_per_minute=0, clock=clock)
    with pytest.raises(ZeroDivisionError), quotas.jobs("ann", 1):
        raise ZeroDivisionError
    with quotas.jobs("ann", 1):
        pass


def test_the_wait_for_a_place_is_what_the_earliest_job_has_left(clock):
    quotas = Quotas(jobs=2, requests_per_minute=0, clock=clock)
    with quotas.jobs("ann", 1):
        clock.now += 3
        with quotas.jobs("ann", 1):
            assert refused(lambda: quotas.jobs("ann", 1).__enter__()) == FIRST_GUESS_SECONDS - 3
            clock.now += 100
            assert refused(lambda: quotas.jobs("ann", 1).__enter__()) == 1


def test_the_guess_learns_from_jobs_that_ended(clock):
    quotas = Quotas(jobs=1, requests_per_minute=0, clock=clock)
    for _ in range(50):
        with quotas.jobs("ann", 1):
            clock.now += 40
    with quotas.jobs("ann", 1):
        assert refused(lambda: quotas.jobs("ann", 1).__enter__()) == pytest.approx(40, rel=0.01)


@pytest.mark.parametrize("end", [LimitError(1, "refused"), ZeroDivisionError(), GeneratorExit()])
def test_what_is_refused_or_left_is_not_taken_for_a_short_job(clock, end):
    quotas = Quotas(jobs=1, requests_per_minute=0, clock=clock)
    for _ in range(20):
        with pytest.raises(type(end)), quotas.jobs("ann", 1):
            raise end
    with quotas.jobs("ann", 1):
        assert refused(lambda: quotas.jobs("ann", 1).__enter__()) == FIRST_GUESS_SECONDS


def test_the_jobs_of_a_request_wait_for_as_many_others(clock):
    quotas = Quotas(jobs=3, requests_per_minute=0, clock=clock)
    with quotas.jobs("ann", 1):
        clock.now += 3
        with quotas.jobs("ann", 1):
            assert refused(lambda: quotas.jobs("ann", 2).__enter__()) == FIRST_GUESS_SECONDS - 3
            assert refused(lambda: quotas.jobs("ann", 3).__enter__()) == FIRST_GUESS_SECONDS
    with quotas.jobs("ann", 3):
        refused(lambda: quotas.jobs("ann", 1).__enter__())


def test_more_jobs_than_a_key_may_ever_run_are_its_own_fault(clock):
    with pytest.raises(InputError, match="at most 3"):
        Quotas(jobs=3, requests_per_minute=0, clock=clock).jobs("ann", 4).__enter__()
