from __future__ import annotations

import pytest
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from service.api.gates import Gate
from service.api.keys import Keys, digest_of
from service.api.quotas import Quotas

pytestmark = pytest.mark.anyio

DRAW = {"prompt": "a zebra"}


def gate(keys="", *, is_open=False, hosts=()):
    return Gate(Keys.parse(keys), Quotas(jobs=0, requests_per_minute=0), is_open=is_open, hosts=frozenset(hosts))


def admitted(which, **headers):
    try:
        which.admit(Headers({name.replace("_", "-"): value for name, value in headers.items()}))
    except HTTPException as error:
        assert error.status_code == 403  # noqa: PT017  # refused or not: both are asked for
        return False
    return True


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000", "a.localhost:1"]
)
def test_without_keys_the_machines_own_names_are_answered(host):
    assert admitted(gate(), host=host)


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:8000", "192.168.1.5", "localhost.evil.example", "127.0.0.1.nip.io", "[", "0x"],
)
def test_without_keys_other_names_are_not(host):
    assert not admitted(gate(), host=host)


def test_an_open_service_is_reached_by_addresses_and_by_names_that_were_told():
    own = gate(is_open=True, hosts=["retouch"])
    assert admitted(own, host="192.168.1.5:8000")
    assert admitted(own, host="retouch:8000")
    assert not admitted(own, host="evil.example")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://localhost:3000"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "same-origin", "origin": "http://evil.example"},
    ],
)
def test_without_keys_pages_of_other_sites_are_answered_nothing(headers):
    assert not admitted(gate(), host="localhost:8000", **headers)


@pytest.mark.parametrize(
    "headers",
    [{}, {"origin": "http://localhost:8000", "sec_fetch_site": "same-origin"}, {"sec_fetch_site": "none"}],
)
def test_our_own_page_and_programs_are_let_in(headers):
    assert admitted(gate(), host="localhost:8000", **headers)


def test_a_key_lets_in_from_everywhere():
    own = gate(f"ann:{digest_of('ann-key')}")
    headers = Headers({"host": "evil.example", "origin": "http://other.example", "authorization": "Bearer ann-key"})
    assert own.admit(headers) == "ann"


async def test_a_refusal_is_a_problem(client, scripts):
    response = await client.post("/generate", json=DRAW, headers={"origin": "http://evil.example"})
    assert response.status_code == 403
    assert response.json()["type"] == "urn:retouch:problem:forbidden"
    assert (await client.get("/model", headers={"host": "evil.example"})).status_code == 403
    assert scripts.jobs == []


@pytest.mark.parametrize("image_id", ["id", "unknown"])
async def test_a_page_of_another_site_does_not_learn_whether_a_picture_is_there(client, image_id):
    response = await client.get(f"/images/{image_id}", headers={"sec-fetch-site": "cross-site"})
    assert response.status_code == 403


async def test_every_answer_is_for_pages_of_this_service_alone(client):
    paths = ["/", "/healthz", "/docs", "/model", "/nowhere", "/images/unknown"]
    answers = [await client.get(path) for path in paths]
    answers.append(await client.post("/generate", json=DRAW | {"stream": True}))
    client.app.state.worker = None
    answers.append(await client.get("/images/x"))
    assert answers[-1].status_code == 500
    for answer in answers:
        assert answer.headers.get_list("cross-origin-resource-policy") == ["same-origin"]
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]


async def test_machines_that_ask_for_health_use_any_name(client):
    assert (await client.get("/readyz", headers={"host": "10.0.0.7:8000"})).status_code == 200


async def test_the_body_of_a_refused_request_is_not_read(keyed):
    async def body():
        raise AssertionError("it is read")
        yield b""

    assert (await keyed.post("/generate", content=body())).status_code == 401
