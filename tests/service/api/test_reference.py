from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser

import pytest

from service.api.reference import page_of
from service.app import create_app
from service.settings import Settings

pytestmark = pytest.mark.anyio

OWN = {"web/docs.css", "web/icon.svg", "openapi.json"}
STRANGER = {"host": "evil.example"}


class Read(HTMLParser):
    """What a page says and asks for."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.links, self.ids, self.tags = [], [], set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.tags.add(tag)
        self.ids.add(named.get("id"))
        self.links += [named[name] for name in ("href", "src") if name in named]

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
async def described(client):
    return (await client.get("/openapi.json")).json()


@pytest.fixture
async def page(client):
    response = await client.get("/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    return Read(response.text)


async def test_the_page_tells_every_route_field_and_status(described, page):
    told = set(page.texts)
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            assert f"{method.upper()} {path}" in told
            assert set(operation["responses"]) <= told
            assert {one["name"] for one in operation.get("parameters", ())} <= told
    for schema in described["components"]["schemas"].values():
        assert set(schema["properties"]) <= told
    form = described["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) <= told


async def test_the_page_tells_ranges_defaults_and_examples(page):
    text = "".join(page.texts)
    assert "integer, from 64, to 2048, in steps of 8 or null" in text
    assert 'by default "read_write"' in text
    assert '"ddim" or "dpm++" or null' in text
    assert "list of Fallback" in text
    assert '"a snow mountain under a night sky with a red house"' in text
    assert "urn:retouch:problem:busy" in text


async def test_the_page_asks_for_its_own_style_and_for_nothing_from_elsewhere(client, page):
    assert "script" not in page.tags
    assert {link for link in page.links if not link.startswith("#")} == OWN
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    for link in OWN:
        assert (await client.get(f"/{link}")).status_code == 200
    policy = (await client.get("/docs")).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")


def test_what_is_described_is_no_html():
    info = {"title": "<s>", "version": "&", "description": "<script>"}
    field = {"type": "<ins>", "description": "`<u>` & <em>", "default": "<q>"}
    shape = {"properties": {"<tt>": field}, "examples": [{"<hr>": "<br>"}]}
    operation = {"description": "<h4>", "responses": {"<h5>": {"description": "<h6>", "headers": {"<dl>": {}}}}}
    paths = {"/<ul>": {"get": operation}}
    read = Read(page_of({"info": info, "paths": paths, "components": {"schemas": {'"<li>': shape}}}))
    assert not read.tags & {"s", "script", "ins", "u", "em", "q", "tt", "hr", "br", "h4", "h5", "h6", "dl", "ul", "li"}
    assert {"<u>", " & <em>", "<tt>", "<h5>", '"<li>'} <= set(read.texts)
    assert '"<li>' in read.ids


@pytest.mark.parametrize("path", ["/redoc", "/docs/oauth2-redirect"])
async def test_there_are_no_pages_of_the_framework(client, path):
    assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/metrics"])
async def test_without_keys_other_names_are_not_answered(open_client, path):
    async with open_client(metrics="open", open=True, hosts="retouch") as client:
        assert (await client.get(path, headers=STRANGER)).status_code == 403
        for host in ("localhost:8000", "retouch:8000", "10.0.0.7:8000"):
            assert (await client.get(path, headers={"host": host})).status_code == 200


async def test_with_keys_everybody_may_read_what_there_is(keyed):
    for path in ("/docs", "/openapi.json"):
        assert (await keyed.get(path, headers=STRANGER)).status_code == 200


@pytest.mark.parametrize(("method", "path"), [("GET", "/docs"), ("GET", "/openapi.json"), ("PUT", "/images/x")])
async def test_the_description_is_made_beside_the_loop(client, monkeypatch, method, path):
    """Whoever asks first waits for it, nobody else."""
    threads, make = [], client.app.openapi

    def openapi():
        threads.append(threading.current_thread())
        return make()

    monkeypatch.setattr(client.app, "openapi", openapi)
    assert (await client.request(method, path)).status_code in {200, 405}
    assert threads
    assert threading.main_thread() not in threads


def test_a_description_that_two_ask_for_at_once_is_made_once():
    app = create_app(Settings())
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: app.openapi(), range(8)))
    assert all(one is told[0] for one in told)
    assert told[0]["paths"]["/model"]["get"]["security"] == [{"HTTPBearer": []}, {}]
