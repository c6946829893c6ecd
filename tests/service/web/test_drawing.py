from __future__ import annotations

import io
import json

import httpx
import pytest
from PIL import Image
from playwright.async_api import expect

pytestmark = pytest.mark.anyio


async def test_one_click_on_an_example_draws_it(visitor):
    visit = await visitor()
    await visit.open()
    await visit.photograph("start")
    await visit.set_quick()
    example = visit["#ideas .chip"].nth(2)
    words = await example.text_content()
    await example.click()
    await visit.done()
    await expect(visit["#words"]).to_have_value(words)
    await expect(visit["#receipt"]).to_contain_text("Drawn in ")
    assert await visit.tree() == [(words, "1", "true")]
    await visit.photograph("drawn")


async def test_what_is_shown_is_the_picture_that_the_service_keeps(visitor):
    visit = await visitor()
    await visit.draw()
    async with httpx.AsyncClient() as client:
        png = (await client.get(await visit.picture_url())).content
    with Image.open(io.BytesIO(png)) as picture:
        assert await visit.pixels() == list(picture.convert("RGBA").tobytes())


async def test_a_picture_is_seen_forming(visitor):
    visit = await visitor()
    await visit.draw("a forest under a cloudy sky")
    seen = [json.loads(one) for one in await visit.page.evaluate("window.seen")]
    steps = {one["step"] for one in seen if one.get("busy") == "true"}
    assert {"1", "2"} <= steps


async def test_every_example_and_every_idea_is_of_words_that_the_model_knows(visitor):
    visit = await visitor()
    await visit.open()
    told = await visit.page.evaluate("""async () => {
        const { beginnings, variations } = await import("/web/ideas.js");
        const { unknownIn } = await import("/web/words.js");
        const { words } = await (await fetch("/model")).json();
        const first = beginnings(null).map((idea) => idea.prompt);
        const next = first.flatMap((prompt) => variations(prompt, null).map((idea) => idea.prompt));
        const later = next.flatMap((prompt) => variations(prompt, null).map((idea) => idea.prompt));
        const all = [...first, ...next, ...later];
        const counts = { first: first.length, next: next.length };
        return { ...counts, unknown: all.flatMap((prompt) => unknownIn(prompt, new Set(words))) };
    }""")
    assert told["unknown"] == []
    assert (told["first"], told["next"] > told["first"]) == (4, True)


async def test_a_picture_can_be_downloaded_under_a_name_of_its_words(visitor):
    visit = await visitor()
    await visit.draw()
    async with visit.page.expect_download() as download:
        await visit["#download"].click()
    file = await download.value
    assert file.suggested_filename.startswith("a-snow-mountain-under-a-clear-sky-")
    with Image.open(await file.path()) as picture:
        assert picture.size == (128, 128)


async def test_drawing_anew_makes_another_picture_of_the_same_words(visitor):
    visit = await visitor()
    await visit.draw()
    before = await visit.pixels()
    await visit["#again"].click()
    await expect(visit["#tree [role=treeitem]"]).to_have_count(2)
    await visit.done()
    assert await visit.pixels() != before


async def test_escape_stops_a_drawing_and_the_service_is_free_again(visitor):
    visit = await visitor()
    await visit.open()
    await visit["#settings summary"].click()
    await visit["#steps"].fill("1000")
    await visit.say("a desert under a night sky")
    await expect(visit["#status"]).to_have_text("Drawing…")
    await visit.photograph("drawing")
    await visit.page.keyboard.press("Escape")
    await expect(visit["#status"]).to_have_text("Stopped.")
    await expect(visit["#words"]).to_have_value("a desert under a night sky")
    await expect(visit["body"]).to_have_attribute("data-view", "start")


async def test_settings_are_those_of_the_model_until_they_are_given(visitor):
    visit = await visitor()
    await visit.open()
    await visit["#settings summary"].click()
    await expect(visit["#steps"]).to_have_attribute("placeholder", "20")
    await visit["#steps"].fill("2")
    await visit["#seed"].fill("7")
    await visit["#width"].fill("64")
    async with visit.page.expect_request("**/generate") as request:
        await visit.say("a sea under a clear sky")
    body = (await request.value).post_data_json
    assert {name: body[name] for name in ("num_inference_steps", "seed", "width")} == {
        "num_inference_steps": 2, "seed": 7, "width": 64,
    }  # fmt: skip
    assert "height" not in body
    await visit.done()
    assert len(await visit.pixels()) == 4 * 64 * 256
