"""Edits: what they promise about the background, alone and in company."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cache_store.store import Store
from service.engine.call import Call
from service.engine.editor import start
from service.engine.recording import Format
from service.engine.sampling import make_sampler
from service.errors import ConflictError, InputError, UnknownImageError
from service.jobs import EditJob, EditRules, GenerateJob, ImageReady, Preview, SamplingRequest

PROMPT, EDITED = "a red house", "a blue house"
STEPS = SamplingRequest(num_inference_steps=4, guidance_scale=3.0, seed=3)
NARROW = EditRules(dilation=0, margin=0, paste_margin=0)


def square(top=4, left=6, size=5, side=64, scale=4):
    """A user's mask: a white square, in latent positions."""
    pixels = np.zeros((side, side), np.uint8)
    pixels[top * scale : (top + size) * scale, left * scale : (left + size) * scale] = 255
    return Image.fromarray(pixels)


def given(source, mask=None, prompt=EDITED, rules=NARROW, **other):
    """An edit under a user's mask."""
    return EditJob(
        prompt, image_id=source.image_id, edit_mask=mask or square(), mask_mode="given", rules=rules, **other
    )


def as_pixels(mask, scale=4):
    return mask.repeat_interleave(scale, 0).repeat_interleave(scale, 1)


def check_background(studio, source, edited, mask, pasted=None):
    """Latents outside of the mask equal the source's after every step, pixels outside of what is pasted too."""
    old, new = studio.core(source), studio.core(edited)
    outside = ~mask.expand_as(old.latents)
    assert torch.equal(old.latents[outside], new.latents[outside])
    assert not torch.equal(old.latents, new.latents)
    far = ~as_pixels(mask if pasted is None else pasted)
    assert torch.equal(source.pixels[far], edited.pixels[far])
    assert not torch.equal(source.pixels, edited.pixels)


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_the_background_is_the_sources_bit_for_bit(studio, sampler):
    source = studio.generate(PROMPT, sampler=sampler)
    edited = studio.run(given(source))
    assert edited.mask.sum() == 25
    check_background(studio, source, edited, edited.mask)
    assert 4 * 2 * 25 <= edited.receipt.rows_computed <= 4 * 2 * 49  # rounded out to blocks


@pytest.mark.parametrize("detection", ["probe", "steps"])
def test_a_detected_mask_keeps_the_background_too(studio, detection):
    source = studio.generate(PROMPT)
    edited = studio.edit(EDITED, source, rules=EditRules(detection, dilation=0, margin=1, paste_margin=1))
    assert 0 < edited.receipt.edited_ratio < 1
    wide = torch.nn.functional.max_pool2d(edited.mask[None].float(), 3, 1, 1)[0].bool()
    check_background(studio, source, edited, edited.mask, wide)


def test_a_margin_computes_more_and_keeps_the_same_mask(sd2):
    source = sd2.generate(PROMPT)
    narrow, wide = (sd2.run(given(source, rules=EditRules(margin=margin, paste_margin=0))) for margin in (0, 2))
    assert 4 * 2 * 81 <= wide.receipt.rows_computed <= 4 * 2 * 121  # rounded out to blocks
    assert torch.equal(narrow.mask, wide.mask)
    check_background(sd2, source, wide, wide.mask)
    assert not torch.equal(narrow.pixels, wide.pixels)


def test_the_same_words_return_the_source_and_say_so(studio):
    source = studio.generate(PROMPT)
    again = studio.edit(PROMPT, source)
    assert again.image_id == source.image_id
    assert torch.equal(again.pixels, source.pixels)
    assert again.receipt.rows_computed == 0
    assert again.receipt.edited_ratio == 0
    assert [fallback.stage for fallback in again.receipt.fallbacks] == ["mask"]


def test_an_empty_mask_of_the_user_returns_the_source(sd2):
    source = sd2.generate(PROMPT)
    edited = sd2.run(given(source, mask=Image.new("L", (64, 64))))
    assert edited.image_id == source.image_id
    assert edited.receipt.fallbacks[0].reason == "the mask is empty"


def test_everything_masked_is_a_new_drawing(studio):
    """A complete image reads nothing: the edit is the dense generation of the new prompt."""
    source = studio.generate(PROMPT)
    edited = studio.run(given(source, mask=Image.new("L", (64, 64), 255)))
    fresh = studio.generate(EDITED)
    torch.testing.assert_close(studio.core(edited).latents, studio.core(fresh).latents, atol=1e-4, rtol=1e-4)
    assert (edited.pixels - fresh.pixels).abs().max() <= 1
    assert "dense" in edited.receipt.fallbacks[0].reason


def test_unchanged_words_under_a_mask_draw_the_source_again(studio):
    """Recorded values are what the network would compute: the edit reproduces the source inside the mask."""
    source = studio.generate(PROMPT)
    edited = studio.run(given(source, prompt=PROMPT))
    torch.testing.assert_close(studio.core(edited).latents, studio.core(source).latents, atol=1e-4, rtol=1e-4)
    assert (edited.pixels - source.pixels).abs().max() <= 2


def test_an_edit_is_a_recording_and_a_chain_goes_on(studio):
    source = studio.generate(PROMPT)
    first = studio.run(given(source))
    second = studio.run(given(first, mask=square(9, 2, 4), prompt="a blue house and a tree"))
    assert studio.core(second).source_id == first.image_id
    check_background(studio, first, second, second.mask)


def test_a_child_keeps_only_its_own_rows(sd2):
    source = sd2.generate(PROMPT)
    of_source = sd2.store.num_bytes
    sd2.run(given(source))
    assert sd2.store.num_bytes - of_source < 0.35 * of_source  # 25 of 256 positions, 16 of 16 at the lowest resolution


def test_drawing_a_childs_words_again_reproduces_the_child(sd2):
    """What a child recorded, and what it leaves to its parent, is what the network computed."""
    source = sd2.generate(PROMPT)
    child = sd2.run(given(source))
    again = sd2.run(given(child, prompt=EDITED))
    torch.testing.assert_close(sd2.core(again).latents, sd2.core(child).latents, atol=1e-4, rtol=1e-4)


def test_evicted_activations_make_an_edit_dense_and_keep_the_promise(studio):
    source = studio.generate(PROMPT)
    assert studio.store.evict(source.image_id)
    edited = studio.run(given(source))
    assert "evicted" in edited.receipt.fallbacks[-1].reason
    assert edited.receipt.tier is None
    assert edited.receipt.rows_computed == edited.receipt.rows_total
    check_background(studio, source, edited, edited.mask)
    again = studio.run(given(edited, mask=square(9, 2, 4), prompt="a green house"))
    assert not again.receipt.fallbacks  # the dense edit recorded everything


def test_a_large_mask_is_drawn_densely_and_keeps_the_promise(sd2):
    source = sd2.generate(PROMPT)
    edited = sd2.run(given(source, mask=square(0, 0, 15)))
    assert "dense" in edited.receipt.fallbacks[0].reason
    check_background(sd2, source, edited, edited.mask)


def test_without_cache_an_edit_is_dense_and_reads_no_activations(sd2):
    source = sd2.generate(PROMPT)
    sparse = sd2.run(given(source))
    dense = sd2.run(given(source, cache="off"))
    assert dense.receipt.rows_computed == dense.receipt.rows_total
    assert dense.receipt.tier is None
    assert not torch.equal(sparse.pixels, dense.pixels)


def test_without_cache_a_source_that_is_told_in_words_is_drawn(sd2):
    source = sd2.generate(PROMPT)
    job = EditJob(EDITED, source_prompt=PROMPT, sampling=STEPS, edit_mask=square(), mask_mode="given")
    assert "source" not in sd2.run(job).receipt.seconds
    drawn = sd2.run(replace(job, cache="off"))
    assert "source" in drawn.receipt.seconds
    assert drawn.receipt.source_id == source.image_id


def test_a_recording_of_an_earlier_version_is_none_and_is_made_again(sd2):
    source = sd2.generate(PROMPT)
    jobs = GenerateJob(PROMPT, STEPS), EditJob(EDITED, source_prompt=PROMPT, sampling=STEPS)
    for job in jobs:
        sd2.store.delete(source.image_id)
        with sd2.store.create(source.image_id, {}) as draft:
            draft.put("told", json.dumps({"prompt": PROMPT, "sampling": {}}).encode())
            draft.commit()
        with pytest.raises(UnknownImageError):
            sd2.run(EditJob(EDITED, source.image_id))
        sd2.run(job)
        np.testing.assert_array_equal(sd2.core(source).picture.pixels, source.pixels)


def test_keys_and_values_recorded_equal_attention_inputs_recorded(make_studio):
    edits = []
    for keep_inputs in (True, False):
        studio = make_studio("sd2", Format("float32", keep_inputs=keep_inputs))
        edits.append(studio.core(studio.run(given(studio.generate(PROMPT)))).latents)
    torch.testing.assert_close(*edits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("storage", "error", "bytes_ratio"), [("float16", 0.01, 0.52), ("int8", 0.1, 0.31), ("fp8", 0.5, 0.31)]
)
@pytest.mark.parametrize("keep_inputs", [True, False])
def test_smaller_recordings_draw_nearly_the_same(make_studio, storage, error, bytes_ratio, keep_inputs):
    """Two edits in a row, four steps each. Unit-gain random weights make of one rounding (2^-11 of a value in float16,
    2^-8 of a block's largest in int8, 2^-4 of a value in fp8) about ten: seen are .004, .075 and .43.
    """
    latents, num_bytes = [], []
    for each in ("float32", storage):
        studio = make_studio("sd2", Format(each, keep_inputs=keep_inputs))
        source = studio.generate(PROMPT)
        num_bytes.append(studio.store.num_bytes)
        edited = studio.run(given(source))
        check_background(studio, source, edited, edited.mask)
        chained = studio.run(given(edited, mask=square(9, 2, 4), prompt="a blue house and a tree"))
        check_background(studio, edited, chained, chained.mask)
        latents.append(studio.core(chained).latents)
    torch.testing.assert_close(*latents, atol=error, rtol=0)
    assert not torch.equal(*latents)
    assert num_bytes[1] < bytes_ratio * num_bytes[0]


def test_recordings_without_attention_are_smaller_and_read_by_masked_attention(make_studio):
    pixels, num_bytes = [], []
    for keep_attention, attention in [(True, "masked"), (False, "exact"), (False, "masked")]:
        studio = make_studio("sd2", Format("float32", keep_attention=keep_attention))
        source = studio.generate(PROMPT)
        num_bytes.append(studio.store.num_bytes)
        rules = EditRules(attention=attention, dilation=0, margin=0, paste_margin=0)
        edited = studio.run(given(source, rules=rules))
        told = any("keep no attention" in fallback.reason for fallback in edited.receipt.fallbacks)
        assert told == (not keep_attention and attention == "exact")
        check_background(studio, source, edited, edited.mask)
        again = studio.run(given(edited, mask=square(9, 2, 4), prompt="a blue house and a tree", rules=rules))
        pixels.append(torch.stack([edited.pixels, again.pixels]))
    assert num_bytes[1] < 0.8 * num_bytes[0]
    assert torch.equal(pixels[1], pixels[0])
    assert torch.equal(pixels[2], pixels[0])


def test_masked_attention_is_another_picture(sd2):
    source = sd2.generate(PROMPT)
    exact = sd2.run(given(source))
    masked = sd2.run(given(source, rules=EditRules(attention="masked", dilation=0, margin=0, paste_margin=0)))
    check_background(sd2, source, masked, masked.mask)
    assert not torch.equal(exact.pixels, masked.pixels)
    assert masked.receipt.macs_computed < exact.receipt.macs_computed


def test_the_papers_preset_goes_on_from_its_detection(sd2):
    source = sd2.generate(PROMPT, num_inference_steps=10)
    edited = sd2.edit(EDITED, source, rules=EditRules.fisedit())
    assert edited.receipt.rows_computed < edited.receipt.rows_total
    old, new = sd2.core(source), sd2.core(edited)
    assert new.latents.shape == old.latents.shape
    outside = ~edited.mask
    assert not torch.equal(old.latents[-1][:, outside], new.latents[-1][:, outside])  # the background drifts
    again = sd2.run(given(edited, prompt="a green house"))
    assert "no activations" in again.receipt.fallbacks[0].reason  # its first steps are no recording
    assert edited.receipt.rows_total == 10 * 2 * 256


def test_edits_in_one_call_equal_each_alone(studio):
    """Other masks, steps, sources, lengths and a generation beside them."""
    sources = [studio.generate(PROMPT), studio.generate("two cats", num_inference_steps=6, sampler="dpm++")]
    jobs = [
        given(sources[0]),
        given(sources[1], mask=square(1, 2, 9), prompt="two dogs"),
        EditJob("a red boat", image_id=sources[0].image_id),
        GenerateJob("a tree", STEPS),
    ]
    together = studio.drive(studio.model, studio.store, jobs, delays=[0, 1, 2, 1])
    latents = [studio.core(outcome).latents for outcome in together]
    for job, outcome, company in zip(jobs, together, latents, strict=True):
        studio.store.delete(outcome.image_id)
        alone = studio.run(job)
        if isinstance(job, EditJob):
            assert torch.equal(alone.mask, outcome.mask)
        torch.testing.assert_close(studio.core(alone).latents, company, atol=1e-4, rtol=1e-4)
        assert (alone.pixels - outcome.pixels).abs().max() <= 2


def test_a_source_is_drawn_first_where_only_its_words_are_known(sd2):
    edited = sd2.run(EditJob(EDITED, source_prompt=PROMPT, sampling=STEPS))
    source = sd2.generate(PROMPT)
    assert source.receipt.rows_computed == 0
    assert edited.receipt.source_id == source.image_id
    assert "source" in edited.receipt.seconds
    assert edited.receipt.rows_total == 4 * 2 * 256


def test_the_same_edit_twice_is_drawn_once(sd2):
    source = sd2.generate(PROMPT)
    first, again = sd2.run(given(source)), sd2.run(given(source))
    assert again.image_id == first.image_id
    assert again.receipt.rows_computed == 0
    assert torch.equal(again.pixels, first.pixels)
    assert torch.equal(again.mask, first.mask)


def test_a_dry_run_stops_after_the_mask(sd2):
    source = sd2.generate(PROMPT)
    outcome = sd2.edit(EDITED, source, dry_run=True, rules=EditRules(detection="steps"))
    assert not [event for event in outcome.events if isinstance(event, ImageReady)]
    assert 0 < outcome.receipt.edited_ratio < 1
    assert outcome.receipt.rows_computed == 2 * 256  # one step of detection
    assert outcome.receipt.rows_total == 4 * 2 * 256


def test_a_union_holds_both_masks(sd2):
    source, rules = sd2.generate(PROMPT), EditRules(detection="steps")
    detected = sd2.edit(EDITED, source, rules=rules).mask
    assert not detected.all()
    both = sd2.edit(EDITED, source, rules=rules, edit_mask=square(0, 0, 2), mask_mode="union").mask
    assert torch.equal(both[:2, :2], torch.ones(2, 2, dtype=torch.bool))
    assert torch.equal(both[2:], detected[2:])


def test_events_come_in_their_order_and_previews_show_the_region(sd2):
    source = sd2.generate(PROMPT)
    outcome = sd2.run(given(source, preview_every=2))
    assert [type(event).__name__ for event in outcome.events] == [
        "Accepted", "MaskFound", "Preview", "ImageReady", "Receipt",
    ]  # fmt: skip
    preview = next(event for event in outcome.events if isinstance(event, Preview))
    assert preview.box == (24, 16, 44, 36)
    assert preview.image.size == (20, 20)


@pytest.mark.parametrize("num_items", [1, 3, 5])
def test_a_cancelled_edit_leaves_nothing(sd2, num_items):
    source = sd2.generate(PROMPT)
    before = sd2.store.ids(), sd2.store.num_bytes
    script = start(sd2.model, sd2.store, given(source))
    answer = None
    for _ in range(num_items):
        item = script.send(answer)
        answer = torch.zeros_like(item.sample) if isinstance(item, Call) else None
    script.close()
    del item
    assert (sd2.store.ids(), sd2.store.num_bytes) == before
    assert sd2.store.evict(source.image_id)  # it is pinned no more


def test_what_differs_from_the_source_is_refused_by_name(sd2):
    source = sd2.generate(PROMPT)
    for name, value in {"seed": 4, "num_inference_steps": 5, "sampler": "dpm++", "width": 128}.items():
        with pytest.raises(ConflictError, match=name):
            sd2.edit(EDITED, source, sampling=SamplingRequest(**{name: value}))
    with pytest.raises(ConflictError, match="guidance_scale"):
        sd2.edit(EDITED, source, sampling=SamplingRequest(guidance_scale=1.0))
    sd2.edit(EDITED, source, sampling=SamplingRequest(guidance_scale=5.0, seed=3))


def test_what_cannot_be_is_refused_by_name(sd2):
    source = sd2.generate(PROMPT)
    with pytest.raises(UnknownImageError, match="nowhere"):
        sd2.run(EditJob(EDITED, image_id="nowhere"))
    with pytest.raises(InputError, match="image_id"):
        sd2.run(EditJob(EDITED))
    with pytest.raises(InputError, match="image_id"):
        sd2.run(EditJob(EDITED, image_id=source.image_id, source_prompt=PROMPT))
    with pytest.raises(InputError, match="source_prompt"):
        sd2.run(EditJob(EDITED, source_prompt=" "))
    with pytest.raises(InputError, match="edit_mask"):
        sd2.edit(EDITED, source, mask_mode="given")
    with pytest.raises(InputError, match="edit_mask"):
        sd2.edit(EDITED, source, mask_mode="union", edit_mask=Image.new("L", (60, 64)))


def test_a_given_mask_draws_no_step_before_it_is_checked(sd2):
    script = start(sd2.model, sd2.store, EditJob(EDITED, source_prompt=PROMPT, sampling=STEPS, mask_mode="given"))
    with pytest.raises(InputError, match="edit_mask"):
        next(script)
    wrong = EditJob(EDITED, source_prompt=PROMPT, sampling=STEPS, edit_mask=Image.new("L", (60, 64)))
    with pytest.raises(InputError, match="64x64"):
        next(start(sd2.model, sd2.store, wrong))
    assert sd2.store.ids() == []


@pytest.mark.parametrize("cache", ["off", "read_only"])
def test_what_may_not_be_written_is_not(sd2, cache):
    edited = sd2.run(EditJob(EDITED, source_prompt=PROMPT, sampling=STEPS, cache=cache))
    assert sd2.store.ids() == []
    assert sd2.store.num_bytes == 0
    assert edited.receipt.tier == (None if cache == "off" else "host")


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("rules", [EditRules(), EditRules.fisedit()])
def test_one_step_is_enough(sd2, steps, rules):
    source = sd2.generate(PROMPT, num_inference_steps=steps)
    edited = sd2.edit(EDITED, source, rules=rules)
    assert sd2.core(edited).latents.shape == (steps + 1, 4, 16, 16)


def test_a_prompt_that_is_cut_off_is_told(sd2):
    outcome = sd2.generate("a very very very very long prompt")
    assert outcome.receipt.fallbacks[0].stage == "encode"
    assert not sd2.generate(PROMPT).receipt.fallbacks


def test_sizes_whose_lowest_resolution_is_large_are_drawn_and_edited(make_studio):
    """More than 48 x 48 positions everywhere: no maps are recorded, words look where they look at the lowest."""
    studio = make_studio("sdxl")
    source = studio.generate(PROMPT, width=800, height=800, num_inference_steps=1)
    edited = studio.edit(EDITED, source, edit_mask=Image.new("L", (200, 200)).resize((800, 800)), mask_mode="union")
    assert edited.mask.shape == (200, 200)


def test_a_scheduler_that_knows_no_clipping_does_not_clip(sd2):
    del sd2.model.sampler_config["clip_sample"]
    assert not make_sampler(sd2.model, "ddim", 4).config.clip_sample


def words(**other):
    """An edit of a source that is told in words."""
    return EditJob(EDITED, source_prompt=PROMPT, sampling=STEPS, edit_mask=square(), mask_mode="given", **other)


def test_a_source_told_in_words_whose_rows_have_left_is_recorded_again_as_the_same_picture(sd2):
    source = sd2.generate(PROMPT)
    before = sd2.core(source)
    assert sd2.store.evict(source.image_id)
    first = sd2.run(words(rules=NARROW))
    assert first.receipt.tier == "host"
    assert "source" in first.receipt.seconds
    assert first.receipt.fallbacks == ()
    again = sd2.run(words(rules=EditRules(dilation=0)))
    assert "source" not in again.receipt.seconds
    after = sd2.core(source)
    assert torch.equal(before.latents, after.latents)
    np.testing.assert_array_equal(before.picture.pixels, after.picture.pixels)


@pytest.mark.parametrize(
    "job",
    [
        words(cache="read_only"),
        replace(words(), edit_mask=square(0, 0, 16)),  # so much of it is drawn densely
        replace(words(), prompt=PROMPT, edit_mask=None, mask_mode="detect"),  # changes nothing
        replace(words(), source_prompt=None, image_id="its"),
    ],
)
def test_rows_that_nobody_would_read_or_keep_are_not_recorded_again(sd2, job):
    source = sd2.generate(PROMPT)
    assert sd2.store.evict(source.image_id)
    edited = sd2.run(replace(job, image_id=source.image_id) if job.image_id else job)
    assert "source" not in edited.receipt.seconds


def test_an_edit_that_is_known_draws_no_source_again(sd2):
    source = sd2.generate(PROMPT)
    edited = sd2.run(words())
    for image_id in (edited.image_id, source.image_id):
        assert sd2.store.evict(image_id)
    again = sd2.run(words())
    assert again.receipt.macs_computed == 0
    assert torch.equal(again.pixels, edited.pixels)


def test_where_rows_find_no_room_the_source_is_not_drawn_for_them(sd2):
    sd2.store = Store(0)
    sd2.generate(PROMPT)
    assert "source" not in sd2.run(words()).receipt.seconds
