"""Multiplications by the formula are those that torch counts while the network runs."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from service.engine.macs import MacModel
from service.engine.unet import UNet
from sparse_ops.context import Context
from sparse_ops.plan import active_positions, dense_plans, make_plans

META = torch.device("meta")


class Shapes:
    """Reads tensors that have a shape and nothing else."""

    def __init__(self, shapes):
        self.shapes = shapes

    def rows(self, key, positions):
        return torch.empty(len(positions), self.shapes[key][1], device=META)

    def keys(self, key, plan):
        return torch.empty(len(plan.keys), self.shapes[key][1], device=META)

    def statistics(self, key):
        return torch.empty(2, *self.shapes[key], device=META)


@cache
def on_meta(cfg):
    with META:
        return UNet(cfg)


def counted(case, plans, *, keep_inputs, **deep):
    """What FlopCounterMode sees of one call on the meta device; a multiplication is two of its operations."""
    unet = on_meta(case.ours.cfg)
    _, recordings = case.record(keep_inputs=keep_inputs)
    shapes = Shapes({key: tuple(value.shape) for key, value in recordings[0].items()})
    given = {name: value.to(META) for name, value in case.inputs().items() if name != "added"}
    text = unet.read(given["text"], case.added and tuple(value.to(META) for value in case.added))
    ctx = Context([plan.to(META) for plan in plans], shapes, keep_inputs=keep_inputs, **deep)
    with FlopCounterMode(display=False) as counter:
        unet(given["sample"], given["timestep"], text, ctx)
    return counter.get_total_flops() // 2


def model_of(case):
    return cached_model(case.ours.cfg, *case.sample.shape[2:], case.text.shape[1])


cached_model = cache(MacModel.of)


def test_dense_multiplications_are_those_of_a_run(case):
    plans = dense_plans(2, 24, 32, case.num_levels)
    expected = counted(case, plans, keep_inputs=True)
    assert model_of(case).dense(2) == model_of(case).count(plans) == expected


@pytest.mark.parametrize(("attend_recorded", "keep_inputs"), [(True, False), (False, True), ([True, False], True)])
def test_sparse_multiplications_are_those_of_a_run(case, edit_mask, attend_recorded, keep_inputs):
    plans = make_plans(active_positions(edit_mask, case.num_levels), attend_recorded)
    expected = counted(case, plans, keep_inputs=keep_inputs)
    assert model_of(case).count(plans, recorded_inputs=keep_inputs) == expected


@pytest.mark.parametrize("keep_inputs", [True, False])
@pytest.mark.parametrize("everything", [True, False])
def test_multiplications_of_the_highest_resolution_alone_are_those_of_a_run(case, edit_mask, everything, keep_inputs):
    plans = make_plans(active_positions(edit_mask | everything, case.num_levels))
    kept = []
    complete = counted(case, plans, keep_inputs=keep_inputs, keep_deep=kept.append)
    shallow = counted(case, plans[:1], keep_inputs=keep_inputs, deep=kept[0])
    assert shallow < complete
    assert model_of(case).count(plans, recorded_inputs=keep_inputs) == complete
    assert model_of(case).count(plans[:1], recorded_inputs=keep_inputs) == shallow


@pytest.mark.parametrize("num_dense", [1, 2])
def test_dense_low_resolutions_are_counted(case, edit_mask, num_dense):
    blocks = (2,) * (case.num_levels - num_dense) + (None,) * num_dense
    plans = make_plans(active_positions(edit_mask, case.num_levels, blocks))
    assert model_of(case).count(plans) == counted(case, plans, keep_inputs=False)


def test_odd_sizes_are_counted(build):
    case = build("sd2", height=21, width=27)
    plans = make_plans(active_positions(torch.rand(2, 21, 27) < 0.1, case.num_levels))
    assert model_of(case).count(plans) == counted(case, plans, keep_inputs=False)
    assert model_of(case).dense(2) == counted(case, dense_plans(2, 21, 27, case.num_levels), keep_inputs=False)


def test_the_breakdown_adds_up_and_names_every_resolution(case, edit_mask):
    plans = make_plans(active_positions(edit_mask, case.num_levels))
    breakdown = model_of(case).breakdown(plans)
    assert sum(breakdown.values()) == model_of(case).count(plans)
    assert set(breakdown) == {(i, k) for i in range(case.num_levels) for k in ("conv", "linear", "attention")}
