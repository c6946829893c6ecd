import json
import warnings

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from service.postcard import training
from service.postcard.model import Widths, load_postcard, new_postcard, save_postcard
from service.postcard.train import main
from service.postcard.training import Budget, Training

TINY = Widths(vae=(8, 8, 8, 8), unet=(16, 16, 16), head=16, text=16)
WEIGHTS = ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model", "judge")


def train(out, *arguments):
    fixed = ("--device", "cpu", "--pictures", "16", "--batch", "2", "--scratch", str(out.parent / "scratch"))
    main(["--out", str(out), *fixed, *arguments], TINY)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny model after two steps of every stage from nothing."""
    out = tmp_path_factory.mktemp("postcard") / "model"
    train(out, "--steps", "2")
    return out


def weights(directory):
    return {name: load_file(directory / f"{name}.safetensors") for name in WEIGHTS}


def test_training_from_nothing_writes_a_directory_that_diffusers_loads(trained):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffusers' own notes about its own files
        pipeline = StableDiffusionPipeline.from_pretrained(trained)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline("a sea under a clear sky", num_inference_steps=2, output_type="np").images
    assert images.shape == (1, 256, 256, 3)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    assert pipeline.safety_checker is None


def test_large_parts_are_stored_as_fp16(trained):
    stored = weights(trained)
    kinds = {tensor.dtype for name in WEIGHTS[:2] for tensor in stored[name].values()}
    assert kinds == {torch.float16}


def test_the_vae_stage_sets_the_scaling_factor(trained):
    configuration = json.loads((trained / "vae" / "config.json").read_text(encoding="utf-8"))
    assert configuration["scaling_factor"] != 0.18215


def test_defaults_and_words_are_written_beside_the_weights(trained):
    defaults = json.loads((trained / "retouch.json").read_text(encoding="utf-8"))
    assert {"num_inference_steps", "guidance_scale", "guidance_rescale", "words"} == set(defaults)


def test_the_same_command_with_more_steps_goes_on_from_the_checkpoint(trained):
    checkpoint = trained.parent / "scratch" / "checkpoints" / "denoiser.pt"
    kept = checkpoint.read_bytes()
    before = torch.load(checkpoint)
    train(trained.parent / "resumed", "--start", str(trained), "--stages", "denoiser", "--steps", "3")
    after = torch.load(checkpoint)
    checkpoint.write_bytes(kept)
    assert (before["step"], after["step"]) == (2, 3)
    assert after["seconds"] > before["seconds"]
    assert len(after["optimizer"]["state"]) == len(before["optimizer"]["state"]) > 0


def test_a_finished_stage_is_not_trained_again(trained):
    train(trained.parent / "again", "--start", str(trained), "--stages", "denoiser", "--steps", "2")
    first, again = weights(trained), load_file(trained.parent / "again" / f"{WEIGHTS[0]}.safetensors")
    assert all(torch.equal(first[WEIGHTS[0]][name], again[name]) for name in again)


def test_training_starts_from_committed_weights_alone(trained, tmp_path):
    arguments = ("--start", str(trained), "--stages", "denoiser", "--steps", "1", "--learning-rate", "1e-3")
    train(tmp_path / "tuned", *arguments)
    before, after = (
        weights(trained),
        {name: load_file(tmp_path / "tuned" / f"{name}.safetensors") for name in WEIGHTS[:3]},
    )
    assert all(torch.equal(before[WEIGHTS[1]][name], after[WEIGHTS[1]][name]) for name in after[WEIGHTS[1]])
    moved = [name for name in after[WEIGHTS[0]] if not torch.equal(before[WEIGHTS[0]][name], after[WEIGHTS[0]][name])]
    assert len(moved) > len(after[WEIGHTS[0]]) / 2


def test_saving_and_loading_loses_no_more_than_fp16_does(tmp_path):
    postcard = new_postcard(tmp_path / "model", TINY)
    save_postcard(postcard, tmp_path / "model")
    loaded = load_postcard(tmp_path / "model")
    for part in ("unet", "vae", "text_encoder"):
        for ours, theirs in zip(getattr(postcard, part).parameters(), getattr(loaded, part).parameters(), strict=True):
            assert torch.equal(ours if part == "text_encoder" else ours.half().float(), theirs)


def test_a_paused_step_counts_only_as_the_longest_step(tmp_path, monkeypatch):
    times = iter([0.0, 1.0, 1.0, 5000.0])  # the second step is stopped for more than an hour
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(times))
    module = torch.nn.Linear(2, 1)
    run = Training(module, learning_rate=0.1, budget=Budget(2), checkpoint=tmp_path / "checkpoint.pt")
    run.run(lambda: module(torch.ones(1, 2)).square().sum())
    assert run.seconds == 1.0 + training.LONGEST_STEP_SECONDS


def test_training_ends_with_its_minutes_or_its_steps(tmp_path):
    module = torch.nn.Linear(2, 1)
    run = Training(module, learning_rate=0.1, budget=Budget(10, minutes=2), checkpoint=tmp_path / "checkpoint.pt")
    run.step, run.seconds = 5, 30.0
    assert run.progress == 0.5
    run.seconds = 120.0
    assert run.progress == 1.0
