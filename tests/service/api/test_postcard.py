"""The whole service over the embedded model, at few steps."""

from __future__ import annotations

import asyncio
import base64
import io

import numpy as np
import pytest
from PIL import Image

from service.api.images import encode_base64, encode_png

pytestmark = pytest.mark.anyio

OLD = "a snow mountain under a night sky with a red house"
NEW = "a snow mountain under a night sky with a blue house"
DRAWING = {"seed": 3, "num_inference_steps": 3}


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def pixels_of(text):
    return pixels(base64.b64decode(text))


def left_half(size):
    image = np.zeros((size[1], size[0]), np.uint8)
    image[:, : size[0] // 2] = 255
    return encode_base64(encode_png(Image.fromarray(image)))


@pytest.fixture(scope="module")
async def source(postcard):
    response = await postcard.post("/generate", json={"prompt": OLD, **DRAWING})
    assert response.status_code == 200, response.text
    return response.json()


async def test_a_drawn_picture_can_be_fetched(postcard, source):
    fetched = await postcard.get(source["image_url"])
    assert fetched.headers["content-type"] == "image/png"
    assert np.array_equal(pixels(fetched.content), pixels_of(source["image"]))
    assert (await postcard.get(source["image_url"] + "/mask")).status_code == 404


async def test_the_same_request_is_the_same_picture(postcard, source):
    again = (await postcard.post("/generate", json={"prompt": OLD, **DRAWING})).json()
    assert again["image_id"] == source["image_id"]
    assert again["image"] == source["image"]


async def test_an_edit_keeps_every_pixel_that_it_was_not_asked_to_change(postcard, source):
    old = pixels_of(source["image"])
    mask = left_half(old.shape[1::-1])
    body = {"prompt": NEW, "image_id": source["image_id"], "edit_mask": mask, "paste_margin": 0}
    answer = (await postcard.post("/edit", json=body)).json()
    new, half = pixels_of(answer["image"]), old.shape[1] // 2
    assert np.array_equal(new[:, half:], old[:, half:])
    assert not np.array_equal(new[:, :half], old[:, :half])
    assert answer["source_id"] == source["image_id"]
    assert answer["mask"] is not None
    kept = await postcard.get(answer["image_url"] + "/mask")
    assert np.array_equal(pixels(kept.content), pixels_of(answer["mask"]))
    assert answer["receipt"]["edited_ratio"] == 0.5
    assert answer["receipt"]["rows_computed"] < answer["receipt"]["rows_total"]


async def test_an_edit_can_draw_its_source_first(postcard, source):
    answer = (await postcard.post("/edit", json={"prompt": NEW, "source_prompt": OLD, **DRAWING})).json()
    assert answer["source_id"] == source["image_id"]


async def test_a_dry_run_stops_after_the_mask(postcard, source):
    answer = (
        await postcard.post("/edit", json={"prompt": NEW, "image_id": source["image_id"], "dry_run": True})
    ).json()
    assert answer["image"] is None
    assert answer["image_url"] is None
    assert answer["mask"] is not None


async def test_a_value_that_differs_from_the_sources_is_refused(postcard, source):
    response = await postcard.post("/edit", json={"prompt": NEW, "image_id": source["image_id"], "seed": 4})
    assert (response.status_code, response.json()["field"]) == (422, "seed")
    assert response.json()["type"] == "urn:retouch:problem:conflict"


async def test_an_unknown_source_is_not_found(postcard):
    response = await postcard.post("/edit", json={"prompt": NEW, "image_id": "unknown"})
    assert response.status_code == 404


async def test_a_deleted_picture_is_gone(postcard):
    url = (await postcard.post("/generate", json={"prompt": NEW, **DRAWING, "seed": 8})).json()["image_url"]
    assert (await postcard.delete(url)).status_code == 204
    assert (await postcard.get(url)).status_code == 404
    assert (await postcard.delete(url)).status_code == 404


async def test_jobs_that_run_together_draw_what_they_draw_alone(postcard, source):
    body = {"prompt": OLD, **DRAWING, "cache": "off"}
    answers = await asyncio.gather(*(postcard.post("/generate", json=body | {"seed": seed}) for seed in (3, 4, 5)))
    together = [pixels_of(answer.json()["image"]).astype(int) for answer in answers]
    assert abs(together[0] - pixels_of(source["image"])).max() <= 1  # sums in another order, rounded to a colour
    assert not np.array_equal(together[0], together[1])
