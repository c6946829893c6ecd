"""The whole-edit benchmark, on one pair: every way draws, and ratios are of what was measured."""

from __future__ import annotations

import pytest
import torch

from loadtests import edit
from loadtests.conditions import commit, conditions
from service.postcard.pairs import EditPair

PAIR = EditPair(
    "recolour", "a desert under a clear sky with a red house", "a desert under a clear sky with a blue house", 3
)


def test_each_way_is_timed_and_compared(monkeypatch):
    model = edit.load_model()
    quick = edit.Model(
        **{**vars(model), "defaults": type(model.defaults)(**vars(model.defaults) | {"num_inference_steps": 4})}
    )
    monkeypatch.setattr(edit, "load_model", lambda **_: quick)
    result = edit.measure([PAIR, PAIR], torch.device("cpu"))
    assert set(result["seconds"]) == {
        "edit", "edit, mask given", "dense", "diffusers", "image-to-image", "in-painting",
    }  # fmt: skip
    assert result["pairs"] == 1
    assert 0 < result["edited_ratio"] < 0.5
    fastest = min(result["seconds"][name]["median"] for name in ("dense", "diffusers"))
    assert result["speedup"]["edit"]["median"] == pytest.approx(fastest / result["seconds"]["edit"]["median"], rel=0.02)
    assert {"machine", "versions", "commit", "date", "seed"} <= set(result)


def test_conditions_name_the_machine_and_its_cores():
    told = conditions(torch.device("cpu"), seed=5)
    assert told["machine"].endswith("cores")
    assert told["seed"] == 5
    assert commit() is None or len(commit()) >= 7
