from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from service.api.health import Health
from service.api.model import ModelCard
from service.api.pictures import Family
from service.api.schemas import Answer, GenerateRequest
from service.jobs import Receipt

pytestmark = pytest.mark.anyio

ERRORS = {"401", "403", "429", "500"}  # of all that is behind the gate
JOBS = {"404", "408", "409", "413", "422", "503", "504"}
ANSWERS = {
    ("/generate", "post"): {"200"} | ERRORS | JOBS,
    ("/edit", "post"): {"200"} | ERRORS | JOBS,
    ("/images/{image_id}", "get"): {"200", "304", "404", "422"} | ERRORS,
    ("/images/{image_id}", "delete"): {"204", "404", "422"} | ERRORS,
    ("/images/{image_id}/mask", "get"): {"200", "304", "404", "422"} | ERRORS,
    ("/images/{image_id}/lineage", "get"): {"200", "404", "422"} | ERRORS,
    ("/model", "get"): {"200", "503"} | ERRORS,
    ("/healthz", "get"): {"200", "500", "503"},
    ("/readyz", "get"): {"200", "500", "503"},
}


@pytest.fixture
async def described(client):
    return (await client.get("/openapi.json")).json()


def operations(described):
    return {(path, method): operation for path, its in described["paths"].items() for method, operation in its.items()}


async def test_every_answer_of_every_native_route_is_described(described):
    found = operations(described)
    assert {name: set(found[name]["responses"]) for name in ANSWERS} == ANSWERS


async def test_every_answer_has_the_requests_id(described):
    for operation in operations(described).values():
        for answer in operation["responses"].values():
            assert "X-Request-Id" in answer["headers"]


async def test_errors_are_problems_with_an_example(described):
    for (path, _), operation in operations(described).items():
        for status, answer in operation["responses"].items():
            if status >= "400" and not path.startswith("/v1/"):
                assert answer["content"]["application/problem+json"]["example"]["status"] == int(status)
                assert len(answer["content"]) == 1


@pytest.mark.parametrize(
    ("status", "member"),
    [
        ("404", "image_id"),
        ("422", "field"),
        ("429", "retry_after_seconds"),
        ("503", "retry_after_seconds"),
        ("504", "deadline_seconds"),
    ],
)
async def test_what_machines_read_of_an_error_is_described_and_shown(described, status, member):
    told = operations(described)["/edit", "post"]["responses"][status]["content"]["application/problem+json"]
    its = told["schema"]["properties"][member]
    assert its["description"]
    assert its["examples"]
    assert member in told["example"]


async def test_headers_of_errors_are_described(described):
    answers = operations(described)["/edit", "post"]["responses"]
    assert "Retry-After" in answers["429"]["headers"]
    assert "Retry-After" in answers["503"]["headers"]
    assert "WWW-Authenticate" in answers["401"]["headers"]


async def test_a_job_is_answered_as_json_or_as_a_stream(described):
    answer = operations(described)["/edit", "post"]["responses"]["200"]
    assert set(answer["content"]) == {"application/json", "text/event-stream"}
    assert "event: mask" in answer["content"]["text/event-stream"]["example"]


@pytest.mark.parametrize(
    ("method", "path", "model"),
    [
        ("post", "/generate", Answer),
        ("post", "/edit", Answer),
        ("get", "/images/{image_id}/lineage", Family),
        ("get", "/model", ModelCard),
        ("get", "/healthz", Health),
        ("get", "/readyz", Health),
    ],
)
async def test_an_answer_in_json_has_an_example_of_its_shape(described, method, path, model):
    told = operations(described)[path, method]["responses"]["200"]["content"]["application/json"]
    assert told["schema"]["$ref"].endswith(f"/{model.__name__}")
    assert model.model_validate(told["example"]).model_dump(mode="json") == told["example"]


async def test_all_of_a_receipt_is_explained(described):
    receipt = described["components"]["schemas"]["Receipt"]["properties"]
    assert receipt.keys() == Receipt("id").as_dict().keys()
    assert all(its["description"] for its in receipt.values())


async def test_a_picture_is_a_png(described):
    answer = operations(described)["/images/{image_id}", "get"]["responses"]["200"]
    assert set(answer["content"]) == {"image/png"}
    assert {"ETag", "Cache-Control", "Vary"} <= set(answer["headers"])


async def test_requests_have_examples_and_a_key(described):
    for name in ("GenerateRequest", "EditRequest"):
        assert described["components"]["schemas"][name]["examples"]
    assert "HTTPValidationError" not in described["components"]["schemas"]
    found = operations(described)
    assert {one["name"] for one in found["/edit", "post"]["parameters"]} == {"Idempotency-Key"}


async def test_a_key_is_needed_where_one_is_known(client, keyed):
    for one, needed in ((client, [{"HTTPBearer": []}, {}]), (keyed, [{"HTTPBearer": []}])):
        found = operations((await one.get("/openapi.json")).json())
        for name in ANSWERS:
            assert found[name].get("security") == (None if name[0] in {"/healthz", "/readyz"} else needed)


@pytest.mark.parametrize(
    "text", ["a house", "a\nb\tc", " ", "", "a\x00", "\x1b[0m", "\x85", "\u2028", "\U0001f3e0", "\xa0"]
)
def test_the_description_of_a_prompt_allows_what_is_taken(text):
    """Python's patterns mean here what JSON Schema's do."""
    described = GenerateRequest.model_json_schema()["properties"]["prompt"]
    allowed = re.search(described["pattern"], text) is not None
    try:
        GenerateRequest(prompt=text)
    except ValidationError:
        assert not allowed
    else:
        assert allowed
