"""Edits with shallow steps: the highest resolution alone, given what a complete step made below."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from service.engine.batch import Batch
from service.engine.call import Call, plans_of
from service.engine.canvas import Canvas
from service.jobs import EditJob, EditRules, GenerateJob, Receipt, SamplingRequest

PROMPT, EDITED = "a red house", "a blue house"
close = partial(torch.testing.assert_close, atol=1e-4, rtol=1e-4)  # as edits in test_editing.py: other sums, six steps
STEPS = SamplingRequest(num_inference_steps=6, guidance_scale=3.0, seed=3)


def square(top=4, left=6, size=5, scale=4):
    """A user's mask: a white square, in latent positions of 16 x 16."""
    pixels = np.zeros((64, 64), np.uint8)
    pixels[top * scale : (top + size) * scale, left * scale : (left + size) * scale] = 255
    return Image.fromarray(pixels)


def given(source, every, mask=None, rules=None, **other):
    """An edit under a user's mask, of whose steps one in so many is complete."""
    rules = replace(rules or EditRules(paste_margin=0), deep_every=every)
    return EditJob(
        EDITED, image_id=source.image_id, edit_mask=mask or square(), mask_mode="given", rules=rules, **other
    )


def drawn(studio, num_steps=6):
    return studio.generate(PROMPT, num_inference_steps=num_steps)


def calls_of(studio, job):
    return [item for item in studio.items(job) if isinstance(item, Call)]


@pytest.mark.parametrize(
    ("every", "num_steps", "shallow"),
    [(1, 3, "..."), (2, 6, ".s.s.s"), (3, 5, ".ss.s"), (20, 4, ".sss"), (2, 1, ".")],
)
def test_the_first_of_so_many_steps_is_complete(sd2, every, num_steps, shallow):
    calls = calls_of(sd2, given(drawn(sd2, num_steps), every))
    assert "".join("s" if call.active.shallow else "." for call in calls) == shallow
    plans = [plans_of((call.active,), torch.device("cpu")) for call in calls]
    assert [len(each) for each in plans] == [1 if sign == "s" else 3 for sign in shallow]
    assert len({id(each) for each in plans}) == len(set(shallow))  # made once
    assert all((call.deep is None) == (every == 1) for call in calls)


def test_steps_after_the_papers_detection_begin_with_a_complete_one(sd2):
    source = drawn(sd2, 10)
    calls = calls_of(sd2, EditJob(EDITED, source.image_id, rules=replace(EditRules.fisedit(), deep_every=3)))
    shallow = ["s" if call.active.shallow else "." for call in calls if call.stage == "denoise"]
    assert "".join(shallow) == ".ss.ss.s"
    assert not any(call.active.shallow for call in calls if call.stage == "detect")


def test_shallow_steps_change_the_picture_inside_of_the_mask_alone(studio):
    source = drawn(studio)
    exact, deep = (studio.run(given(source, every)) for every in (1, 2))
    old, right, new = (studio.core(outcome).latents for outcome in (source, exact, deep))
    outside = ~deep.mask.expand_as(old)
    assert torch.equal(new[outside], old[outside])
    close(new[:2], right[:2])  # the noise, and the first step, which is complete
    assert not torch.allclose(new[2], right[2], atol=1e-2)
    assert exact.image_id != deep.image_id


def test_jobs_of_any_rhythm_share_passes_and_equal_each_alone(studio):
    source = drawn(studio)
    jobs = [given(source, 2), given(source, 3, square(1, 2, 7)), given(source, 1), GenerateJob("a tree", STEPS)]
    jobs += [given(source, 2, square(9, 3, 4))]
    together = studio.drive(studio.model, studio.store, jobs, delays=[0, 1, 1, 0, 2])
    latents = [studio.core(outcome).latents for outcome in together]
    for job, outcome, company in zip(jobs, together, latents, strict=True):
        studio.store.delete(outcome.image_id)
        close(studio.core(studio.run(job)).latents, company)


def test_a_shallow_call_shares_no_pass_with_a_complete_one(sd2):
    complete, shallow = calls_of(sd2, given(drawn(sd2, 2), 2))
    with pytest.raises(ValueError, match="equal shapes"):
        Batch.of([complete, shallow])


def test_a_mask_of_everything_has_shallow_steps_too(studio):
    everything, source = Image.new("L", (64, 64), 255), drawn(studio)
    calls = calls_of(studio, given(source, 3, everything))
    assert [call.active.shallow for call in calls] == [False, True, True] * 2
    exact, deep = (studio.run(given(source, every, everything)) for every in (1, 3))
    close(studio.core(deep).latents[1], studio.core(exact).latents[1])
    assert deep.receipt.macs_computed < exact.receipt.macs_computed == exact.receipt.macs_dense


def test_the_receipt_counts_what_is_computed(sd2):
    source = drawn(sd2)
    items = list(sd2.items(given(source, 3)))
    calls, receipt = [item for item in items if isinstance(item, Call)], items[-1]
    assert isinstance(receipt, Receipt)
    canvas = Canvas.of(sd2.model, sd2.core(source).sampling)
    macs = [canvas.count_macs(plans_of((call.active,), torch.device("cpu"))) for call in calls]
    assert receipt.macs_computed == sum(macs)
    assert macs[0] == macs[3] > macs[1] == macs[5]


def test_an_edit_with_shallow_steps_keeps_its_core_and_says_so(sd2):
    source = drawn(sd2)
    of_source = sd2.store.num_bytes
    deep = sd2.run(given(source, 2))
    assert sd2.store.num_bytes == of_source
    assert [fallback.stage for fallback in deep.receipt.fallbacks] == ["record"]
    again = sd2.run(replace(given(deep, 1, square(9, 2, 4)), prompt="a blue house and a tree"))
    assert "no activations" in again.receipt.fallbacks[0].reason
    old, new = sd2.core(deep).latents, sd2.core(again).latents
    assert torch.equal(old[~again.mask.expand_as(old)], new[~again.mask.expand_as(old)])


def test_what_is_not_to_be_kept_is_not_told_of(sd2):
    edited = sd2.run(given(drawn(sd2), 2, cache="read_only"))
    assert not edited.receipt.fallbacks


@pytest.mark.parametrize("num_calls", [1, 2, 3])
def test_cancelled_at_any_step_it_leaves_nothing(sd2, num_calls):
    source = drawn(sd2)
    before = sd2.store.ids(), sd2.store.num_bytes
    script = sd2.items(given(source, 3))
    while num_calls:
        num_calls -= isinstance(next(script), Call)
    script.close()
    assert (sd2.store.ids(), sd2.store.num_bytes) == before
    assert sd2.store.evict(source.image_id)  # it is pinned no more
