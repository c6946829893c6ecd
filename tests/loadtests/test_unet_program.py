"""The program that times U-Net calls, whole, with a tiny network on a CPU."""

from __future__ import annotations

import json

import pytest
import torch

from loadtests import passes, unet
from loadtests.contest import Contest, LeftOutError
from loadtests.inputs import Inputs, both
from loadtests.shapes import CONFIGS, SHAPES, synthetic_masks
from service.engine.unet import UNetConfig

CPU = torch.device("cpu")
TINY = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 12,
    "attention_head_dim": 2,
}  # fmt: skip
TINY_XL = TINY | {
    "addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 32,
}  # fmt: skip


class Recorder:
    """Captures nothing: it runs each time."""

    def record(self, run):
        run()
        return run

    def num_bytes(self):
        return 0

    def forget(self):
        pass


@pytest.mark.parametrize("config", [TINY, TINY_XL], ids=["sd", "sdxl"])
def test_each_way_is_checked_timed_and_compared(config):
    given = unet.Settings(config, 16, torch.float32, CPU, margins=(0, 1), num_calls=3, num_rounds=2)
    masks = {name: mask[None] for name, mask in synthetic_masks(16).items()}
    result = unet.measure(given, masks)
    assert result["failed"] == []
    assert {"compile", "dense graphs", "sparse graphs", "host graphs"} <= set(result["left_out"])
    assert set(result["ratios"]["eager"]) == {"0.05", "0.15", "0.30"}
    ms = result["ms"]
    assert {name for name in ms if "0.05" in name} == {
        "sparse 0.05 margin 0", "sparse 0.05 margin 1", "host 0.05 margin 0",
    }  # fmt: skip
    expected = ms["eager"]["median"] / ms["sparse 0.05 margin 0"]["median"]
    assert result["ratios"]["eager"]["0.05"] == pytest.approx(expected, abs=0.01)
    assert result["masks"]["0.05"]["computed_ratio"][0] < result["masks"]["0.05"]["computed_ratio"][1]
    assert json.loads(json.dumps(result))["ratios_of"] == "sparse, margin 0, rows on the device"


def test_a_pass_that_is_not_captured_is_left_out_and_named():
    given = unet.Settings(TINY, 16, torch.float32, CPU, margins=(0,), ways=("sparse", "sparse graphs"), num_calls=1)
    result = unet.measure(given, {"mask_05": synthetic_masks(16)["mask_05"][None]}, Recorder())
    assert "not captured" in result["left_out"]["sparse graphs 0.05 margin 0"]
    assert result["ratios_of"] == "sparse, margin 0, rows on the device"


def test_a_wrong_prediction_is_no_contestant(monkeypatch):
    right = passes.Passes.predict
    monkeypatch.setattr(passes.Passes, "predict", lambda *given: right(*given) * 1.01)
    given = unet.Settings(TINY, 16, torch.float32, CPU, margins=(0,), ways=("eager", "dense", "sparse"), num_calls=1)
    result = unet.measure(given, {"mask_05": synthetic_masks(16)["mask_05"][None]})
    assert result["failed"] == ["dense", "sparse 0.05 margin 0"]
    assert set(result["ms"]) == {"eager"}


def test_rounds_take_turns_over_many_masks():
    seen = []
    contest = Contest(CPU, num_calls=1)
    contest.enter("two", lambda: [lambda step: seen.append(("a", step)), lambda step: seen.append(("b", step))])
    seen.clear()
    contest.run(num_rounds=3)
    assert seen == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("a", 0), ("a", 1)]
    assert len(contest.contestants["two"].ms) == 3


def test_one_that_fails_leaves_the_others():
    def fails():
        raise LeftOutError("is not installed")

    contest = Contest(CPU, num_calls=1)
    contest.enter("absent", fails)
    contest.enter("broken", lambda: [lambda _: 1 // 0])
    contest.enter("works", lambda: [lambda _: None])
    assert contest.left_out["absent"] == "is not installed"
    assert "ZeroDivisionError" in contest.left_out["broken"]
    assert contest.failed == ["broken"]
    assert list(contest.contestants) == ["works"]


def test_interrupted_it_tells_what_was_measured():
    calls = []

    def interrupted(step):
        calls.append(step)
        if len(calls) > 4:  # two to warm up, two of the first round
            raise KeyboardInterrupt

    contest = Contest(CPU, num_calls=1)
    contest.enter("first", lambda: [lambda _: None])
    contest.enter("second", lambda: [interrupted])
    assert contest.run(num_rounds=5) == 2
    assert set(contest.ms()) == {"first", "second"}
    assert len(contest.contestants["second"].ms) == 1


def test_after_an_interrupted_one_nobody_is_made():
    def make():
        raise KeyboardInterrupt

    contest = Contest(CPU, num_calls=1)
    contest.enter("first", lambda: [lambda _: None])
    contest.enter("slow", make)
    contest.enter("late", lambda: [lambda _: None])
    assert contest.run(num_rounds=5) == 1
    assert list(contest.ms()) == ["first"]
    assert set(contest.left_out) == {"slow", "late"}


def test_both_networks_are_one():
    theirs, ours = both(TINY, torch.float32, CPU, seed=0)
    inputs = Inputs.random(ours.cfg, 16, torch.float32, CPU, seed=0)
    recorded = passes.Passes.recorded(ours, inputs, num_steps=1)
    expected = theirs(inputs.sample, inputs.timestep, inputs.embeds).sample
    torch.testing.assert_close(recorded.noise, expected, atol=1e-5, rtol=1e-5)
    assert theirs.conv_in.weight.data_ptr() == ours.conv_in.weight.data_ptr()
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", CONFIGS)
def test_published_configs_are_the_published_shapes(name):
    with torch.device("meta"):
        config = unet.UNet2DConditionModel(**CONFIGS[name]).config
    assert UNetConfig.from_diffusers(config) == SHAPES[name]


def test_arguments_become_settings(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(CONFIGS, "sd2.1", TINY)
    seen = []

    def measure(given, masks):
        seen.append((given, masks))
        return {"machine": "a CPU, 2 cores", "date": "2026-01-01", "failed": ["sparse 0.05 margin 0", "compile"]}

    monkeypatch.setattr(unet, "measure", measure)
    arguments = ["unet", "--device", "cpu", "--without", "compile", "--json", "--save", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit, match=r"these failed: sparse 0.05 margin 0$"):
        unet.main()
    (given, masks) = seen[0]
    assert "compile" not in given.ways
    assert given.dtype == torch.float32
    assert masks["mask_05"].shape == (1, 96, 96)
    assert (tmp_path / "unet-cpu-2026-01-01.json").exists()
    assert json.loads(capsys.readouterr().out)["model"] == "sd2.1"
