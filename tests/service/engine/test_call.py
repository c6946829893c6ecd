"""Plans of a company of jobs are joined from each one's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from service.engine.call import Active, bucketed, plans_of
from sparse_ops.buckets import bucket_of, pack, shapes_of
from sparse_ops.plan import active_positions, make_plans

BRANCHES, SIZE, LEVELS = 2, (24, 32), 3
CPU = torch.device("cpu")


def active(seed, density, **how):
    mask = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(seed)) < density
    return Active(tuple(level.expand(BRANCHES, -1, -1) for level in active_positions(mask, LEVELS)), **how)


@pytest.fixture
def company():
    return active(0, 0.05), active(1, 0.3, attend_recorded=False), active(2, 2.0)  # the last computes everything


def made(actives, **capacity):
    levels = [torch.cat(level) for level in zip(*(each.levels for each in actives), strict=True)]
    return make_plans(levels, [each.attend_recorded for each in actives for _ in range(BRANCHES)], **capacity)


def assert_equal(plans, expected):
    assert shapes_of(plans) == shapes_of(expected)
    assert torch.equal(pack(plans), pack(expected))
    assert [plan.rows.offsets for plan in plans] == [plan.rows.offsets for plan in expected]


@pytest.mark.parametrize("num_jobs", [1, 2, 3])
def test_they_are_those_of_all_jobs_side_by_side(company, num_jobs):
    actives = company[:num_jobs]
    assert_equal(plans_of(actives, CPU), made(actives))


@pytest.mark.parametrize("num_jobs", [1, 2, 3])
def test_their_bucket_is_that_of_all_jobs(company, num_jobs):
    actives = company[:num_jobs]
    expected = made(actives, capacity=bucket_of(made(actives)))
    assert_equal(bucketed(actives, CPU).plans, expected)
    assert torch.equal(bucketed(actives, CPU).packed, pack(expected))
    assert bucketed(actives, CPU).shapes == shapes_of(expected)


def test_shallow_ones_end_after_the_highest_resolution(company):
    shallow = tuple(replace(each, shallow=True) for each in company)
    assert_equal(plans_of(shallow, CPU), made(company)[:1])
    assert_equal(bucketed(shallow, CPU).plans, made(company, capacity=bucket_of(made(company)))[:1])


def test_the_same_company_has_the_same_plans(company):
    assert plans_of(company, CPU) is plans_of((*company,), CPU)
    assert bucketed(company, CPU) is bucketed((*company,), CPU)
    assert plans_of(company[::-1], CPU) is not plans_of(company, CPU)
