"""Edits that name no source: the nearest recording is edited, or the picture is drawn."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cache_store.index.memory import MemoryIndex
from cache_store.store import Store
from cache_store.tiers.disk import Disk
from service.engine.catalog import Catalog, Nearness
from service.engine.core import Core
from service.engine.editor import start
from service.engine.predict import predict
from service.engine.revision import MOST_DEPTH
from service.engine.weights import load_model
from service.errors import InputError
from service.jobs import Accepted, EditJob, Event, GenerateJob, ImageReady, MaskFound, Receipt, SamplingRequest

STEPS = SamplingRequest(seed=3, num_inference_steps=3)
HILL, TREE = "a green hill under a clear sky", "a green hill under a clear sky with a tree"


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture
def catalog():
    return Catalog(MemoryIndex(), "here", 1, Nearness(min_similarity=0.5, max_changed_words=4))


@pytest.fixture
def store():
    return Store(1 << 28)


def drive(model, store, job, catalog):
    script, answer, events = start(model, store, job, catalog), None, []
    while True:
        try:
            item = script.send(answer)
        except StopIteration:
            return events
        answer = None
        if isinstance(item, Event):
            events.append(item)
        else:
            (answer,) = predict(model.unet, [item])


def one(events, kind):
    return next(event for event in events if isinstance(event, kind))


def test_the_nearest_recording_is_edited(model, store, catalog):
    source = one(drive(model, store, GenerateJob(HILL, STEPS), catalog), Receipt)
    drive(model, store, GenerateJob("a city at night with fireworks", STEPS), catalog)
    asked = EditJob(TREE, sampling=SamplingRequest(num_inference_steps=3))
    edited = drive(model, store, asked, catalog)
    assert one(edited, Accepted).source_id == source.image_id
    assert one(edited, Receipt).source_id == source.image_id
    named = drive(model, Store(1 << 28), EditJob(TREE, source_prompt=HILL, sampling=STEPS), None)
    np.testing.assert_array_equal(one(edited, ImageReady).image, one(named, ImageReady).image)


def test_where_nothing_is_near_the_picture_is_drawn_and_can_be_found(model, store, catalog):
    drawn = drive(model, store, EditJob(HILL, sampling=STEPS), catalog)
    assert one(drawn, Receipt).source_id is None
    assert [fallback.stage for fallback in one(drawn, Receipt).fallbacks] == ["source"]
    assert not any(isinstance(event, MaskFound) for event in drawn)
    edited = drive(model, store, EditJob(TREE, sampling=STEPS), catalog)
    assert one(edited, Receipt).source_id == one(drawn, Receipt).image_id


@pytest.mark.parametrize(("cache", "why"), [("off", "not wanted"), ("read_only", "no recording is near")])
def test_a_receipt_says_why_a_picture_without_a_source_is_drawn(model, store, catalog, cache, why):
    (fallback,) = one(drive(model, store, EditJob(HILL, sampling=STEPS, cache=cache), catalog), Receipt).fallbacks
    assert why in fallback.reason


def test_the_same_words_and_seed_are_answered_at_once(model, store, catalog):
    first = drive(model, store, GenerateJob(HILL, STEPS), catalog)
    again = drive(model, store, EditJob(HILL, sampling=STEPS), catalog)
    np.testing.assert_array_equal(one(again, ImageReady).image, one(first, ImageReady).image)
    assert one(again, Receipt).macs_computed == 0


@pytest.mark.parametrize(
    "job",
    [
        EditJob("a desert at night with a red house and fireworks", sampling=STEPS),  # too many words
        EditJob(TREE, sampling=replace(STEPS, seed=4)),  # another seed than was asked for
        EditJob(TREE, sampling=replace(STEPS, num_inference_steps=4)),
        EditJob(TREE, sampling=STEPS, min_similarity=1.0),
        EditJob(TREE, sampling=STEPS, tenant="somebody else"),
        EditJob(TREE, sampling=STEPS, cache="off"),
    ],
)
def test_what_is_not_near_is_not_edited(model, store, catalog, job):
    drive(model, store, GenerateJob(HILL, STEPS), catalog)
    assert one(drive(model, store, job, catalog), Receipt).source_id is None


def test_a_recording_that_is_gone_is_not_pointed_to_again(model, store, catalog):
    source = one(drive(model, store, GenerateJob(HILL, STEPS), catalog), Receipt)
    store.delete(source.image_id)
    assert one(drive(model, store, EditJob(TREE, sampling=STEPS), catalog), Receipt).source_id is None
    assert catalog.index.counts().num_stale_hits == 1


@pytest.mark.parametrize("lose", ["evict", "delete"])
def test_what_the_store_loses_is_no_longer_pointed_to(model, catalog, lose):
    store = Store(1 << 28, on_lost=catalog.withdraw)
    source = one(drive(model, store, GenerateJob(HILL, STEPS), catalog), Receipt)
    assert catalog.index.holders("", source.image_id)
    assert getattr(store, lose)(source.image_id)
    assert catalog.index.holders("", source.image_id) == []
    assert one(drive(model, store, EditJob(TREE, sampling=STEPS), catalog), Receipt).source_id is None
    assert catalog.index.counts().num_stale_hits == 0


def test_who_leaves_for_others_is_no_longer_pointed_to(model, catalog):
    store = Store(1 << 25, on_lost=catalog.withdraw)  # room for two
    drawn = [
        one(drive(model, store, GenerateJob(HILL, replace(STEPS, seed=seed)), catalog), Receipt).image_id
        for seed in range(4)
    ]
    there = [bool(each.bytes_by_tier) for each in store.describe()]
    assert store.ids() == drawn
    assert there == [bool(catalog.index.holders("", image_id)) for image_id in drawn]
    assert 0 < sum(there) < 4


def test_others_recordings_hide_none_of_ones_own(model, store, catalog):
    source = one(drive(model, store, GenerateJob(HILL, STEPS), catalog), Receipt)
    elsewhere = replace(catalog, worker="there")
    with store.open(source.image_id) as recording:
        core = Core.load(recording)
    for number in range(20):
        elsewhere.announce(model, replace(core, prompt=TREE), f"{number}", 1000)  # all nearer
    assert one(drive(model, store, EditJob(TREE, sampling=STEPS), catalog), Receipt).source_id == source.image_id


def test_an_edit_is_a_source_too(model, store, catalog):
    drive(model, store, GenerateJob(HILL, STEPS), catalog)
    edit = one(drive(model, store, EditJob(TREE, sampling=STEPS), catalog), Receipt)
    both = drive(model, store, EditJob(f"{TREE} and a sun", sampling=STEPS), catalog)
    assert one(both, Receipt).source_id == edit.image_id


def test_tenants_do_not_share_pictures(model, store, catalog):
    own = one(drive(model, store, GenerateJob(HILL, STEPS, tenant="ann"), catalog), Receipt)
    other = one(drive(model, store, GenerateJob(HILL, STEPS, tenant="bob"), catalog), Receipt)
    assert own.image_id != other.image_id
    assert other.macs_computed > 0
    with pytest.raises(Exception, match=r"unknown|no image"):
        drive(model, store, EditJob(TREE, own.image_id, tenant="bob"), catalog)


def test_without_a_catalog_a_source_must_be_named(model, store):
    with pytest.raises(InputError, match="exactly one of image_id and source_prompt"):
        drive(model, store, EditJob(TREE), None)


def test_a_long_chain_of_edits_is_recorded_anew(model, store):
    """Past so many edits of edits all is computed, so that reads and norm statistics are not ever older."""
    words, depths, told = HILL, [], []
    drive(model, store, GenerateJob(HILL, SamplingRequest(seed=3, num_inference_steps=1)), None)
    image_id = store.ids()[-1]
    mask = Image.new("L", (256, 256))
    mask.paste(255, (64, 64, 128, 128))
    for number in range(MOST_DEPTH + 2):
        words = f"{words} and a {'sun' if number % 2 else 'tree'}"
        events = drive(model, store, EditJob(words, image_id, edit_mask=mask, mask_mode="given"), None)
        image_id = one(events, Receipt).image_id
        with store.open(image_id) as recording:
            depths.append(recording.activations.depth)
        told.append([fallback.reason for fallback in one(events, Receipt).fallbacks])
    assert depths == [*range(1, MOST_DEPTH + 1), 0, 1]
    assert [any("anew" in reason for reason in reasons) for reasons in told] == [depth == 0 for depth in depths]


def test_a_dry_run_draws_nothing_where_nothing_is_near(model, store, catalog):
    with pytest.raises(InputError, match="dry_run: no recording is near enough"):
        drive(model, store, EditJob(TREE, sampling=STEPS, dry_run=True), catalog)
    assert store.ids() == []


def test_what_is_on_the_disk_is_announced_but_for_another_versions(model, tmp_path, caplog):
    first = Store(1 << 28, disk=Disk(tmp_path, 1 << 28))
    source = one(drive(model, first, GenerateJob(HILL, STEPS), None), Receipt)
    with first.create("of before", {}) as draft:
        told = {"prompt": HILL, "sampling": {}, "source_id": None}
        draft.put("told", json.dumps(told).encode())
        with first.open(source.image_id) as recording:
            for name in ("image", "latents", "words", "decoder"):
                draft.put(name, recording.blob(name))
        draft.commit()
    first.close()
    with closing(Store(1 << 28, disk=Disk(tmp_path, 1 << 28))) as again:
        known = Catalog(MemoryIndex(), "here", 2, Nearness(min_similarity=0.5))
        for each in again.ids():
            known.announce_kept(model, again, each)
        assert again.counts().get("reads", {}) == {}  # looking is no use
        assert "'of before' is another version's" in caplog.text
        edited = one(drive(model, again, EditJob(TREE, sampling=STEPS), known), Receipt)
    assert edited.source_id == source.image_id
    assert edited.tier in {"disk", "host"}  # it is promoted when it is read, beside the reader


def test_a_seed_that_was_asked_for_is_found_behind_many_others(model, store, catalog):
    small = SamplingRequest(seed=0, num_inference_steps=2, width=64, height=64)
    drawn = [
        one(drive(model, store, GenerateJob(HILL, replace(small, seed=seed)), catalog), Receipt) for seed in range(20)
    ]
    for seed in (0, 19):  # all are as near
        edited = drive(model, store, EditJob(TREE, sampling=replace(small, seed=seed)), catalog)
        assert one(edited, Receipt).source_id == drawn[seed].image_id
