from __future__ import annotations

import pytest
from axe_playwright_python.async_playwright import Axe

pytestmark = pytest.mark.anyio

OVERHANG = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everybody_can_read_what_the_api_takes(chromium, service, scheme):
    complaints: list[str] = []
    async with await chromium.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme) as context:
        page = await context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("response", lambda got: complaints.append(got.url) if not got.url.startswith(service.url) else None)
        await page.goto(f"{service.url}/docs")
        await page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert await page.evaluate(OVERHANG) == 0
        assert await page.evaluate("getComputedStyle(document.querySelector('table')).borderCollapse") == "collapse"
        found = (await Axe().run(page)).response["violations"]
    assert [f"{one['id']}: {one['nodes'][0]['html']}" for one in found] == []
    assert complaints == []
