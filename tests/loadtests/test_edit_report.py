"""The whole-edit benchmark, on one pair: every way draws, and ratios are of what was measured."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from loadtests import conditions, edit
from loadtests.random_model import write_random_model
from service.postcard.pairs import EditPair

CPU = torch.device("cpu")
PAIR = EditPair(
    "recolour", "a desert under a clear sky with a red house", "a desert under a clear sky with a blue house", 3
)
WAYS = {"edit, mask given", "dense", "diffusers", "image-to-image", "in-painting"}
TINY = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 64,
    "attention_head_dim": 2, "sample_size": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def ways():
    return edit.ways_of(edit.MODEL_DIRECTORY, CPU, torch.float32, steps=4, store_bytes=1 << 30)


def test_each_way_is_timed_and_compared(ways):
    (result,) = edit.measure_pairs(ways, [PAIR])
    assert set(result["seconds"]) == {"edit", *WAYS}
    assert result["pairs"] == 1
    assert 0 < result["edited_ratio"] < 0.5
    fastest = min(result["seconds"][name]["median"] for name in ("dense", "diffusers"))
    assert result["speedup"]["edit"]["median"] == pytest.approx(fastest / result["seconds"]["edit"]["median"], rel=0.02)


def test_given_masks_are_as_large_as_they_should_be(ways):
    (result,) = edit.measure_masks(ways, edit.Plan([], (0.11,), repeats=1))
    told = result["masks"]["0.11"]
    assert told["edited_ratio"] == pytest.approx(0.11, abs=0.005)
    assert set(told["seconds"]) == {*WAYS, "detection", "edit, with detection"}
    assert told["stages"]["detect"] == 0


def test_edits_together_are_the_same_edits(ways):
    source = ways.record(PAIR.source_prompt, PAIR.seed)
    masks = [edit.synthetic_mask(32, 0.05, seed).numpy() for seed in range(2)]
    jobs = [ways.given(source, PAIR.prompt, mask) for mask in masks]
    alone = [ways.edit(source, job) for job in jobs]
    together = ways.edit_together(source, jobs)
    assert source.store.ids() == [source.image_id]  # the same edit again would be there already
    for one, other in zip(alone, together, strict=True):
        off = np.asarray(one.image.image).astype(int) - np.asarray(other.image.image)
        assert abs(off).max() <= 1  # sums in another order


def test_a_batch_is_compared_with_one_by_one(ways):
    (told,) = edit.measure_batch(ways, edit.Plan([], batch=2, repeats=1))
    result = told["batched"]
    assert result["edits"] == 2
    assert result["edited_ratio"] == pytest.approx(0.05, abs=0.005)
    assert set(result["seconds"]) == {"one by one", "together"}


def test_interrupted_it_tells_what_is_whole(ways, monkeypatch):
    edit_together = type(ways).edit_together

    def interrupted(self, source, jobs):
        if len(jobs) > 1:
            raise KeyboardInterrupt
        return edit_together(self, source, jobs)

    monkeypatch.setattr(type(ways), "edit_together", interrupted)
    result = edit.measure(ways, edit.Plan([], (0.11,), batch=2, repeats=1))
    assert "0.11" in result["masks"]
    assert "batched" not in result
    assert not result["is_whole"]


def test_random_weights_of_any_size_are_a_model(tmp_path):
    write_random_model(tmp_path, CPU, TINY, vae_channels=(8, 8), text_layers=1)
    ways = edit.ways_of(tmp_path, CPU, torch.float32, steps=2, store_bytes=1 << 30)
    result = edit.measure(ways, edit.Plan([], (0.23,), batch=1, repeats=1))
    assert json.loads(json.dumps(result))["pixels"] == [64, 64]
    assert result["pairs"] == 0
    assert result["is_whole"]
    assert set(result["masks"]["0.23"]["seconds"]) >= WAYS
    assert {"machine", "versions", "commit", "date", "seed"} <= set(result)


def test_conditions_name_the_machine_and_its_cores():
    told = conditions.conditions(CPU, seed=5)
    assert told["machine"].endswith("cores")
    assert told["seed"] == 5
    assert "clocks" not in told
    assert conditions.commit() is None or len(conditions.commit()) >= 7


def test_outside_of_a_checkout_the_commit_is_told_by_whoever_copied_it(monkeypatch, tmp_path):
    monkeypatch.setattr(conditions, "ROOT", tmp_path)
    monkeypatch.setenv("COMMIT", "abc1234")
    assert conditions.commit() == "abc1234"


@pytest.mark.parametrize(
    ("machine", "name"),
    [("NVIDIA H200", "h200"), ("NVIDIA H100 80GB HBM3", "h100"), ("AMD EPYC, 2 cores", "cpu")],
)
def test_results_are_named_by_device_and_date(tmp_path, machine, name):
    path = conditions.save({"machine": machine, "date": "2026-11-25"}, "unet", tmp_path / "new")
    assert path == tmp_path / "new" / f"unet-{name}-2026-11-25.json"
    assert json.loads(path.read_text())["machine"] == machine
