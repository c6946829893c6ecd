"""What is asked, as it travels."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from typing import get_type_hints

import numpy as np
import pytest
from PIL import Image

from service.api.schemas import EditRequest, GenerateRequest
from service.client import calls
from service.client.answers import receipt_of
from service.client.calls import EditStreamFields, GenerateStreamFields
from service.errors import InputError
from service.jobs import Fallback, Receipt

OURS = {"idempotency_key", "request_id"}  # headers
THEIRS = {"prompt", "stream"}  # said by the method


@pytest.mark.parametrize(
    ("fields", "schema"), [(GenerateStreamFields, GenerateRequest), (EditStreamFields, EditRequest)]
)
def test_a_client_may_say_what_the_service_takes(fields, schema):
    ours, theirs = get_type_hints(fields), get_type_hints(schema)
    assert set(ours) - OURS == set(schema.model_fields) - THEIRS
    differ = {name for name in set(ours) - OURS if ours[name] != theirs[name]}
    assert differ <= {"edit_mask"}  # base64 there, a picture here


def test_nothing_is_sent_of_what_was_not_said():
    call = calls.edit("a house", {"image_id": "a", "seed": None, "request_id": "mine"}, stream=True)
    assert json.loads(call.content) == {"prompt": "a house", "image_id": "a", "stream": True}
    assert call.headers == {"X-Request-Id": "mine", "Content-Type": "application/json"}


@pytest.mark.parametrize("kind", ["bytes", "path", "text", "picture"])
def test_a_mask_is_bytes_a_path_or_a_picture(tmp_path, kind):
    picture = Image.fromarray(np.eye(64, dtype=bool))
    path = tmp_path / "mask.png"
    picture.save(path)
    mask = {"bytes": path.read_bytes(), "path": path, "text": str(path), "picture": picture}[kind]
    body = json.loads(calls.edit("a house", {"edit_mask": mask}).content)
    came = Image.open(io.BytesIO(base64.b64decode(body["edit_mask"])))
    assert np.array_equal(np.asarray(came), np.eye(64, dtype=bool))


def test_a_picture_that_no_png_can_hold_names_the_field():
    with pytest.raises(InputError, match=r"^edit_mask: .*CMYK"):
        calls.edit("a house", {"edit_mask": Image.new("CMYK", (8, 8))})


def test_a_receipt_comes_back_as_itself():
    receipt = Receipt(
        "id", "source", 0.5, "host", 0.25, 1, 2, 3, 4, 5, seconds={"total": 1.5},
        fallbacks=(Fallback("detect", "why"),), unknown_words=("zebra",), predicted_seconds=2.0,
    )  # fmt: skip
    assert receipt_of(json.loads(json.dumps(receipt.as_dict()))) == receipt


def test_what_a_newer_service_says_more_is_passed_over():
    assert receipt_of(Receipt("id").as_dict() | {"joules": 7}) == Receipt("id")


def test_the_client_brings_neither_torch_nor_a_server():
    code = "import sys, service.client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603  # our own words
    loaded = set(done.stdout.split())
    assert loaded.isdisjoint(
        {"torch", "fastapi", "starlette", "pydantic", "uvicorn", "scipy", "diffusers", "structlog"}
    )
