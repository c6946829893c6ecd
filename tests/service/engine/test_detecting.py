"""Detections: where new words change a picture, by probes and by the paper's first steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given as given_steps
from hypothesis import strategies as st
from PIL import Image

from cache_store.store import Store
from service.engine import masks
from service.engine.call import Call
from service.engine.canvas import Canvas
from service.engine.predict import predict
from service.engine.probe import Probe, probe_steps
from service.engine.receipts import Tally
from service.engine.region import detected_mask
from service.engine.text import align_prompts, read_branches
from service.engine.weights import load_model
from service.jobs import EditJob, EditRules, GenerateJob, MaskFound, SamplingRequest

PROMPT, EDITED = "a red house", "a blue house"
STEPS = SamplingRequest(num_inference_steps=4, guidance_scale=3.0, seed=3)


def given(source):
    """An edit under a user's mask: a white square."""
    pixels = np.zeros((64, 64), np.uint8)
    pixels[16:36, 24:44] = 255
    return EditJob(EDITED, image_id=source.image_id, edit_mask=Image.fromarray(pixels), mask_mode="given")


def test_recorded_maps_steer_the_detection(sd2):
    """With control, kept words look where they looked: another mask than without."""
    source = sd2.generate(PROMPT, num_inference_steps=10)
    rules = [EditRules(detection="steps", control_ratio=ratio) for ratio in (0.0, 1.0)]
    assert not torch.equal(*(sd2.edit(EDITED, source, dry_run=True, rules=each).mask for each in rules))


def test_what_removed_words_drew_is_in_the_mask_found_by_steps(sd2):
    """The latents differ in one place, the removed word looked at another: both change."""
    alignment, _ = align_prompts(sd2.model, "a red house", "a house")
    recorded = torch.zeros(3, 4, 16, 16)
    fresh, words = recorded.clone(), torch.full((24, 16, 16), 0.01)
    fresh[1:, :, 2:6, 2:6] = 1.0
    words[list(alignment.removed), 9:13, 9:13] = 0.5
    found = detected_mask(fresh, recorded, words, alignment, EditRules(detection="steps", dilation=0), torch.float32)
    expected = np.zeros((16, 16), bool)
    expected[2:6, 2:6] = expected[9:13, 9:13] = True
    assert np.array_equal(found, expected)


def test_the_papers_preset_finds_the_papers_mask_and_computes_low_resolutions_densely(sd2):
    source = sd2.generate(PROMPT, num_inference_steps=10)
    items = list(sd2.items(EditJob(EDITED, source.image_id, rules=EditRules.fisedit())))
    calls = [item for item in items if isinstance(item, Call)]
    edit_mask = next(item.edit_mask for item in items if isinstance(item, MaskFound))
    begun = [call for call in calls if call.stage == "detect"]
    after = torch.cat([call.sample[:1] for call in [*begun[1:], calls[len(begun)]]])
    difference = masks.difference_image(after, sd2.core(source).latents[1 : len(after) + 1])
    assert np.array_equal(edit_mask, masks.paper_mask(difference))
    for call in calls[len(begun) :]:
        assert not call.active.levels[0].all()
        assert call.active.levels[1].all()
        assert call.active.levels[2].all()
        assert not call.active.attend_recorded


@pytest.mark.parametrize("is_edit", [False, True])
def test_a_probe_is_dense_calls_on_recorded_latents(sd2, is_edit):
    """A drawn source recorded what its words predict; an edit's words are asked again."""
    source = sd2.generate(PROMPT, num_inference_steps=10)
    if is_edit:
        source = sd2.run(given(source))
    job = EditJob("a green house", image_id=source.image_id, dry_run=True)
    calls = [item for item in sd2.items(job) if isinstance(item, Call)]
    latents, steps = sd2.core(source).latents, probe_steps(10)
    assert len(calls) == len(steps) * (2 if is_edit else 1)
    for call, step in zip(calls, steps * 2, strict=False):
        assert call.num_images == 2  # as any step: it fits where a step fits
        assert torch.equal(call.sample[0], latents[step])
        assert all(level.all() for level in call.active.levels)


def test_recorded_predictions_are_what_a_probe_under_the_sources_words_gives(studio):
    source = studio.generate(PROMPT, num_inference_steps=10)
    sampling = studio.core(source).sampling
    probe = Probe.of(Canvas.of(studio.model, sampling), studio.core(source).latents)
    text = read_branches(studio.model, PROMPT, sampling)
    script = probe.under([(text, sampling)], Tally())
    call = next(script)
    for _ in probe.steps[1:]:
        call = script.send(predict(studio.model.unet, [call])[0])
    last = predict(studio.model.unet, [call])[0]
    with pytest.raises(StopIteration) as ended:
        script.send(last)
    with studio.store.open(source.image_id) as recording:
        recorded = probe.recorded(recording, sampling, Tally())
    (asked,) = ended.value.value
    torch.testing.assert_close(recorded, asked, atol=1e-3, rtol=1e-4)  # 1e-5 of the prediction, amplified near noise


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_words_that_say_the_same_are_found_nowhere_in_any_precision(sd2, dtype):
    """A blank negative prompt is cut into the same tokens as none: what differs is rounding."""
    studio = replace(sd2, model=load_model(dtype=dtype), store=Store(1 << 30))
    source = studio.generate("a desert under a clear sky", num_inference_steps=8)
    blank = SamplingRequest(negative_prompt=" ")
    job = EditJob("a desert under a clear sky", image_id=source.image_id, sampling=blank, dry_run=True)
    company = [job, GenerateJob("a sea under a night sky", STEPS)]
    assert studio.drive(studio.model, studio.store, company)[0].receipt.edited_ratio == 0


def test_unchanged_words_under_another_seeds_noise_are_found_nowhere(sd2):
    """Old and new words predict the same: the mask is empty, whatever the rule."""
    source = sd2.generate(PROMPT, num_inference_steps=10)
    edited = sd2.edit("A  RED house", source)
    assert edited.image_id == source.image_id
    assert edited.receipt.edited_ratio == 0


@given_steps(st.integers(1, 1000))
def test_probes_are_few_early_steps(num_steps):
    steps = probe_steps(num_steps)
    assert 1 <= len(steps) <= 3
    assert all(0 <= step < num_steps for step in steps)
    assert steps == sorted(set(steps))
    assert num_steps < 10 or len(steps) == 3


@pytest.mark.parametrize("kind", ["generated", "detected", "given"])
def test_another_guidance_alone_is_detected_whatever_the_source_is(sd2, kind):
    source = sd2.generate(PROMPT, num_inference_steps=10)
    if kind == "detected":
        source = sd2.edit(EDITED, source)
    elif kind == "given":
        source = sd2.run(given(source))
    words = PROMPT if kind == "generated" else EDITED
    edited = sd2.edit(words, source, sampling=SamplingRequest(guidance_scale=9.0))
    assert edited.receipt.edited_ratio > 0
