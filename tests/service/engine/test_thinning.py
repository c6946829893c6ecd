"""Thinner recordings: planes that only some steps keep, and the others read from there."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from cache_store.index.memory import MemoryIndex
from cache_store.store import Store
from cache_store.tiers.disk import Disk
from service.engine.catalog import Catalog, Nearness
from service.engine.recording import FORMAT, SCALES, Format
from service.jobs import EditJob, EditRules, GenerateJob, SamplingRequest

PROMPT, EDITED, THIRD = "a red house", "a blue house", "a blue house and a tree"
NUM_STEPS = 5
STEPS = SamplingRequest(num_inference_steps=NUM_STEPS, guidance_scale=3.0, seed=3)
THINNED = [(2, 1), (1, 2), (3, 2), (9, 9)]  # attention_every, rows_every
BLOBS = ("told", "latents", "image", "decoder", "words", "beginning", "edit_mask")


def square(top=4, left=6, size=5, scale=4):
    """A user's mask: a white square, in latent positions of 16 x 16."""
    pixels = np.zeros((64, 64), np.uint8)
    pixels[top * scale : (top + size) * scale, left * scale : (left + size) * scale] = 255
    return Image.fromarray(pixels)


def given(source, prompt=EDITED, mask=None, **rules):
    """An edit under a user's mask."""
    rules = EditRules(margin=0, paste_margin=0, **rules)
    return EditJob(prompt, source.image_id, edit_mask=mask or square(), mask_mode="given", rules=rules)


def again(child, **rules):
    """An edit of that edit."""
    return given(child, THIRD, square(7, 3, 5), **rules)


def drawn(studio):
    return studio.run(GenerateJob(PROMPT, STEPS))


def every(thinned, storage="float32", *, keep_inputs=True):
    return Format(storage, keep_inputs, attention_every=thinned[0], rows_every=thinned[1])


def kept_for(form, plane, step):
    """The step whose rows a step reads, told once more: the middle one of its company, or the last of all."""
    kind, *_ = plane.removeprefix(SCALES).partition(".")
    every = {"rows": form.rows_every, "attention": form.attention_every}.get(kind, 1)
    company = [other for other in range(NUM_STEPS + every) if other // every == step // every]
    return min(company[every // 2], NUM_STEPS - 1)


def replaced(studio, outcome, form):
    """The recording of a studio that keeps every step, with the rows of those steps that `form` would read."""
    with studio.store.open(outcome.image_id) as recording:
        layout = recording.activations.layout
        rows = {
            (plane, step): recording.rows(kept_for(form, plane, step), plane, torch.arange(lies.num_rows))
            for plane, lies in layout.items()
            for step in range(lies.num_steps)
        }
        blobs = {name: recording.blob(name) for name in (*BLOBS, FORMAT)}
    assert studio.store.delete(outcome.image_id)
    with studio.store.create(outcome.image_id, layout) as draft:
        for (plane, step), values in rows.items():
            draft.write(step, plane, None, values)
        for name, blob in blobs.items():
            if blob is not None:
                draft.put(name, blob)
        draft.commit()


def background_is_kept(studio, source, edited):
    old, new = studio.core(source), studio.core(edited)
    outside = ~edited.mask.expand_as(old.latents)
    return torch.equal(old.latents[outside], new.latents[outside]) and not torch.equal(old.latents, new.latents)


def test_of_so_many_steps_the_middle_one_is_kept_and_read():
    form = Format(attention_every=3, rows_every=2)
    said = {
        plane: [(form.place(plane, step), form.keeps(plane, step, 7)) for step in range(7)]
        for plane in (
            "attention.0",
            "scales:attention.1",
            "rows.2",
            "scales:rows.0",
            "prediction",
            "statistics",
            "maps.0",
        )
    }
    attention = list(zip([0, 0, 0, 1, 1, 1, 2], [False, True, False, False, True, False, True], strict=True))
    rows = list(zip([0, 0, 1, 1, 2, 2, 3], [False, True] * 3 + [True], strict=True))
    each = [(step, True) for step in range(7)]
    assert list(said.values()) == [attention, attention, rows, rows, each, each, each]


@pytest.mark.parametrize("name", ["attention_every", "rows_every"])
def test_no_step_in_none_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Format(**{name: 0})


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_planes_have_the_steps_that_are_kept(make_studio, storage):
    studio = make_studio("sd2", every((3, 2), storage))
    with studio.store.open(drawn(studio).image_id) as recording:
        num_steps = {plane: lies.num_steps for plane, lies in recording.activations.layout.items()}
    kept = {"attention": 2, "rows": 3, "prediction": 5, "statistics": 5, "maps": 1}
    assert num_steps == {plane: kept[plane.removeprefix(SCALES).partition(".")[0]] for plane in num_steps}
    assert any(plane.startswith(SCALES) for plane in num_steps) == (storage == "int8")


@pytest.mark.parametrize("thinned", THINNED)
@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_what_is_read_are_the_kept_steps_exactly(make_studio, family, thinned):
    """An edit, and an edit of it, equal to the bit those of full recordings whose steps were replaced."""
    form = every(thinned)
    thin, full = make_studio(family, form), make_studio(family)
    ends = []
    for studio, prepare in ((thin, lambda _: None), (full, partial(replaced, full, form=form))):
        source = drawn(studio)
        prepare(source)
        child = studio.run(given(source))
        prepare(child)
        grandchild = studio.run(again(child))
        assert not child.receipt.fallbacks
        assert not grandchild.receipt.fallbacks
        assert background_is_kept(studio, source, child)
        assert background_is_kept(studio, child, grandchild)
        ends.append([studio.core(child).latents, studio.core(grandchild).latents])
    for one, other in zip(*ends, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "form", [every((2, 3), keep_inputs=False), every((2, 3), "int8"), every((3, 2), "fp8")], ids=str
)
@pytest.mark.parametrize("deep_every", [1, 2])
def test_so_are_they_in_other_formats_and_beside_shallow_steps(make_studio, form, deep_every):
    whole = replace(form, attention_every=1, rows_every=1)
    thin, full = make_studio("sd2", form), make_studio("sd2", whole)
    latents = []
    for studio in (thin, full):
        source = drawn(studio)
        if studio is full:
            replaced(full, source, form)
        edited = studio.run(given(source, deep_every=deep_every))
        assert background_is_kept(studio, source, edited)
        latents.append(studio.core(edited).latents)
    assert torch.equal(*latents)


def test_old_rows_are_another_picture_and_fewer_bytes(make_studio):
    latents, num_bytes, num_read = [], [], []
    for thinned in [(1, 1), (2, 1), (2, 2)]:
        studio = make_studio("sd2", every(thinned))
        source = drawn(studio)
        num_bytes.append(studio.store.num_bytes)
        edited = studio.run(given(source))
        num_read.append(edited.receipt.bytes_moved)
        latents.append(studio.core(edited).latents)
    assert torch.equal(latents[0][0], latents[1][0])  # the noise
    assert torch.equal(latents[0][0], latents[2][0])
    assert len({each[1:].numpy().tobytes() for each in latents}) == 3
    assert num_bytes == sorted(num_bytes, reverse=True)
    assert num_read == sorted(num_read, reverse=True)  # rows of two steps are moved once
    assert len({*num_bytes}) == len({*num_read}) == 3


@pytest.mark.parametrize("detection", ["probe", "steps"])
def test_masks_are_found_as_in_full_recordings(make_studio, detection):
    """They compare predictions, latents and cross-attention, which every step keeps."""
    masks = []
    for thinned in [(1, 1), (3, 2)]:
        studio = make_studio("sd2", every(thinned))
        source = studio.generate(PROMPT, num_inference_steps=10)
        edited = studio.edit(EDITED, source, rules=EditRules(detection=detection, clean=False))
        assert background_is_kept(studio, source, edited)
        masks.append(edited.mask)
    assert torch.equal(*masks)
    assert 0 < masks[0].sum() < masks[0].numel()


def test_jobs_at_other_steps_share_passes_and_equal_each_alone(make_studio):
    studio = make_studio("sd2", every((3, 2)))
    source = drawn(studio)
    jobs = [given(source), given(source, "a green house", square(1, 2, 7)), GenerateJob("a tree", STEPS)]
    together = studio.drive(studio.model, studio.store, jobs, delays=[0, 1, 2])
    latents = [studio.core(outcome).latents for outcome in together]
    for job, outcome, company in zip(jobs, together, latents, strict=True):
        studio.store.delete(outcome.image_id)
        alone = studio.core(studio.run(job)).latents
        torch.testing.assert_close(alone, company, atol=1e-4, rtol=1e-4)  # other sums, as in test_editing.py


OTHERWISE = [
    (Format("int8"), Format("fp8")),  # equal layouts
    (Format("int8"), Format("float16")),
    (Format("float32"), Format("float16")),
    (Format("float32"), Format("float32", keep_inputs=False)),
    (Format("float32"), Format("float32", keep_attention=False)),
    (Format("float32", rows_every=3), Format("float32", rows_every=4)),  # equal layouts, of 5 steps
    (Format("float32", attention_every=2), Format("float32")),
]


@pytest.mark.parametrize(("before", "after"), OTHERWISE)
def test_a_recording_of_other_settings_is_read_by_no_one(make_studio, before, after, tmp_path):
    """After a restart its picture is there, and an edit of it is dense; under the same settings it is sparse."""
    studio = make_studio("sd2", before)
    with closing(Store(1 << 28, disk=Disk(tmp_path / "disk", 1 << 28))) as studio.store:
        source = drawn(studio)
    for form in (after, before):
        studio.model, is_other = replace(studio.model, format=form), form == after
        with closing(Store(1 << 28, disk=Disk(tmp_path / "disk", 1 << 28))) as studio.store:
            assert studio.store.ids() == [source.image_id]
            dense = studio.run(replace(given(source), cache="off"))
            edited, found = studio.run(given(source)), studio.edit(THIRD, source)
            for made in (edited, found):
                assert background_is_kept(studio, source, made)
                assert any("kept otherwise" in each.reason for each in made.receipt.fallbacks) == is_other
                studio.store.delete(made.image_id)
            assert torch.equal(edited.pixels, dense.pixels) == is_other
            assert (edited.receipt.rows_computed == edited.receipt.rows_total) == is_other


def test_a_recording_of_other_settings_is_not_announced(make_studio):
    studio = make_studio("sd2", Format("int8"))
    source = drawn(studio)
    for form, found in [(Format("fp8"), []), (Format("int8"), [source.image_id])]:
        model, index = replace(studio.model, format=form), MemoryIndex()
        catalog = Catalog(index, "here", 1, Nearness(min_similarity=-1))
        for each in studio.store.ids():
            catalog.announce_kept(model, studio.store, each)
        nearest = catalog.nearest(model, studio.store, "", EDITED, STEPS)
        assert ([nearest.recording_id] if nearest else []) == found
