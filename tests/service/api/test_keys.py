from __future__ import annotations

import asyncio

import pytest

from service.api.keys import Keys, digest_of, make_key
from service.errors import InputError, UnauthorizedError

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 30  # a test that hangs fails
ANN = {"authorization": "Bearer ann-key"}
BOB = {"authorization": "Bearer bob-key"}
DRAW = {"prompt": "a zebra"}


def test_a_new_key_is_known_by_its_entry():
    key, entry = make_key("ann")
    assert key not in entry
    assert Keys.parse(f" bob:{digest_of('x')} , {entry},").tenant_of(f"bearer  {key} ") == "ann"
    assert make_key("ann")[0] != key


@pytest.mark.parametrize("name", ["", "ann bob", "ann:bob", "ann,bob", "-ann", "é", "a" * 65])
def test_a_name_that_would_break_the_setting_is_refused(name):
    with pytest.raises(InputError, match="name"):
        make_key(name)


@pytest.mark.parametrize("entries", ["ann", "ann:", "ann:abc", f":{'0' * 64}", f"ann:{'A' * 64}", f"ann {'0' * 64}"])
def test_an_entry_that_is_none_is_refused(entries):
    with pytest.raises(InputError, match="RETOUCH_API_KEYS"):
        Keys.parse(entries)


def test_a_name_may_have_two_keys_but_a_key_one_name():
    both = Keys.parse(f"ann:{digest_of('old')},ann:{digest_of('new')}")
    assert both.tenant_of("Bearer old") == both.tenant_of("Bearer new") == "ann"
    with pytest.raises(InputError, match="twice"):
        Keys.parse(f"ann:{digest_of('x')},bob:{digest_of('x')}")


def test_without_keys_everybody_is_one_tenant():
    assert Keys.parse("").tenant_of(None) == Keys.parse(" ,").tenant_of("Bearer whatever") == ""


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic ann-key", "ann-key", "Bearer ann-key2"])
def test_what_is_no_known_key_is_refused(header):
    with pytest.raises(UnauthorizedError):
        Keys.parse(f"ann:{digest_of('ann-key')}").tenant_of(header)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/generate"),
        ("POST", "/edit"),
        ("GET", "/images/x"),
        ("GET", "/images/x/mask"),
        ("GET", "/images/x/lineage"),
        ("DELETE", "/images/x"),
        ("GET", "/model"),
    ],
)
async def test_every_route_asks_for_a_key(keyed, method, path):
    response = await keyed.request(method, path, content=b"{")
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="retouch"'
    assert response.json()["type"] == "urn:retouch:problem:unauthorized"


async def test_health_needs_no_key(keyed):
    assert (await keyed.get("/healthz")).status_code == (await keyed.get("/readyz")).status_code == 200


async def test_jobs_are_the_keys(keyed, scripts):
    assert (await keyed.post("/generate", json=DRAW, headers=ANN)).status_code == 200
    assert (await keyed.post("/edit", json=DRAW, headers=BOB)).status_code == 200
    assert [job.tenant for job in scripts.jobs] == ["ann", "bob"]


async def test_a_key_may_run_so_many_jobs_at_a_time(keyed, scripts):
    scripts.may_step.clear()
    running = asyncio.create_task(keyed.post("/generate", json=DRAW, headers=ANN))
    await asyncio.to_thread(scripts.begun.wait, GUARD_SECONDS)
    refused = await keyed.post("/generate", json=DRAW, headers=ANN)
    others = asyncio.create_task(keyed.post("/generate", json=DRAW, headers=BOB))
    scripts.may_step.set()
    assert refused.status_code == 429
    assert refused.json()["type"] == "urn:retouch:problem:limit"
    assert 1 <= int(refused.headers["retry-after"]) <= 10
    assert [(await one).status_code for one in (running, others)] == [200, 200]
    assert (await keyed.post("/generate", json=DRAW, headers=ANN)).status_code == 200


async def test_a_key_may_send_so_many_requests_a_minute(keyed):
    statuses = [(await keyed.get("/images/x", headers=ANN)).status_code for _ in range(11)]
    assert statuses == [404] * 10 + [429]
    assert (await keyed.get("/images/x", headers=BOB)).status_code == 404
