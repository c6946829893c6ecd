from __future__ import annotations

import re

import pytest
from structlog.testing import capture_logs

pytestmark = pytest.mark.anyio

NEW = re.compile("[0-9a-f]{32}")


@pytest.mark.parametrize("own", ["a", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "req_1.2:3", "x" * 100])
async def test_a_sane_id_is_echoed_and_logged(client, own):
    with capture_logs() as lines:
        response = await client.post("/generate", json={"prompt": "a zebra"}, headers={"x-request-id": own})
    assert response.headers["x-request-id"] == lines[-1]["request_id"] == own


@pytest.mark.parametrize("own", [None, "", "x" * 101, "a b", 'a"b', "a\tb", "\xe9", "\x1b[0m", "${jndi:ldap}"])
async def test_another_is_replaced(client, own):
    headers = [] if own is None else [(b"x-request-id", own.encode("latin-1"))]
    first = (await client.get("/healthz", headers=headers)).headers["x-request-id"]
    second = (await client.get("/healthz", headers=headers)).headers["x-request-id"]
    assert NEW.fullmatch(first)
    assert first != second


async def test_errors_have_it_and_defects_too(client):
    assert "x-request-id" in (await client.get("/nowhere")).headers
    assert "x-request-id" in (await client.post("/generate", json={})).headers
    client.app.state.worker = None
    response = await client.get("/images/x", headers={"x-request-id": "mine"})
    assert (response.status_code, response.headers["x-request-id"]) == (500, "mine")
