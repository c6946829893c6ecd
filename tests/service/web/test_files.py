from __future__ import annotations

import httpx
import pytest

from service.api.page import FILES, WEB

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(service):
    async with httpx.AsyncClient(base_url=service.url) as opened:
        yield opened


def test_every_file_of_the_page_is_served_and_no_other():
    assert {path.name for path in WEB.iterdir()} == FILES | {"index.html"}


@pytest.mark.parametrize("name", sorted(FILES))
async def test_a_file_says_what_it_is_and_that_it_is_to_be_asked_for_again(client, name):
    got = await client.get(f"/web/{name}")
    kinds = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
    assert got.headers["content-type"] == kinds[name.rpartition(".")[2]]
    assert got.headers["cache-control"] == "no-cache"
    assert got.content == (WEB / name).read_bytes()
    for tag in (got.headers["etag"], f'"other", W/{got.headers["etag"]}'):
        again = await client.get(f"/web/{name}", headers={"if-none-match": tag})
        assert (again.status_code, again.content) == (304, b"")


async def test_the_page_may_load_from_its_own_service_only(client):
    page = await client.get("/")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy.pop("img-src") == "'self' blob: data:"
    assert policy.pop("require-trusted-types-for") == "'script'"
    own = {name for name, sources in policy.items() if sources == "'self'"}
    assert own == {"script-src", "style-src", "connect-src"}
    assert {policy[name] for name in policy.keys() - own} == {"'none'"}
    assert {"default-src", "frame-ancestors", "base-uri", "form-action"} <= policy.keys()
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path", ["/web", "/web/", "/web/index.html", "/web/..%2fapp.py", "/web/%2e%2e/jobs.py", "/web/x"]
)
async def test_nothing_else_of_the_disk_is_served(client, path):
    assert (await client.get(path)).status_code == 404


async def test_a_head_request_has_the_headers_and_no_body(client):
    head, got = await client.head("/"), await client.get("/")
    assert (head.status_code, head.content) == (200, b"")
    assert {name: head.headers[name] for name in ("etag", "content-length")} == {
        "etag": got.headers["etag"], "content-length": str(len(got.content)),
    }  # fmt: skip
