"""A generation is what diffusers' own pipeline draws."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from PIL import Image

from service.engine.core import png_of
from service.engine.sampling import constant_channels, first_latents, guide, make_sampler, resolve
from service.engine.text import encode
from service.errors import InputError
from service.jobs import GenerateJob, ImageReady, Preview, SamplingRequest

PROMPT = "a red house"


def _theirs(studio, **other):
    sampling = resolve(studio.model, SamplingRequest(**studio_steps()))
    images = studio.pipeline(
        PROMPT, latents=first_latents(studio.model, sampling), output_type="np",
        num_inference_steps=4, guidance_scale=3.0, **other,
    ).images  # fmt: skip
    return torch.from_numpy((images[0] * 255).round().astype(np.uint8)).int()


def studio_steps():
    return {"num_inference_steps": 4, "guidance_scale": 3.0, "seed": 3}


def test_a_generation_equals_diffusers_pipeline(studio):
    ours = studio.generate(PROMPT).pixels
    assert (ours - _theirs(studio)).abs().max() <= 1  # rounding to 255
    assert ours.float().std() > 5  # a picture


def test_a_negative_prompt_is_the_unconditional_branch(sd2):
    ours = sd2.generate(PROMPT, negative_prompt="blue").pixels
    assert (ours - _theirs(sd2, negative_prompt="blue")).abs().max() <= 1
    assert not torch.equal(ours, sd2.generate(PROMPT).pixels)


def test_dpm_solver_equals_diffusers_pipeline_with_its_scheduler(sd2):
    ours = sd2.generate(PROMPT, sampler="dpm++").pixels
    own = sd2.pipeline.scheduler
    sd2.pipeline.scheduler = DPMSolverMultistepScheduler.from_config(sd2.model.sampler_config)  # 2M is its default
    try:
        assert (ours - _theirs(sd2)).abs().max() <= 1
    finally:
        sd2.pipeline.scheduler = own


def test_without_guidance_there_is_one_branch(sd2):
    outcome = sd2.generate(PROMPT, guidance_scale=1.0)
    assert outcome.receipt.rows_computed == 4 * 16 * 16


def _error(sd2, sampler_name: str, num_steps: int) -> float:
    """Of a sampler on Gaussian data of deviation 0.5, whose probability flow is known: x scales like its deviation.

    From noise to t = 200: further down the log-SNR runs away and no number of steps is many.
    """
    sampler = make_sampler(sd2.model, sampler_name, num_steps)
    alphas = sampler.alphas_cumprod.double()
    deviations = (alphas * 0.25 + 1 - alphas).sqrt()
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for timestep in sampler.timesteps[sampler.timesteps > 200]:
        noise = (1 - alphas[timestep]).sqrt() * x / deviations[timestep] ** 2
        x = sampler.step(noise, timestep, x).prev_sample
    first, last = sampler.timesteps[0], sampler.timesteps[sampler.timesteps <= 200][0]
    return abs(float(x) - float(deviations[last] / deviations[first]))


def test_dpm_solver_is_second_order_and_ddim_first(sd2):
    """Twice the steps quarter the error, or halve it."""
    dpm, ddim = ([_error(sd2, name, n) for n in (25, 50, 100)] for name in ("dpm++", "ddim"))
    assert all(3.5 < coarse / fine < 5 for coarse, fine in pairwise(dpm))
    assert all(1.8 < coarse / fine < 2.2 for coarse, fine in pairwise(ddim))


def test_the_same_request_is_the_same_image_and_not_drawn_again(sd2):
    first, again = sd2.generate(PROMPT), sd2.generate("  a red   house ")
    assert first.image_id == again.image_id
    assert again.receipt.rows_computed == 0
    assert torch.equal(first.pixels, again.pixels)
    assert sd2.generate(PROMPT, seed=4).image_id != first.image_id


def test_without_cache_nothing_is_kept(sd2):
    outcome = sd2.run(GenerateJob(PROMPT, SamplingRequest(**studio_steps()), cache="off"))
    assert outcome.image_id not in sd2.store.ids()
    assert (outcome.pixels - sd2.generate(PROMPT).pixels).abs().max() <= 1  # attention by another kernel, rounded


def test_previews_come_every_so_many_steps_and_approach_the_image(sd2):
    outcome = sd2.run(GenerateJob(PROMPT, SamplingRequest(**studio_steps()), preview_every=1))
    previews = [event for event in outcome.events if isinstance(event, Preview)]
    assert [preview.step for preview in previews] == [0, 1, 2]
    kinds = [type(event) for event in outcome.events]
    assert kinds.index(ImageReady) > kinds.index(Preview)


@pytest.mark.parametrize("channels", [8, 9])
def test_networks_of_more_input_channels_draw_from_a_prompt_alone(make_studio, channels):
    """The first step is diffusers' own network on the same channels; an edit goes through."""
    studio = make_studio("sd2", in_channels=channels)
    source = studio.generate(PROMPT)
    with studio.store.open(source.image_id) as recording:
        first, second = recording.blob("latents")[:2]
    constant = constant_channels(studio.model, first[None])
    assert constant.shape == (1, channels - 4, 16, 16)
    text = encode(studio.model, ["", PROMPT], 64, 64)
    sampler = make_sampler(studio.model, "ddim", 4)
    sample = torch.cat([first[None], constant], 1).expand(2, -1, -1, -1)
    noise = studio.pipeline.unet(sample, sampler.timesteps[0], text.embeds).sample
    expected = sampler.step(guide(noise, 3.0, 0.0), sampler.timesteps[0], first[None]).prev_sample[0]
    torch.testing.assert_close(second, expected.detach(), atol=1e-4, rtol=1e-4)
    assert not torch.equal(studio.edit("a blue house", source).pixels, source.pixels)


def test_sizes_may_differ_from_the_models_own(sd2):
    outcome = sd2.generate(PROMPT, width=84, height=52)
    assert outcome.pixels.shape == (52, 84, 3)


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 63), ("height", 0), ("num_inference_steps", 0), ("num_inference_steps", 1001), ("sampler", "euler")],
)
def test_settings_that_cannot_be_are_refused_by_name(sd2, field, value):
    with pytest.raises(InputError, match=field) as caught:
        sd2.generate(PROMPT, **{field: value})
    assert caught.value.field == field


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_drawn(sd2):
    small, steps = replace(sd2.model, max_pixels=64 * 64), SamplingRequest(**studio_steps())
    assert sd2.drive(small, sd2.store, [GenerateJob(PROMPT, steps)])[0].pixels.shape == (64, 64, 3)
    with pytest.raises(InputError, match="at most 4096 pixels here, got 128x64") as caught:
        sd2.drive(small, sd2.store, [GenerateJob(PROMPT, replace(steps, width=128))])
    assert caught.value.field == "width"


def test_an_empty_prompt_is_refused(sd2):
    with pytest.raises(InputError, match="prompt"):
        sd2.generate("  ")


def test_guidance_rescaling_keeps_the_conditional_deviation():
    both = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    guided = guide(both, 9.0, 1.0)
    torch.testing.assert_close(guided.std(), both[1].std())
    assert torch.equal(guide(both, 1.0, 0.0), both[:1] + 1.0 * (both[1:] - both[:1]))


def test_no_job_makes_or_reads_a_png_and_what_it_drew_can_be_had_as_one(sd2, monkeypatch):
    """A device would wait for it."""
    with monkeypatch.context() as patched:
        patched.setattr(Image, "open", None)
        patched.setattr(Image.Image, "save", None)
        source = sd2.generate(PROMPT)
        edited = sd2.edit("a blue house", source)
    assert edited.mask.any()
    with sd2.store.open(edited.image_id) as recording:
        png, mask = png_of(recording, "image"), png_of(recording, "edit_mask")
    assert torch.from_numpy(np.asarray(Image.open(io.BytesIO(png))).copy()).equal(edited.pixels.to(torch.uint8))
    assert np.asarray(Image.open(io.BytesIO(mask))).any()
