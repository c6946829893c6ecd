from __future__ import annotations

import json
import re

import pytest

from service.api.openai.schemas import EditsRequest

pytestmark = pytest.mark.anyio

ROUTES = {"/v1/images/generations", "/v1/images/edits", "/v1/models", "/v1/models/{model_id}"}


@pytest.fixture
async def described(client):
    return (await client.get("/openapi.json")).json()


def operations(described):
    return [operation for path in ROUTES for operation in described["paths"][path].values()]


async def test_errors_are_described_as_they_come_and_not_as_the_frameworks(described):
    for operation in operations(described):
        answers = operation["responses"]
        assert "422" not in answers
        for status in answers.keys() - {"200"}:
            content = answers[status]["content"]["application/json"]
            assert content["schema"] == {"$ref": "#/components/schemas/Failure"}
            assert status == "4XX" or set(content["example"]["error"]) >= {"message", "type", "code"}


async def test_jobs_have_every_answer_that_native_ones_have(described):
    native = set(described["paths"]["/generate"]["post"]["responses"]) - {"422"} | {"400", "4XX"}
    for path in ("/v1/images/generations", "/v1/images/edits"):
        answers = described["paths"][path]["post"]["responses"]
        assert set(answers) == native
        assert set(answers["200"]["content"]) == {"application/json", "text/event-stream"}


async def test_the_form_of_an_edit_is_described_with_its_files(described):
    body = described["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]["multipart/form-data"]
    fields = body["schema"]["properties"]
    assert set(fields) == {"image", "image[]", "mask", *EditsRequest.model_fields}
    assert fields["image"]["format"] == fields["mask"]["format"] == "binary"
    assert not any("anyOf" in field for field in fields.values())
    assert set(body["example"]) <= set(fields)


async def test_every_reference_leads_somewhere(described):
    for name in re.findall(r'"\$ref": "#/components/schemas/([^"]*)"', json.dumps(described)):
        assert name in described["components"]["schemas"]
    assert "$defs" not in json.dumps(described["paths"]["/v1/images/edits"])
