from __future__ import annotations

import base64
import json
import random

import pytest

from service.api.schemas import MAX_PROMPT

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
MIB = 2**20
FEW_BYTES = 200_000  # what has come when it is known that a body has too many values


@pytest.fixture(params=["/generate", "/edit", "/v1/images/generations"])
def path(request):
    return request.param


def refusal(response):
    """Status and field, as either interface names it."""
    told = response.json()
    return response.status_code, told["error"]["param"] if "error" in told else told["field"]


def refused(path, field):
    return (400 if path.startswith("/v1") else 422, field)


@pytest.mark.parametrize(
    "sign", [b"1,", b"[],", b'{"a":1},', b"[", b'"",', b" ", b'"\\n",', "é".encode()], ids=lambda sign: sign.decode()
)
async def test_a_body_of_many_values_is_refused_before_it_is_parsed(client, path, sign):
    num_sent = 0

    async def body():
        nonlocal num_sent
        yield b'{"prompt": ['
        while num_sent < 8 * MIB - 1000:
            yield (part := sign * (1000 // len(sign)))
            num_sent += len(part)
        yield b"1]}"

    response = await client.post(path, content=body(), headers=JSON)
    assert refusal(response) == refused(path, "body")
    assert "too many values" in response.text
    assert num_sent < FEW_BYTES


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/x+json"])
async def test_whatever_is_parsed_as_json_is_counted(client, media_type):
    response = await client.post("/edit", content=b"[" * MIB, headers={"content-type": media_type})
    assert "too many values" in response.text


async def test_a_text_of_escapes_is_refused(client, path):
    content = b'{"prompt": "' + rb"\u0041" * MIB + b'"}'
    assert refusal(await client.post(path, content=content, headers=JSON)) == refused(path, "body")


@pytest.mark.parametrize("sign", ["\U0001f3e0", ",", '"', "é"])
async def test_the_longest_prompts_of_any_script_are_taken(client, scripts, sign):
    prompt = sign * MAX_PROMPT
    body = {"prompt": prompt, "source_prompt": prompt, "negative_prompt": prompt}
    for content in (json.dumps(body), json.dumps(body, ensure_ascii=False, indent=4).encode()):
        assert (await client.post("/edit", content=content, headers=JSON)).status_code == 200
    assert scripts.jobs[0].prompt == prompt


async def test_a_large_mask_is_parsed_also_where_its_slashes_are_escaped(client):
    noise = base64.b64encode(random.Random(0).randbytes(5 * MIB)).decode()
    content = json.dumps({"prompt": "a house", "edit_mask": noise}).replace("/", "\\/")
    response = await client.post("/edit", content=content, headers=JSON)
    assert refusal(response) == (422, "edit_mask")
    assert "must be a PNG, got no picture" in response.text


@pytest.mark.parametrize(
    ("content", "field", "text"),
    [
        (b'{"prompt": "a", "seed": 1, "seed": 1}', "seed", "is given twice"),
        (b'{"prompt": "a", "prompt": "b"}', "prompt", "is given twice"),
        (b'{"prompt": {"x": 1, "x": 2}}', "x", "is given twice"),
        (rb'{"prompt": "a", "\ud800": 1, "\ud800": 2}', "body", "is given twice"),
        (b'{"prompt": "a", "' + b"x" * 101 + b'": 1}', "x" * 100, "is too long a name: 101 characters"),
        (json.dumps(dict.fromkeys(map(str, range(101)))).encode(), "body", "must have at most 100 fields, got 101"),
    ],
)
async def test_names_are_given_once_are_few_and_short(client, path, content, field, text):
    response = await client.post(path, content=content, headers=JSON)
    assert refusal(response) == refused(path, field)
    assert f"{field}: {text}" in response.text


async def test_a_form_has_other_signs(client):
    """Files are bytes of every kind; the boundary is the client's own word."""
    parts = {"image": ("a.png", bytes(range(256)) * 1000)}
    headers = {"content-type": "multipart/form-data; boundary=json"}
    response = await client.post("/v1/images/edits", data={"prompt": "a"}, files=parts, headers=headers)
    assert refusal(response) == (400, "image")


@pytest.mark.parametrize("text", ["AA==AAAA", "====", "AAAA=AAA", "A", "é", "AAAA\n"])
async def test_what_is_nearly_base64_is_none(client, text):
    response = await client.post("/edit", json={"prompt": "a house", "edit_mask": text})
    assert refusal(response) == (422, "edit_mask")
    assert "must be a PNG in base64" in response.text
