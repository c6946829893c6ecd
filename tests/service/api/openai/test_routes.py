from __future__ import annotations

import asyncio
import base64
import io
import json
from dataclasses import asdict

import numpy as np
import openai as sdk
import pytest
from PIL import Image
from structlog.testing import capture_logs

from service.api.images import encode_png
from service.engine.core import Told, pixels_digest
from service.errors import (
    BusyError,
    ConflictError,
    DeadlineError,
    JobFailedError,
    NotReadyError,
    UnknownImageError,
)
from service.jobs import Accepted, Preview, Sampling

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 30  # a test that hangs fails
GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
DRAW = {"prompt": "a zebra"}
ONCE = {"Idempotency-Key": "once"}
SOURCE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
SAMPLING = Sampling(1, 4, 7.5, "ddim", 64, 64, "")


def png(array):
    return encode_png(Image.fromarray(array))


def keep(client, tenant=""):
    """The source, as if it had been drawn here."""
    told = Told("a red zebra", SAMPLING, None, tenant, "model", pixels_digest(SOURCE))
    draft = client.app.state.worker._store.create(f"source-of-{tenant}", {})
    draft.put("told", json.dumps(asdict(told)).encode())
    draft.commit()


def upload(image=SOURCE, **more):
    files = {"image": ("a.png", png(image), "image/png")}
    return {"files": files | more}


def refused(response, param, status=400):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    return error["message"]


@pytest.fixture
async def edited(client):
    """The application over `scripts`, where the source is known."""
    keep(client)
    return client


@pytest.mark.parametrize(
    ("error", "raised", "status", "code", "type_"),
    [
        (ConflictError("seed", "is the source's"), sdk.BadRequestError, 400, "conflict", "invalid_request_error"),
        (UnknownImageError("x"), sdk.NotFoundError, 404, "unknown-image", "invalid_request_error"),
        (BusyError(12.3), sdk.RateLimitError, 429, "busy", "rate_limit_error"),
        (NotReadyError("draining"), sdk.InternalServerError, 503, "not-ready", "server_error"),
        (DeadlineError(1), sdk.InternalServerError, 504, "deadline", "server_error"),
        (JobFailedError("the device failed"), sdk.InternalServerError, 500, "failed", "server_error"),
        (ZeroDivisionError("secret"), sdk.InternalServerError, 500, "failed", "server_error"),
    ],
)
async def test_what_ends_a_job_is_the_clients_own_exception(
    client, scripts, openai_of, error, raised, status, code, type_
):
    scripts.error = error
    with pytest.raises(raised) as caught:
        await openai_of(client).images.generate(prompt="a zebra")
    assert (caught.value.status_code, caught.value.code, caught.value.type) == (status, code, type_)
    assert caught.value.request_id == caught.value.response.headers["x-request-id"]
    assert "secret" not in caught.value.response.text
    assert caught.value.response.headers.get("retry-after") == {429: "13", 503: "5"}.get(status)


async def test_a_wrong_key_is_an_authentication_error(keyed, openai_of):
    with pytest.raises(sdk.AuthenticationError) as caught:
        await openai_of(keyed, key="nobody's").models.list()
    assert (caught.value.type, caught.value.code) == ("authentication_error", "unauthorized")


async def test_jobs_are_the_keys_own(keyed, openai_of, scripts):
    await openai_of(keyed, key="ann-key").images.generate(prompt="a zebra")
    assert scripts.jobs[0].tenant == "ann"


async def test_anothers_picture_is_as_unknown_as_none(keyed, openai_of, scripts):
    keep(keyed, "ann")
    await openai_of(keyed, key="ann-key").images.edit(image=png(SOURCE), prompt="a zebra")
    with pytest.raises(sdk.BadRequestError, match="drawn here"):
        await openai_of(keyed, key="bob-key").images.edit(image=png(SOURCE), prompt="a zebra")
    assert [job.image_id for job in scripts.jobs] == ["source-of-ann"]


async def test_more_pictures_than_a_key_may_draw_at_a_time_are_refused(keyed, scripts):
    response = await keyed.post(GENERATIONS, json=DRAW | {"n": 2}, headers={"Authorization": "Bearer ann-key"})
    assert "at most 1" in refused(response, "n")
    assert scripts.jobs == []


async def test_a_generation_is_a_native_job(client, scripts):
    fields = {"num_inference_steps": 3, "guidance_scale": 2, "sampler": "dpm++", "negative_prompt": "stripes"}
    body = DRAW | fields | {"seed": 5, "size": "128x64", "cache": "read_only", "deadline_seconds": 9}
    assert (await client.post(GENERATIONS, json=body)).status_code == 200
    (job,) = scripts.jobs
    given = fields | {"seed": 5, "width": 128, "height": 64}
    assert job.sampling.given() == given
    assert (job.prompt, job.cache, job.deadline_seconds, job.preview_every) == ("a zebra", "read_only", 9, 0)


async def test_the_pictures_of_a_request_run_at_once(open_client, scripts):
    scripts.may_step.clear()
    async with open_client(running_jobs=3) as client:
        drawing = asyncio.create_task(client.post(GENERATIONS, json=DRAW | {"n": 3, "seed": 7}))
        assert await asyncio.to_thread(scripts.begun.wait, GUARD_SECONDS)
        scripts.may_step.set()
        answer = (await drawing).json()
    assert [job.sampling.seed for job in scripts.jobs] == [7, 8, 9]
    assert [datum["retouch"]["number"] for datum in answer["data"]] == [0, 1, 2]


async def test_one_picture_that_fails_ends_all(open_client, scripts):
    async with open_client(running_jobs=2) as client:
        scripts.error = JobFailedError("the device failed")
        assert (await client.post(GENERATIONS, json=DRAW | {"n": 2})).status_code == 500
        scripts.error = None
        assert (await client.post(GENERATIONS, json=DRAW | {"n": 2})).status_code == 200


async def test_what_the_queue_does_not_take_is_a_rate_limit_error(open_client, openai_of, scripts):
    """Of three pictures there is room for two beside one that is drawn: none of them is begun."""
    scripts.may_step.clear()
    async with open_client(running_jobs=3) as client:
        drawing = asyncio.create_task(client.post(GENERATIONS, json=DRAW))
        assert await asyncio.to_thread(scripts.begun.wait, GUARD_SECONDS)
        with pytest.raises(sdk.RateLimitError) as caught:
            await openai_of(client).images.generate(prompt="a zebra", n=3)
        scripts.may_step.set()
        assert (await drawing).status_code == 200
    assert int(caught.value.response.headers["retry-after"]) > 0
    assert len(scripts.jobs) == 1


async def test_more_pictures_than_are_ever_drawn_at_a_time_are_refused(client, scripts):
    assert "at most 1" in refused(await client.post(GENERATIONS, json=DRAW | {"n": 2}), "n")
    assert scripts.jobs == []


async def test_a_repeated_request_is_answered_again(open_client, scripts):
    async with open_client(running_jobs=2) as client:
        first, second = [await client.post(GENERATIONS, json=DRAW | {"n": 2}, headers=ONCE) for _ in range(2)]
        assert first.json()["data"] == second.json()["data"]
        assert len(scripts.jobs) == 2
        other = await client.post(GENERATIONS, json=DRAW | {"n": 1}, headers=ONCE)
    assert "before" in refused(other, "Idempotency-Key")


async def test_a_repeated_edit_is_answered_again_when_its_source_is_gone(edited, scripts):
    first = await edited.post(EDITS, data=DRAW, **upload(), headers=ONCE)
    assert (await edited.delete("/images/source-of-")).status_code == 204
    again = await edited.post(EDITS, data=DRAW, **upload(), headers=ONCE)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json()["data"] == again.json()["data"]
    assert len(scripts.jobs) == 1
    refused(await edited.post(EDITS, data=DRAW, **upload()), "image")


async def test_a_repeated_stream_of_an_edit_is_told_again_when_its_source_is_gone(edited, scripts):
    data = DRAW | {"stream": "true", "partial_images": "1"}
    first = await edited.post(EDITS, data=data, **upload(), headers=ONCE)
    await edited.delete("/images/source-of-")
    again = await edited.post(EDITS, data=data, **upload(), headers=ONCE)
    told = [[line for line in one.text.splitlines() if line.startswith("event: ")] for one in (first, again)]
    assert told == [["event: image_edit.partial_image", "event: image_edit.completed"], ["event: image_edit.completed"]]
    assert len(scripts.jobs) == 1
    refused(await edited.post(EDITS, data=data, **upload()), "image")


@pytest.mark.parametrize(
    ("data", "given"),
    [
        ({"prompt": "a horse"}, upload()),
        (DRAW, upload(255 - SOURCE)),
        (DRAW, upload(mask=("m.png", png(np.zeros((64, 64, 4), np.uint8))))),
    ],
)
async def test_another_edit_is_not_taken_for_a_repeated_one(edited, scripts, data, given):
    assert (await edited.post(EDITS, data=DRAW, **upload(), headers=ONCE)).status_code == 200
    assert "before" in refused(await edited.post(EDITS, data=data, **given, headers=ONCE), "Idempotency-Key")
    assert len(scripts.jobs) == 1


async def test_null_is_not_given(client, scripts):
    response = await client.post(GENERATIONS, json=DRAW | dict.fromkeys(["n", "size", "stream", "seed", "user"]))
    assert response.status_code == 200
    assert scripts.jobs[0].sampling.width is None


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("prompt", ""),
        ("prompt", 7),
        ("n", 0),
        ("n", 11),
        ("n", "2"),
        ("size", "64"),
        ("size", "64x65"),
        ("size", "64x64000"),
        ("size", "8192x64"),
        ("quality", "hd"),
        ("background", "transparent"),
        ("moderation", "low"),
        ("style", "vivid"),
        ("svg", {}),
        ("output_format", "gif"),
        ("output_compression", 50),
        ("partial_images", 4),
        ("partial_images", 1),
        ("response_format", "file"),
        ("seed", -1),
        ("num_inference_steps", 0),
        ("negative_prompt", "\0"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(client, scripts, param, value):
    refused(await client.post(GENERATIONS, json=DRAW | {param: value}), param)
    assert scripts.jobs == []


@pytest.mark.parametrize(
    ("param", "more"),
    [("response_format", {"stream": True}), ("output_format", {"output_format": "jpeg"}), ("cache", {"cache": "off"})],
)
async def test_a_url_is_of_a_kept_png(client, param, more):
    refused(await client.post(GENERATIONS, json=DRAW | {"response_format": "url"} | more), param)


@pytest.mark.parametrize("given", [{"quality": "standard"}, {"background": "opaque"}, {"moderation": "auto"}])
async def test_what_is_so_anyway_may_be_asked_for(client, given):
    assert (await client.post(GENERATIONS, json=DRAW | given)).status_code == 200


async def test_a_body_that_is_no_json_is_an_error_object(client):
    headers = {"content-type": "application/json"}
    refused(await client.post(GENERATIONS, content=b"{", headers=headers), "body")
    refused(await client.post(GENERATIONS, content=b"prompt=a"), "content-type")


async def test_a_method_that_is_none_is_an_error_object(client):
    refused(await client.get(GENERATIONS), None, 405)
    refused(await client.post("/v1/chat/completions", json={}), None, 404)


async def test_native_routes_keep_their_problems(client):
    response = await client.post("/generate", json={})
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_body_that_is_too_large_is_an_error_object(open_client):
    async with open_client(body_bytes=1000) as client:
        refused(await client.post(EDITS, data=DRAW, files={"image": ("a.png", bytes(2000))}), None, 413)


async def test_an_edit_is_a_native_job_of_the_picture_with_these_pixels(edited, scripts):
    data = DRAW | {"guidance_scale": "2.5", "dilation": "2", "detection": "steps", "cache": "read_only"}
    response = await edited.post(EDITS, data=data, **upload())
    assert response.status_code == 200, response.text
    (job,) = scripts.jobs
    assert (job.image_id, job.prompt, job.mask_mode, job.cache) == ("source-of-", "a zebra", "detect", "read_only")
    assert job.sampling.given() == {"guidance_scale": 2.5}
    assert (job.rules.dilation, job.rules.detection) == (2, "steps")
    assert response.json()["data"][0]["retouch"]["image_url"] is None


async def test_an_image_may_come_as_an_array_of_one(edited, scripts):
    assert (await edited.post(EDITS, data=DRAW, files={"image[]": ("a.png", png(SOURCE))})).status_code == 200
    two = [("image[]", ("a.png", png(SOURCE)))] * 2
    assert "got 2" in refused(await edited.post(EDITS, data=DRAW, files=two), "image")
    assert len(scripts.jobs) == 1


async def test_transparent_is_what_changes(edited, scripts):
    mask = np.full((64, 64, 4), 255, np.uint8)
    mask[:8, :16, 3] = 0
    mask[8:, :, 3] = 1  # nearly
    response = await edited.post(EDITS, data=DRAW, **upload(mask=("m.png", png(mask))))
    assert response.status_code == 200, response.text
    (job,) = scripts.jobs
    white = np.asarray(job.edit_mask) == 255
    assert job.mask_mode == "given"
    assert white[:8, :16].all()
    assert white.sum() == 8 * 16


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.zeros((64, 32, 4), np.uint8), "the size of the image, 64 x 64 pixels, got 32 x 64 pixels"),
        (np.zeros((64, 64), np.uint8), "alpha channel"),
        (np.full((64, 64, 4), 255, np.uint8), "transparent nowhere"),
    ],
)
async def test_a_mask_that_does_not_say_what_changes_is_refused(edited, scripts, mask, reason):
    assert reason in refused(await edited.post(EDITS, data=DRAW, **upload(mask=("m.png", png(mask)))), "mask")
    assert scripts.jobs == []


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (png(255 - SOURCE), "GET /images/{id}"),
        (png(np.dstack([SOURCE, SOURCE[..., 0]])), "told by `mask`"),
        (png(SOURCE)[:200], "broken"),
        (b"\xff\xd8\xff a JPEG is never known again", "GET /images/{id}"),
        (b"", "no picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(4) + b"IHDR" + b"\xff" * 8 + bytes(8), "1 to 2048 pixels"),
    ],
)
async def test_a_picture_that_is_not_known_is_refused(edited, scripts, image, reason):
    assert reason in refused(await edited.post(EDITS, data=DRAW, files={"image": ("a.png", image)}), "image")
    assert scripts.jobs == []


@pytest.mark.parametrize(
    ("data", "param"),
    [
        ({}, "prompt"),
        (DRAW | {"n": "2"}, "n"),
        (DRAW | {"n": "two"}, "n"),
        (DRAW | {"size": "128x128"}, "size"),
        (DRAW | {"moderation": "auto"}, "moderation"),
        (DRAW | {"strength": "0.5"}, "strength"),
        (DRAW | {"partial_images": "1"}, "partial_images"),
        (DRAW | {"mask_mode": "given"}, "mask"),
        (DRAW | {"input_fidelity": "medium"}, "input_fidelity"),
        (DRAW | {"prompt": ["a zebra", "a zebra"]}, "prompt"),
        (DRAW | {"mask": "black"}, "mask"),
    ],
)
async def test_a_field_of_a_form_that_cannot_be_is_refused_by_name(edited, scripts, data, param):
    refused(await edited.post(EDITS, data=data, **upload()), param)
    assert scripts.jobs == []


async def test_a_form_needs_its_picture_and_takes_no_other_files(edited):
    refused(await edited.post(EDITS, data=DRAW, files={"x": ("", b"")}), "x")
    refused(await edited.post(EDITS, data=DRAW, **upload(markup=("m.png", png(SOURCE)))), "markup")
    refused(await edited.post(EDITS, files={"prompt": (None, "a zebra")}), "image")
    refused(await edited.post(EDITS, json=DRAW), "content-type")


async def test_a_form_of_many_or_broken_parts_is_refused(edited):
    many = {f"field{number}": "1" for number in range(100)}
    assert "Too many fields" in refused(await edited.post(EDITS, data=many, **upload()), "body")
    files = [("image", ("a.png", b"1"))] * 20
    assert "Too many files" in refused(await edited.post(EDITS, data=DRAW, files=files), "body")
    assert "maximum size" in refused(await edited.post(EDITS, data={"prompt": "a" * 100_000}, **upload()), "body")
    headers = {"content-type": "multipart/form-data; boundary=x"}
    refused(await edited.post(EDITS, content=b"--y\r\n", headers=headers), "body")
    refused(await edited.post(EDITS, content=b"", headers={"content-type": "multipart/form-data"}), "body")


async def test_a_client_that_leaves_in_the_midst_of_its_form_is_no_defect(client):
    arriving = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"--x", "more_body": True}]
    answered = []

    async def receive():
        return arriving.pop()

    async def send(message):
        answered.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=x")]
    scope = {"type": "http", "method": "POST", "path": EDITS, "query_string": b"", "headers": headers}
    with capture_logs() as lines:
        await client.app(scope, receive, send)
    assert lines[-1]["status"] == 499
    assert answered[0]["status"] == 400


async def test_a_stream_tells_pictures_and_then_the_whole(call):
    stream = call(GENERATIONS, DRAW | {"stream": True, "partial_images": 1, "num_inference_steps": 2})
    status, headers = await stream.start()
    assert (status, headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
    name, told = await stream.event()
    assert name == told["type"] == "image_generation.partial_image"
    assert (told["partial_image_index"], told["retouch"]) == (0, {"number": 0, "step": 1})
    name, told = await stream.event()
    assert name == told["type"] == "image_generation.completed"
    assert Image.open(io.BytesIO(base64.b64decode(told["b64_json"]))).size == (64, 64)
    assert told["usage"]["input_tokens_details"] == {"image_tokens": 0, "text_tokens": 0}
    assert await stream.event() is None


async def test_partial_images_of_an_edit_are_the_source_around_the_preview(edited):
    data = DRAW | {"stream": "true", "partial_images": "2"}
    response = await edited.post(EDITS, data=data, **upload())
    first = response.text.partition("\n\n")[0]
    told = json.loads(first.partition("data: ")[2])
    assert told["type"] == "image_edit.partial_image"
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(told["b64_json"]))))
    expected = SOURCE.copy()
    expected[16:32, 8:32] = 128  # as the script previews it
    assert np.array_equal(seen, expected)


async def test_what_fails_before_a_streams_first_event_has_its_own_status(client, scripts, openai_of):
    scripts.error = JobFailedError("the device failed")
    with pytest.raises(sdk.InternalServerError):
        await openai_of(client).images.generate(prompt="a zebra", stream=True)


async def test_what_fails_later_in_a_stream_is_raised_by_the_client(open_client, scripts, openai_of, monkeypatch):
    def fail_late(*_):
        yield Accepted("id", None, 2)
        yield Preview(1, Image.new("RGB", (64, 64)), (0, 0, 64, 64))
        raise JobFailedError("the device failed")

    monkeypatch.setattr(scripts, "start", fail_late)
    async with open_client() as client:
        drawing = {"prompt": "a zebra", "partial_images": 1, "extra_body": {"num_inference_steps": 2}}
        with capture_logs() as lines:
            stream = await openai_of(client).images.generate(**drawing, stream=True)
            assert (await anext(stream)).type == "image_generation.partial_image"
            with pytest.raises(sdk.APIError, match="the device failed") as caught:
                await anext(stream)
    assert (caught.value.code, caught.value.type) == ("failed", "server_error")
    assert (lines[0]["status"], lines[0]["problem"]) == (200, "failed")


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_client_that_leaves_cancels_its_jobs(client, call, scripts, is_streamed):
    scripts.may_step.clear()
    with capture_logs() as lines:
        request = call(GENERATIONS, DRAW | {"stream": is_streamed})
        assert await asyncio.to_thread(scripts.begun.wait, GUARD_SECONDS)
        request.gone.set()
        await request.task
        scripts.may_step.set()
        assert await asyncio.to_thread(scripts.closed.wait, GUARD_SECONDS)
    assert (lines[-1]["status"], lines[-1]["problem"]) == (499, "client-gone")
    assert (await client.post(GENERATIONS, json=DRAW)).status_code == 200


async def test_the_models_are_told_when_they_are_loaded(loading):
    refused(await loading.get("/v1/models"), None, 503)
