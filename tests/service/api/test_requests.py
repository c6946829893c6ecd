from __future__ import annotations

import base64
import struct
import zlib

import pytest
from PIL import Image

from service.api.images import encode_png
from service.api.schemas import EditRequest, GenerateRequest
from service.jobs import EditRules, SamplingRequest

pytestmark = pytest.mark.anyio


def png(size=(64, 64), mode="L", colour="white"):
    return encode_png(Image.new(mode, size, colour))


def claiming(width, height):
    """A small file whose header claims a large picture."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return png()[:8] + chunk + png()[33:]


def mask(png_bytes):
    return base64.b64encode(png_bytes).decode()


EDIT = {"prompt": "a blue house", "source_prompt": "a red house"}
BAD_EDITS = {
    "prompt": [
        {"prompt": ""},
        {"prompt": " \n"},
        {"prompt": "x" * 2001},
        {"prompt": 3},
        {"prompt": "\ud800"},
        {"prompt": "a\x00b"},
    ],
    "negative_prompt": [{"negative_prompt": "\x1b[0m"}, {"negative_prompt": "x" * 2001}],
    "source_prompt": [{"source_prompt": ""}],
    "image_id": [{"image_id": "a"}, {"image_id": "", "source_prompt": None}],
    "seed": [{"seed": -1}, {"seed": 2**63}, {"seed": "1"}, {"seed": 1.5}, {"seed": True}],
    "num_inference_steps": [{"num_inference_steps": 0}, {"num_inference_steps": 1001}],
    "guidance_scale": [{"guidance_scale": -1}, {"guidance_scale": 51}, {"guidance_scale": float("nan")}],
    "width": [{"width": 63}, {"width": 56}, {"width": 2056}, {"width": 100}],
    "height": [{"height": 0}],
    "sampler": [{"sampler": "euler"}],
    "mask_mode": [{"mask_mode": "guess"}, {"mask_mode": "detect", "edit_mask": mask(png())}],
    "edit_mask": [
        {"mask_mode": "given"},
        {"mask_mode": "union"},
        {"edit_mask": "no base64!"},
        {"edit_mask": "data:image/png;base64," + mask(png())},
        {"edit_mask": mask(b"GIF89a" + bytes(40))},
        {"edit_mask": mask(bytes(40))},
        {"edit_mask": mask(png()[:-30])},
        {"edit_mask": mask(png()[:40])},
        {"edit_mask": mask(png((2049, 8)))},
        {"edit_mask": mask(claiming(60000, 60000))},
        {"edit_mask": mask(claiming(0, 8))},
        {"edit_mask": ""},
    ],
    "attention": [{"attention": "flash"}],
    "dilation": [{"dilation": 17}],
    "margin": [{"margin": -1}],
    "paste_margin": [{"paste_margin": 1.5}],
    "deep_every": [{"deep_every": 0}, {"deep_every": 21}, {"deep_every": 2.0}],
    "cache": [{"cache": "write"}],
    "preset": [{"preset": "fast"}],
    "dry_run": [{"dry_run": "yes"}],
    "preview_every": [{"preview_every": 1}],
    "deadline_seconds": [{"deadline_seconds": 0}, {"deadline_seconds": 1e9}, {"deadline_seconds": float("inf")}],
    "stream": [{"stream": "yes"}],
    "deadline": [{"deadline": 1}],
}


@pytest.mark.parametrize(
    ("field", "wrong"), [(field, wrong) for field, wrongs in BAD_EDITS.items() for wrong in wrongs]
)
async def test_bad_input_is_refused_by_name(client, scripts, field, wrong):
    content = encode_json(EDIT | wrong)
    response = await client.post("/edit", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert response.json()["field"] == field
    assert scripts.jobs == []


async def test_a_mask_needs_a_source_that_is_named(client, scripts):
    response = await client.post("/edit", json={"prompt": "a house", "edit_mask": mask(png())})
    problem = response.json()
    assert (response.status_code, problem["field"]) == (422, "edit_mask")
    assert problem["detail"] == "edit_mask: is of one picture: name it by image_id or source_prompt"
    assert scripts.jobs == []


@pytest.mark.parametrize("source", [{"image_id": "id"}, {"source_prompt": "a hut"}])
async def test_how_near_a_source_must_be_is_not_said_of_one_that_is_named(client, scripts, source):
    response = await client.post("/edit", json={"prompt": "a house", "min_similarity": 0.5, **source})
    assert (response.status_code, response.json()["field"]) == (422, "min_similarity")
    assert scripts.jobs == []


def encode_json(value):
    import json  # noqa: PLC0415  # httpx refuses NaN, which clients do send

    return json.dumps(value)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"prompt"', b"\xff\xfe", b"[" * 100_000, b'{"seed": ' + b"9" * 5000 + b"}"]
)
async def test_a_body_that_is_no_object_is_refused(client, body):
    response = await client.post("/generate", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert response.json()["field"] == "body"
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("headers", [{}, {"content-type": "text/plain"}])
async def test_a_body_without_its_media_type_is_told_which_header_is_missing(client, headers):
    response = await client.post("/generate", content=b'{"prompt": "a house"}', headers=headers)
    assert response.status_code == 422
    assert response.json()["field"] == "content-type"
    assert "must be application/json" in response.json()["detail"]


async def test_several_faults_are_told_at_once(client):
    response = await client.post("/generate", json={"prompt": "", "seed": -1})
    problem = response.json()
    assert problem["field"] in {"prompt", "seed"}
    assert {"prompt", "seed"} <= set(problem["detail"].replace(":", "").split())


@pytest.mark.parametrize("announced", [True, False])
async def test_a_large_body_is_refused(client, announced):
    async def chunks():
        for _ in range(9):
            yield b"A" * 2**20

    body = {"content": b"A" * 9 * 2**20} if announced else {"content": chunks()}
    response = await client.post("/edit", headers={"content-type": "application/json"}, **body)
    assert response.status_code == response.json()["status"] == 413
    assert response.json()["type"] == "urn:retouch:problem:too-large"


async def test_a_part_of_the_path_is_named_like_a_field(client):
    response = await client.get(f"/images/{'x' * 200}")
    assert response.status_code == 422
    assert response.json()["field"] == "image_id"


def test_fields_become_a_job():
    request = EditRequest(
        **EDIT, seed=3, num_inference_steps=4, guidance_scale=2, width=64, negative_prompt="", margin=2, deep_every=3,
        stream=True, preview_every=5, deadline_seconds=7.5,
    )  # fmt: skip
    job = request.job("ann")
    assert job.sampling == SamplingRequest(
        seed=3, num_inference_steps=4, guidance_scale=2, width=64, negative_prompt=""
    )
    assert job.rules == EditRules(margin=2, deep_every=3)
    assert (job.mask_mode, job.dry_run, job.cache) == ("detect", False, "read_write")
    assert (job.tenant, job.preview_every, job.deadline_seconds) == ("ann", 5, 7.5)


@pytest.mark.parametrize("schema", [GenerateRequest, EditRequest])
def test_the_examples_are_good_requests(schema):
    for example in schema.model_json_schema()["examples"]:
        assert schema(**example).job().prompt == example["prompt"]


def test_a_preset_sets_the_rules_and_fields_win_over_it():
    rules = EditRequest(**EDIT, preset="fisedit", dilation=3).job().rules
    assert rules.dilation == 3
    assert rules.attention == "masked"
    assert not rules.keep_background


def test_an_edit_mask_is_by_default_the_whole_mask():
    assert EditRequest(**EDIT, edit_mask=mask(png())).job().mask_mode == "given"
    assert EditRequest(**EDIT, edit_mask=mask(png()), mask_mode="union").job().mask_mode == "union"


def test_a_prompt_may_have_lines():
    assert GenerateRequest(prompt="a house\n\tby the sea").job().prompt == "a house\n\tby the sea"


def test_spaces_around_a_prompt_do_not_count():
    assert GenerateRequest(prompt=" a house ").job().prompt == "a house"
