"""What a tenant sees of the pictures in a store."""

from __future__ import annotations

import io
import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from cache_store.store import Store
from service.engine.core import Told, pixels_digest
from service.errors import UnknownImageError
from service.jobs import Sampling
from service.workers import Drawn
from service.workers.pictures import Pictures

SAMPLING = Sampling(1, 4, 7.5, "ddim", 64, 64, "")


PIXELS = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)
EDIT_MASK = np.eye(2, 3, dtype=bool)


def keep(store: Store, image_id: str, source_id: str | None = None, tenant: str = "ann", pixels: str = "") -> None:
    draft = store.create(image_id, {})
    told = Told(f"words of {image_id}", SAMPLING, source_id, tenant, "model", pixels)
    draft.put("told", json.dumps(asdict(told)).encode())
    draft.put("image", torch.from_numpy(PIXELS))
    if source_id:
        draft.put("edit_mask", torch.from_numpy(EDIT_MASK))
    draft.commit()


@pytest.fixture
def store():
    made = Store(0)
    keep(made, "a")
    keep(made, "b", "a")
    keep(made, "c", "b", pixels="seen")
    keep(made, "d", "b")
    keep(made, "e", "a", tenant="bob", pixels="his")
    yield made
    made.close()


@pytest.fixture
def pictures(store):
    return Pictures(store, "ann")


def pixels_of(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_picture_is_read_by_its_owner(pictures):
    np.testing.assert_array_equal(pixels_of(pictures.read("a", "image")), PIXELS)
    assert pictures.read("a", "edit_mask") is None
    white = np.kron(EDIT_MASK, np.full((8, 8), 255))  # as large as the picture
    np.testing.assert_array_equal(pixels_of(pictures.read("b", "edit_mask")), white)


@pytest.mark.parametrize("image_id", ["e", "nobody's"])
@pytest.mark.parametrize("what", [lambda its, one: its.read(one, "image"), Pictures.lineage, Pictures.delete])
def test_anothers_picture_is_as_unknown_as_none(pictures, store, image_id, what):
    with pytest.raises(UnknownImageError, match=image_id):
        what(pictures, image_id)
    assert "e" in store.ids()


def test_lineage_is_the_nearest_ancestor_first_and_direct_edits(pictures):
    lineage = pictures.lineage("b")
    assert lineage.picture == Drawn("b", "words of b", "a", SAMPLING)
    assert [one.image_id for one in lineage.ancestors] == ["a"]
    assert [one.image_id for one in lineage.edits] == ["c", "d"]
    assert [one.image_id for one in pictures.lineage("c").ancestors] == ["b", "a"]
    assert [one.image_id for one in pictures.lineage("a").edits] == ["b"]  # not e, which is another's


def test_lineage_ends_where_an_ancestor_was_deleted(pictures):
    pictures.delete("a")
    assert pictures.lineage("b").picture.source_id == "a"
    assert pictures.lineage("c").ancestors == (Drawn("b", "words of b", "a", SAMPLING),)


def test_a_picture_is_found_by_its_pixels_by_its_owner(pictures):
    assert pictures.find("seen") == "c"
    assert pictures.find("his") is None


def test_looking_through_all_makes_none_more_recent(pictures, store):
    before = store.ids()
    pictures.lineage("d")
    pictures.find("seen")
    assert store.ids() == before


def test_what_another_version_wrote_is_unknown(pictures, store):
    draft = store.create("old", {})
    with store.open("a") as recording:
        told = json.loads(recording.blob("told"))
    draft.put("told", json.dumps(told | {"version": told["version"] - 1}).encode())
    draft.commit()
    with pytest.raises(UnknownImageError):
        pictures.read("old", "image")


def test_a_digest_tells_pictures_apart():
    pixels = np.zeros((8, 8, 3), np.uint8)
    other = pixels.copy()
    other[7, 7, 2] = 1
    assert pixels_digest(pixels) == pixels_digest(pixels.copy())
    assert len({pixels_digest(one) for one in (pixels, other, pixels.reshape(4, 16, 3))}) == 3
