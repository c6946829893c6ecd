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


def admitted(which, method="GET", **headers):
    try:
        which.admit(method, Headers({name.replace("_", "-"): value for name, value in headers.items()}))
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
def test_without_keys_nothing_is_taken_from_pages_of_other_sites(headers):
    assert not admitted(gate(), "POST", host="localhost:8000", **headers)
    assert not admitted(gate(), "DELETE", host="localhost:8000", **headers)
    assert admitted(gate(), "GET", host="localhost:8000", **headers)


@pytest.mark.parametrize(
    "headers",
    [{}, {"origin": "http://localhost:8000", "sec_fetch_site": "same-origin"}, {"sec_fetch_site": "none"}],
)
def test_our_own_page_and_programs_are_let_in(headers):
    assert admitted(gate(), "POST", host="localhost:8000", **headers)


def test_a_key_lets_in_from_everywhere():
    own = gate(f"ann:{digest_of('ann-key')}")
    headers = Headers({"host": "evil.example", "origin": "http://other.example", "authorization": "Bearer ann-key"})
    assert own.admit("POST", headers) == "ann"


async def test_a_refusal_is_a_problem(client, scripts):
    response = await client.post("/generate", json=DRAW, headers={"origin": "http://evil.example"})
    assert response.status_code == 403
    assert response.json()["type"] == "urn:retouch:problem:forbidden"
    assert (await client.get("/model", headers={"host": "evil.example"})).status_code == 403
    assert scripts.jobs == []


async def test_machines_that_ask_for_health_use_any_name(client):
    assert (await client.get("/readyz", headers={"host": "10.0.0.7:8000"})).status_code == 200


async def test_the_body_of_a_refused_request_is_not_read(keyed):
    async def body():
        raise AssertionError("it is read")
        yield b""

    assert (await keyed.post("/generate", content=body())).status_code == 401
