from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from playwright.async_api import expect

pytestmark = pytest.mark.anyio

MOON = "a snow mountain under a clear sky with a moon"
PASTED = 8  # pixels beyond the mask in which the new region blends into the source


async def stroke(visit, *points):
    """The pointer along points of the picture, in parts of its width and height."""
    await visit["#brush"].hover()  # waits until it stands still and takes what comes
    box = await visit["#brush"].bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    await visit.page.mouse.move(*places[0])
    await visit.page.mouse.down()
    for place in places[1:]:
        await visit.page.mouse.move(*place, steps=4)
    await visit.page.mouse.up()


async def masking(visitor, **options):
    """A visit that has drawn a picture and opened the brush."""
    visit = await visitor(**options)
    await visit.draw()
    await visit["#mask"].click()
    await expect(visit["#painted"]).to_have_text("Nothing is painted yet.")
    return visit


def white(body) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(body["edit_mask"]))) as mask:
        return np.asarray(mask.convert("L")) >= 128


async def test_a_mask_by_hand_is_where_the_picture_changes(visitor):
    visit = await masking(visitor)
    before = np.array(await visit.pixels()).reshape(128, 128, 4)
    await stroke(visit, (0.6, 0.2), (0.85, 0.25))
    await visit.photograph("mask-by-hand")
    async with visit.page.expect_request("**/edit") as request:
        await visit.change(MOON)
    body = (await request.value).post_data_json
    painted = white(body)
    assert body["mask_mode"] == "given"
    assert painted[26, 80]
    assert painted[30, 100]
    assert not painted[100].any()
    changed = (np.array(await visit.pixels()).reshape(128, 128, 4) != before).any(-1)
    rows, columns = np.nonzero(painted)
    reach = (slice(max(0, rows.min() // 8 * 8 - PASTED), (rows.max() // 8 + 1) * 8 + PASTED),
             slice(columns.min() // 8 * 8 - PASTED, (columns.max() // 8 + 1) * 8 + PASTED))  # fmt: skip
    assert changed[reach].any()
    changed[reach] = False
    assert not changed.any()
    await expect(visit["#masking"]).to_be_hidden()


async def test_what_is_erased_is_not_painted(visitor):
    visit = await masking(visitor)
    await stroke(visit, (0.1, 0.5), (0.9, 0.5))
    await visit["#masking"].get_by_text("Erase").click()
    await stroke(visit, (0.6, 0.5), (0.9, 0.5), (1, 0.5))
    await visit["#mask-union"].check()
    async with visit.page.expect_request("**/edit") as request:
        await visit.say(MOON)
    await visit.done()
    body = (await request.value).post_data_json
    assert body["mask_mode"] == "union"
    assert white(body)[64, 30]
    assert not white(body)[64, 80:].any()


async def test_a_mask_is_drawn_inverted_and_cleared_by_keyboard(visitor):
    visit = await masking(visitor)
    await expect(visit["#brush"]).to_be_focused()
    await visit.page.keyboard.press("ArrowLeft")
    await visit.page.keyboard.press("Space")
    await expect(visit["#painted"]).to_have_text("1\u202f% is painted.")
    await visit["#mask-invert"].press("Enter")
    await expect(visit["#painted"]).to_have_text("99\u202f% is painted.")
    await visit["#mask-clear"].press("Enter")
    await expect(visit["#painted"]).to_have_text("Nothing is painted yet.")


async def test_the_keyboard_is_back_where_it_was_when_the_mask_goes(visitor):
    visit = await visitor()
    await visit.draw()
    await visit.change()
    await visit["#mask"].press("Enter")
    await expect(visit["#brush"]).to_be_focused()
    await visit.page.keyboard.press("Control+z")
    await expect(visit["#masking"]).to_be_hidden()
    await expect(visit["#mask"]).to_be_focused()


async def test_a_mask_can_begin_with_what_the_words_change(visitor):
    visit = await masking(visitor)
    await visit["#words"].fill("a snow mountain under a clear sky with a red house")
    async with visit.page.expect_response("**/edit") as answer:
        await visit["#mask-find"].click()
    found = await (await answer.value).json()
    await expect(visit["#painted"]).not_to_have_text("Nothing is painted yet.")
    async with visit.page.expect_request("**/edit") as request:
        await visit["#go"].click()
    await visit.done()
    sent = white((await request.value).post_data_json)
    assert sent.mean() == found["receipt"]["edited_ratio"]


async def test_an_empty_mask_is_not_sent_and_a_stopped_job_keeps_what_was_painted(visitor):
    visit = await masking(visitor)
    await visit.say(MOON)
    await expect(visit["#status"]).to_have_text("Paint where it may change first.")
    await stroke(visit, (0.6, 0.2), (0.85, 0.25))
    await expect(visit["#painted"]).to_contain_text("is painted")
    painted = await visit["#painted"].text_content()
    await visit.page.route("**/edit", lambda route: route.abort())
    await visit["#go"].click()
    await expect(visit["#problem"]).to_contain_text("The connection was lost")
    await visit.page.unroute("**/edit")
    await expect(visit["#brush"]).to_be_visible()
    await expect(visit["#painted"]).to_have_text(painted)
    await visit["#problem"].get_by_role("button").click()
    await visit.done()
    visit.complaints.clear()
