"""What is told of a job before it runs is what it then does, by a real model at a small size."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cache_store.store import Store
from cache_store.tiers.disk import Disk
from service.batching.costs import Outlook
from service.batching.foresight import Foresight
from service.batching.policy import Limits
from service.batching.runner import Runner
from service.batching.usage import Usage
from service.engine.call import Call
from service.engine.predict import predict
from service.errors import ConflictError, InputError, UnknownImageError
from service.jobs import EditJob, EditRules, GenerateJob, MaskFound, Receipt, SamplingRequest

SMALL = SamplingRequest(num_inference_steps=5, width=64, height=64)
PROMPT, EDITED = "a green hill under a clear sky", "a green hill under a clear sky with a tree"


@pytest.fixture(scope="module")
def foresight(postcard):
    return Foresight(postcard, Store(1 << 30))


def done(foresight, job):
    """What a job made: its calls by stage, its mask, its receipt."""
    calls: list[Call] = []

    def watching(unet, some):
        calls.extend(some)
        return predict(unet, some)

    usage = Usage()
    runner = Runner(foresight.model, foresight.store, Limits(), predict=watching)
    runner.add("job", job, usage=usage)
    events = []
    while not runner.idle:
        events += [event for _, event in runner.step()]
    receipt = next(event for event in events if isinstance(event, Receipt))
    assert usage.num_calls == len(calls)
    assert usage.seconds > 0
    return [call.stage for call in calls], next((e for e in events if isinstance(e, MaskFound)), None), receipt


def square(side, size=64):
    pixels = np.zeros((size, size), np.uint8)
    pixels[:side, :side] = 255
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def source(foresight):
    return done(foresight, GenerateJob(PROMPT, SMALL))[2].image_id


def test_a_drawing_is_its_steps(foresight):
    job = GenerateJob("a red house", SMALL)
    outlook = foresight(job)
    stages, _, receipt = done(foresight, job)
    assert outlook == Outlook(len(stages), receipt.macs_computed // len(stages))
    assert foresight(job) == Outlook()  # it is recorded now
    assert foresight(replace(job, cache="off")) == outlook
    assert foresight(replace(job, prompt=" a  red house")) == Outlook()
    assert foresight(replace(job, tenant="ann")) == outlook


@pytest.mark.parametrize("side", [16, 40])
def test_an_edit_under_a_given_mask_is_its_sparse_steps(foresight, source, side):
    job = EditJob(EDITED, source, edit_mask=square(side), mask_mode="given")
    outlook = foresight(job)
    stages, mask, receipt = done(foresight, job)
    assert (outlook.num_calls, outlook.edit_calls) == (len(stages), stages.count("denoise"))
    assert (outlook.edited_ratio, outlook.detects, outlook.tier) == (receipt.edited_ratio, False, receipt.tier)
    assert mask.macs == receipt.macs_computed < 5 * outlook.dense_macs


@pytest.mark.parametrize("rules", [EditRules(), EditRules("steps"), EditRules.fisedit(), EditRules(deep_every=2)])
def test_an_edit_to_be_detected_is_its_detection_and_its_steps(foresight, source, rules):
    job = EditJob(EDITED, source, rules=rules)
    outlook = foresight(job)
    stages, mask, receipt = done(foresight, job)
    assert (outlook.dense_calls, outlook.edit_calls) == (stages.count("detect"), stages.count("denoise"))
    assert outlook.detects
    assert receipt.macs_computed == outlook.dense_calls * outlook.dense_macs + mask.macs


def test_a_dry_run_is_told_as_the_whole_edit(foresight, source):
    job = EditJob(EDITED, source, rules=EditRules(dilation=2), dry_run=True)
    outlook = foresight(job)
    stages, mask, receipt = done(foresight, job)
    assert stages == ["detect"] * outlook.dense_calls
    assert outlook.edit_calls == 5
    whole = done(foresight, replace(job, dry_run=False))[2]
    assert whole.macs_computed == receipt.macs_computed + mask.macs


def test_a_source_that_is_not_recorded_is_drawn_first(foresight):
    job = EditJob("a blue tent", source_prompt="a red tent", sampling=SMALL)
    outlook = foresight(job)
    stages, _, _ = done(foresight, job)
    assert outlook.dense_calls == stages.count("source") + stages.count("detect")
    assert stages.count("source") == 5
    assert foresight(replace(job, prompt="a yellow tent")).dense_calls == stages.count("detect")


def test_an_edit_of_an_edit_asks_for_its_own_words_too(foresight, source):
    edited = done(foresight, EditJob(EDITED, source))[2].image_id
    job = EditJob("a green hill under a clear sky with a house", edited)
    stages, _, _ = done(foresight, replace(job, cache="read_only"))
    assert (
        foresight(job).dense_calls == stages.count("detect") == 2 * foresight(replace(job, image_id=source)).dense_calls
    )


def test_an_edit_that_is_recorded_takes_nothing(foresight, source):
    job = EditJob(EDITED, source, rules=EditRules(dilation=3))
    done(foresight, job)
    assert foresight(job) == Outlook()
    assert done(foresight, job)[0] == []


def test_the_same_words_change_nothing(foresight, source):
    job = EditJob(PROMPT, source)
    assert foresight(job).num_calls == len(done(foresight, job)[0]) == 0


def test_what_cannot_be_read_is_told_as_dense(postcard):
    foresight = Foresight(postcard, Store(1 << 30))
    source = done(foresight, GenerateJob(PROMPT, SMALL))[2].image_id
    job = EditJob(EDITED, source, edit_mask=square(16), mask_mode="given")
    assert foresight(job).tier == "host"
    assert foresight(replace(job, cache="off")).tier is None
    assert foresight(replace(job, edit_mask=square(64))).tier is None  # so much of it is drawn densely
    assert foresight.store.evict(source)
    assert foresight(job).tier is None
    assert done(foresight, job)[2].tier is None


@pytest.mark.parametrize(
    "change", [{}, {"cache": "read_only"}, {"edit_mask": square(64)}, {"mask_mode": "detect", "edit_mask": None}]
)
def test_a_source_told_in_words_whose_rows_have_left_is_told_as_drawn_where_it_will_be(postcard, change):
    foresight = Foresight(postcard, Store(1 << 30))
    source = done(foresight, GenerateJob(PROMPT, SMALL))[2].image_id
    told = EditJob(EDITED, source_prompt=PROMPT, sampling=SMALL, edit_mask=square(16), mask_mode="given")
    job = replace(told, **change)
    assert foresight.store.evict(source)
    outlook = foresight(job)
    stages, _, receipt = done(foresight, job)
    assert (outlook.num_calls, outlook.tier) == (len(stages), receipt.tier)
    assert outlook.dense_calls == stages.count("source") + stages.count("detect")
    assert stages.count("source") == (0 if "cache" in change or change.get("edit_mask") else 5)


def test_without_memory_for_rows_no_source_is_told_as_drawn_again(postcard):
    foresight = Foresight(postcard, Store(0))
    done(foresight, GenerateJob(PROMPT, SMALL))
    job = EditJob(EDITED, source_prompt=PROMPT, sampling=SMALL, edit_mask=square(16), mask_mode="given")
    assert foresight(job).num_calls == len(done(foresight, job)[0]) == 5


def test_a_look_counts_no_reads(foresight, source):
    before = foresight.store.counts()
    foresight(GenerateJob("a tent", SMALL))
    foresight(EditJob(EDITED, source, rules=EditRules(dilation=4)))
    foresight(EditJob("a blue tent", source_prompt="a yellow tent", sampling=SMALL))
    assert foresight.store.counts() == before


@pytest.mark.parametrize(
    ("error", "change"),
    [
        (UnknownImageError, {"image_id": "nobody's"}),
        (UnknownImageError, {"tenant": "ann"}),
        (ConflictError, {"sampling": SamplingRequest(num_inference_steps=9)}),
        (InputError, {"edit_mask": square(3, 7), "mask_mode": "given"}),
    ],
)
def test_what_the_job_will_fail_for_is_raised(foresight, source, error, change):
    with pytest.raises(error):
        foresight(replace(EditJob(EDITED, source), **change))


@pytest.mark.parametrize(
    "job",
    [
        GenerateJob(PROMPT, SMALL),
        EditJob(EDITED),
        EditJob(EDITED, "nobody's"),
        EditJob(EDITED, source_prompt=PROMPT, sampling=SMALL),
        EditJob(EDITED, source_prompt=PROMPT, sampling=SamplingRequest(width=7)),
    ],
)
@pytest.mark.usefixtures("source")
def test_what_is_in_memory_or_nowhere_waits_for_no_disk(foresight, job):
    assert not foresight.reads_disk(job)


def test_an_edit_without_a_source_is_taken_for_a_drawing(foresight):
    assert foresight(EditJob("a moon", sampling=SMALL)) == foresight(GenerateJob("a moon", SMALL))


def test_rows_that_were_damaged_on_the_disk_are_not_counted_on(postcard, tmp_path):
    foresight = Foresight(postcard, Store(1 << 30, disk=Disk(tmp_path, 1 << 30)))
    drawn = done(foresight, GenerateJob(PROMPT, SMALL))[2].image_id
    assert foresight.store.close()
    edit = EditJob(EDITED, drawn)
    by_words = replace(edit, image_id=None, source_prompt=f" {PROMPT}", sampling=SMALL)
    with closing(Store(1 << 30, disk=Disk(tmp_path, 1 << 30))) as store:
        again = Foresight(postcard, store)
        assert again.reads_disk(edit)
        assert again.reads_disk(by_words)
        assert again(edit).tier == "disk"
        assert not again.reads_disk(edit)  # they are checked by now
    (rows,) = tmp_path.glob("*.rows")
    content = bytearray(rows.read_bytes())
    content[len(content) // 2] ^= 1
    rows.write_bytes(content)
    with closing(Store(1 << 30, disk=Disk(tmp_path, 1 << 30))) as store:
        assert Foresight(postcard, store)(edit).tier is None
