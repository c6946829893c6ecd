"""Every method of both clients, over the embedded model at few steps."""

from __future__ import annotations

import io
import textwrap
import uuid

import numpy as np
import pytest
from PIL import Image

import service.client
from service.api.keys import make_key
from service.client import Client
from service.errors import NoMaskError, UnauthorizedError, UnknownImageError
from service.jobs import Accepted, ImageReady, MaskFound, Outcome, Preview, Receipt

OLD = "a snow mountain under a night sky with a red house"
NEW = "a snow mountain under a night sky with a blue house"
DRAWING = {"seed": 3, "num_inference_steps": 4}


def pixels(picture):
    return np.asarray(picture.convert("RGB"))


def left_half(size):
    image = np.zeros((size[1], size[0]), np.uint8)
    image[:, : size[0] // 2] = 255
    return Image.fromarray(image)


@pytest.fixture
def source(postcard):
    return postcard.generate(OLD, **DRAWING)


def test_a_drawn_picture_has_no_source_and_no_mask(source):
    assert source.receipt == Receipt(**vars(source.receipt))
    assert (source.image_id, source.source_id, source.mask) == (source.receipt.image_id, None, None)
    assert source.image_url == f"/images/{source.image_id}"
    assert source.picture.format == "PNG"
    assert source.image not in repr(source).encode()


def test_the_mask_of_a_drawn_picture_is_none(postcard, source):
    with pytest.raises(NoMaskError) as caught:
        postcard.mask(source.image_id)
    assert caught.value.image_id == source.image_id


def test_an_edit_tells_picture_mask_and_receipt(postcard, source):
    edited = postcard.edit(NEW, image_id=source.image_id, edit_mask=left_half(source.picture.size))
    assert edited.source_id == source.image_id
    assert edited.receipt.edited_ratio == 0.5
    assert set(edited.receipt.seconds) >= {"queue", "total"}
    mask = Image.open(io.BytesIO(edited.mask))
    assert np.array_equal(np.asarray(mask), np.asarray(left_half(source.picture.size)))
    assert not np.array_equal(pixels(edited.picture), pixels(source.picture))


def test_a_source_may_be_a_prompt(postcard, source):
    edited = postcard.edit(NEW, source_prompt=OLD, **DRAWING)
    assert edited.source_id == source.image_id


def test_a_dry_run_has_a_mask_and_no_picture(postcard, source):
    looked = postcard.edit(NEW, image_id=source.image_id, dry_run=True)
    assert (looked.image, looked.picture, looked.image_url) == (None, None, None)
    assert looked.mask is not None


def test_a_stream_tells_what_the_answer_tells(postcard, source):
    edit = {"prompt": NEW, "image_id": source.image_id, "edit_mask": left_half(source.picture.size), "cache": "off"}
    with postcard.stream_edit(**edit, preview_every=1) as events:
        told = list(events)
    assert [type(event) for event in told] == [Accepted, MaskFound, *[Preview] * 3, ImageReady, Receipt]
    left, top, right, bottom = told[2].box
    assert told[2].image.size == (right - left, bottom - top)
    outcome, edited = Outcome.of(told), postcard.edit(**edit)
    assert np.array_equal(pixels(outcome.image.image), pixels(edited.picture))
    assert outcome.image.image_id == edited.image_id
    assert outcome.mask.edited_ratio == edited.receipt.edited_ratio == outcome.receipt.edited_ratio
    mask = np.asarray(Image.open(io.BytesIO(edited.mask)))
    assert np.array_equal(np.kron(outcome.mask.edit_mask, np.full((8, 8), 255)), mask)


def test_a_drawing_may_be_streamed(postcard, source):
    with postcard.stream_generate(OLD, **DRAWING) as events:
        outcome = Outcome.of(events)
    assert np.array_equal(pixels(outcome.image.image), pixels(source.picture))


def test_kept_pictures_can_be_fetched_and_forgotten(postcard, source):
    edited = postcard.edit(NEW, image_id=source.image_id, edit_mask=left_half(source.picture.size), seed=3)
    fetched = Image.open(io.BytesIO(postcard.image(edited.image_id)))
    assert np.array_equal(pixels(fetched), pixels(edited.picture))
    fetched = Image.open(io.BytesIO(postcard.mask(edited.image_id)))
    assert fetched.size == edited.picture.size
    family = postcard.lineage(edited.image_id)
    assert (family.picture.prompt, family.picture.source_id) == (NEW, source.image_id)
    assert [one.prompt for one in family.ancestors] == [OLD]
    assert edited.image_id in [one.image_id for one in postcard.lineage(source.image_id).edits]
    postcard.delete(edited.image_id)
    for forgotten in (postcard.image, postcard.mask, postcard.lineage, postcard.delete):
        with pytest.raises(UnknownImageError) as caught:
            forgotten(edited.image_id)
        assert caught.value.image_id == edited.image_id


@pytest.mark.parametrize("image_id", ["", ".", "..", "a/b", "é?x#y", "a b", "%2e"])
def test_no_id_leads_elsewhere(postcard, image_id):
    with pytest.raises(UnknownImageError) as caught:
        postcard.image(image_id)
    assert caught.value.image_id == image_id


def test_the_model_tells_its_defaults(postcard):
    model = postcard.model()
    assert model.name == "postcard"
    assert model.sampler in model.samplers
    assert model.width * model.height <= model.max_pixels
    assert "mountain" in model.words


def test_a_service_is_ready_when_its_model_is_loaded(postcard):
    assert postcard.ready() is True


def test_prompts_are_of_any_script(client, worker):
    prompt = "дом \N{SNOWMAN} 雪山 \N{GRINNING FACE}"
    client.generate(prompt)
    with client.stream_generate(prompt) as events:
        Outcome.of(events)
    assert [job.prompt for job in worker.jobs] == [prompt, prompt]


def test_a_key_is_sent_with_every_request(open_client, open_server):
    key, entry = make_key("ann")
    with open_server(api_keys=entry) as (url, worker):
        with open_client(url, key) as client:
            client.generate("a house")
        with open_client(url) as client, pytest.raises(UnauthorizedError, match="a key is needed"):
            client.generate("a house")
    assert [job.tenant for job in worker.jobs] == ["ann"]


def test_the_same_idempotency_key_is_the_same_job(client, worker):
    key = uuid.uuid4().hex
    first = client.generate("a house", idempotency_key=key)
    assert client.generate("a house", idempotency_key=key) == first
    assert len(worker.jobs) == 1


def test_a_closed_client_sends_nothing(scripted_server):
    with Client(scripted_server[0]) as client:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        client.ready()


def test_the_example_of_the_package_runs(scripted_server, worker, monkeypatch, tmp_path, capsys):
    text = textwrap.dedent(service.client.__doc__.partition("\n\n")[2].partition("\n\n`AsyncClient`")[0])
    monkeypatch.chdir(tmp_path)
    exec(text.replace("http://127.0.0.1:8000", scripted_server[0]), {})  # noqa: S102  # our own words
    assert capsys.readouterr().out == "12% of it changed, in 1.0 s\n"
    with Image.open("blue.png") as picture:
        assert picture.size == (64, 64)
    assert [job.preview_every for job in worker.jobs] == [0, 0, 4]
