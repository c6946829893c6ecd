"""OpenAI's own client, over the embedded model at few steps."""

from __future__ import annotations

import base64
import io

import httpx
import numpy as np
import openai as sdk
import pytest
from openai.types import (
    ImageEditCompletedEvent,
    ImageEditPartialImageEvent,
    ImageGenCompletedEvent,
    ImageGenPartialImageEvent,
)
from PIL import Image

OLD = "a snow mountain under a night sky with a red house"
NEW = "a snow mountain under a night sky with a blue house"
SIDE = 128
DRAWING = {"prompt": OLD, "size": f"{SIDE}x{SIDE}", "extra_body": {"seed": 3, "num_inference_steps": 4}}


def pixels(file):
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def pixels_of(datum):
    return pixels(base64.b64decode(datum.b64_json))


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return "picture.png", file.getvalue()


def left_half():
    """An edit mask of OpenAI's: transparent is what changes."""
    mask = np.full((SIDE, SIDE, 4), 255, np.uint8)
    mask[:, : SIDE // 2, 3] = 0
    return png(mask)


@pytest.fixture(scope="module")
def drawn(openai):
    return openai.images.generate(**DRAWING)


@pytest.fixture(scope="module")
def source(drawn):
    return pixels_of(drawn.data[0])


def test_a_picture_is_drawn_as_by_the_native_route(address, drawn, source):
    assert (drawn.size, drawn.output_format, drawn.background) == (f"{SIDE}x{SIDE}", "png", "opaque")
    assert drawn.usage.total_tokens == drawn.usage.input_tokens_details.text_tokens == 0
    assert drawn.created > 0
    (datum,) = drawn.data
    assert datum.url is None
    body = {"prompt": OLD, "seed": 3, "num_inference_steps": 4, "width": SIDE, "height": SIDE}
    native = httpx.post(f"{address}/generate", json=body).json()
    assert datum.retouch["image_id"] == native["image_id"]
    assert base64.b64decode(datum.b64_json) == base64.b64decode(native["image"])
    assert source.shape == (SIDE, SIDE, 3)


def test_the_seeds_of_several_pictures_follow_each_other(openai, drawn):
    several = openai.images.generate(**DRAWING, n=3)
    second = openai.images.generate(**DRAWING | {"extra_body": {"seed": 4, "num_inference_steps": 4}})
    ids = [datum.retouch["image_id"] for datum in several.data]
    assert [datum.retouch["number"] for datum in several.data] == [0, 1, 2]
    assert ids[:2] == [drawn.data[0].retouch["image_id"], second.data[0].retouch["image_id"]]
    assert len(set(ids)) == 3
    assert not np.array_equal(pixels_of(several.data[1]), pixels_of(several.data[2]))


def test_a_picture_can_be_sent_by_its_url(openai, source):
    answer = openai.images.generate(**DRAWING, response_format="url")
    assert answer.data[0].b64_json is None
    assert np.array_equal(pixels(httpx.get(answer.data[0].url).content), source)


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_a_picture_comes_in_the_format_and_the_quality_that_are_asked_for(openai, output_format):
    output = {"output_format": output_format}
    answers = [openai.images.generate(**DRAWING, **output, output_compression=quality) for quality in (20, 90)]
    poor, good = (base64.b64decode(answer.data[0].b64_json) for answer in answers)
    assert answers[0].output_format == output_format
    assert Image.open(io.BytesIO(good)).format == output_format.upper()
    assert pixels(good).shape == (SIDE, SIDE, 3)
    assert len(poor) < len(good)


def test_webp_at_full_quality_is_the_same_picture(openai, source):
    answer = openai.images.generate(**DRAWING, output_format="webp")
    assert np.array_equal(pixels_of(answer.data[0]), source)


def test_a_streamed_picture_comes_with_whole_partial_images(openai):
    drawing = DRAWING | {"extra_body": {"seed": 5, "num_inference_steps": 6}}
    *partials, completed = openai.images.generate(**drawing, stream=True, partial_images=2)
    assert [type(event) for event in partials] == [ImageGenPartialImageEvent] * 2
    assert [event.type for event in partials] == ["image_generation.partial_image"] * 2
    assert [event.partial_image_index for event in partials] == [0, 1]
    assert isinstance(completed, ImageGenCompletedEvent)
    assert completed.type == "image_generation.completed"
    assert (completed.size, completed.quality, completed.background) == (f"{SIDE}x{SIDE}", "auto", "opaque")
    assert completed.usage.total_tokens == 0
    whole = pixels_of(completed)
    assert all(pixels_of(event).shape == whole.shape for event in partials)
    again = openai.images.generate(**drawing)
    assert np.array_equal(whole, pixels_of(again.data[0]))
    assert completed.retouch["image_id"] == again.data[0].retouch["image_id"]


def test_several_streamed_pictures_say_which_they_are(openai):
    drawing = DRAWING | {"extra_body": {"seed": 20, "num_inference_steps": 3}}
    events = list(openai.images.generate(**drawing, n=2, stream=True, partial_images=1))
    told = sorted((event.retouch["number"], event.type.rpartition(".")[2]) for event in events)
    assert told == [(0, "completed"), (0, "partial_image"), (1, "completed"), (1, "partial_image")]


def test_an_edit_of_an_uploaded_picture_changes_only_what_the_new_words_touch(openai, source, drawn):
    answer = openai.images.edit(image=png(source), prompt=NEW, size="auto", input_fidelity="high")
    (datum,) = answer.data
    assert datum.retouch["source_id"] == drawn.data[0].retouch["image_id"]
    receipt = datum.retouch["receipt"]
    assert 0 < receipt["edited_ratio"] < 1
    assert receipt["rows_computed"] < receipt["rows_total"]
    changed = (pixels_of(datum) != source).any(axis=2)
    assert changed.any()
    assert not changed.all()


def test_what_a_mask_does_not_make_transparent_stays_to_the_bit(openai, source):
    answer = openai.images.edit(
        image=[png(source)], mask=left_half(), prompt=NEW, size=f"{SIDE}x{SIDE}", extra_body={"paste_margin": 0}
    )
    edited, half = pixels_of(answer.data[0]), SIDE // 2
    assert np.array_equal(edited[:, half:], source[:, half:])
    assert not np.array_equal(edited[:, :half], source[:, :half])
    assert answer.data[0].retouch["receipt"]["edited_ratio"] == 0.5


def test_partial_images_of_a_streamed_edit_are_whole_pictures(openai, source):
    mask = left_half()
    words = "a snow mountain under a night sky with a yellow house"
    *partials, completed = openai.images.edit(
        image=png(source), mask=mask, prompt=words, stream=True, partial_images=3, extra_body={"paste_margin": 0}
    )
    assert [type(event) for event in partials] == [ImageEditPartialImageEvent] * 3
    assert [event.type for event in partials] == ["image_edit.partial_image"] * 3
    assert [event.partial_image_index for event in partials] == [0, 1, 2]
    assert isinstance(completed, ImageEditCompletedEvent)
    assert completed.type == "image_edit.completed"
    for event in (*partials, completed):
        seen = pixels_of(event)
        assert np.array_equal(seen[:, SIDE // 2 :], source[:, SIDE // 2 :])
        assert not np.array_equal(seen, source)


def test_an_edit_can_be_edited_again(openai, source):
    edited = pixels_of(openai.images.edit(image=png(source), prompt=NEW).data[0])
    answer = openai.images.edit(image=png(edited), prompt=OLD, response_format="url")
    assert answer.data[0].retouch["source_id"] is not None
    assert answer.data[0].url.endswith(answer.data[0].retouch["image_url"])


def test_an_opaque_alpha_channel_is_no_other_picture(openai, source, drawn):
    opaque = np.dstack([source, np.full((SIDE, SIDE), 255, np.uint8)])
    answer = openai.images.edit(image=png(opaque), prompt=NEW)
    assert answer.data[0].retouch["source_id"] == drawn.data[0].retouch["image_id"]


def test_a_picture_from_elsewhere_is_refused_and_the_way_is_told(openai, source):
    with pytest.raises(sdk.BadRequestError) as caught:
        openai.images.edit(image=png(255 - source), prompt=NEW)
    assert (caught.value.param, caught.value.type) == ("image", "invalid_request_error")
    assert "GET /images/{id}" in caught.value.body["message"]


def test_a_value_that_differs_from_the_sources_is_refused(openai, source):
    with pytest.raises(sdk.BadRequestError) as caught:
        openai.images.edit(image=png(source), prompt=NEW, extra_body={"seed": 99})
    assert (caught.value.param, caught.value.code) == ("seed", "conflict")


def test_the_model_is_listed_and_may_be_named(openai, drawn):
    (model,) = openai.models.list()
    assert openai.models.retrieve(model.id) == model
    answer = openai.images.generate(**DRAWING, model=model.id)
    assert answer.data[0].retouch["image_id"] == drawn.data[0].retouch["image_id"]


def test_a_model_that_is_not_there_is_not_found(openai):
    with pytest.raises(sdk.NotFoundError) as caught:
        openai.models.retrieve("dall-e-3")
    assert "dall-e-3" in caught.value.body["message"]
    with pytest.raises(sdk.BadRequestError) as refused:
        openai.images.generate(prompt=OLD, model="dall-e-3")
    assert refused.value.param == "model"


def test_what_is_not_there_is_an_error_object_too(openai):
    with pytest.raises(sdk.NotFoundError) as caught:
        openai.embeddings.create(model="any", input=OLD)
    assert caught.value.code == "not-found"


@pytest.mark.anyio
async def test_the_asynchronous_client_streams_as_well(address):
    async with sdk.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        stream = await client.images.generate(**DRAWING, stream=True)
        events = [event async for event in stream]
    assert [event.type for event in events] == ["image_generation.completed"]
