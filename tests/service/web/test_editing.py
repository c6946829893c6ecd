from __future__ import annotations

import io
import json

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.async_api import expect

pytestmark = pytest.mark.anyio

PASTED = 8  # pixels beyond the mask in which the new region blends into the source


async def test_words_change_what_they_touch_and_nothing_else(visitor):
    visit = await visitor()
    await visit.draw()
    before = np.array(await visit.pixels()).reshape(128, 128, 4)
    await visit.change()
    after = np.array(await visit.pixels()).reshape(128, 128, 4)
    async with httpx.AsyncClient() as client:
        png = (await client.get(f"{await visit.picture_url()}/mask")).content
    with Image.open(io.BytesIO(png)) as mask:
        white = np.asarray(mask.convert("L")) > 0
    reach = np.zeros_like(white)
    for y, x in zip(*np.nonzero(white), strict=True):
        reach[max(0, y - PASTED) : y + PASTED + 1, max(0, x - PASTED) : x + PASTED + 1] = True
    changed = (before != after).any(-1)
    assert changed.any()
    assert not changed[~reach].any()
    assert (np.array(await visit.pixels("#before")).reshape(128, 128, 4) == before).all()
    await visit.photograph("edited")


async def test_the_mask_is_seen_first_and_then_the_region_refines(visitor):
    visit = await visitor()
    await visit.draw()
    await visit.page.evaluate("window.seen = []")
    await visit.change("a snow mountain under a clear sky with a yellow house")
    seen = [json.loads(one) for one in await visit.page.evaluate("window.seen")]
    veils = [one["veil"] for one in seen]
    first = veils.index("full")
    assert all(one["step"] is None for one in seen[:first])
    assert veils.index("outline") > first
    assert veils[-1] == "none"


async def test_the_receipt_says_what_was_saved_in_plain_words(visitor):
    visit = await visitor()
    await visit.draw("a mountain under a sunset sky")
    await visit.change("a mountain under a sunset sky with a tent")
    kept = await visit.kept()
    drawn, edit = [one["receipt"] for one in kept["pictures"]]
    said = await visit.page.evaluate(
        "async ([drawn, edit]) => { const { sentence, ownSeconds } = await import('/web/receipt.js');"
        " return sentence(edit, ownSeconds(drawn)); }",
        [drawn, edit],
    )  # whether time was saved is a matter of the machine
    assert said.startswith(f"Recomputed {round(100 * edit['edited_ratio'])}\u202f% of the picture, ")
    await expect(visit["#receipt"]).to_have_text(said)


async def test_words_that_change_nothing_are_not_sent(visitor):
    visit = await visitor()
    await visit.draw()
    await visit["#words"].press("Enter")
    await expect(visit["#status"]).to_have_text("Change a word first.")


async def test_new_words_are_marked_and_those_that_went_are_told(visitor):
    visit = await visitor()
    await visit.draw()
    await visit["#words"].fill("a snow mountain under a night sky with a moon")
    assert await visit["#marks .fresh"].all_text_contents() == ["night", "with", "a", "moon"]
    await expect(visit["#hint del"]).to_have_text("clear")


async def test_a_word_that_the_model_does_not_know_is_marked_while_typing_and_after(visitor):
    visit = await visitor()
    await visit.open()
    await visit.set_quick()
    await visit["#words"].press_sequentially("a purple tree ")
    await expect(visit["#marks .unknown"]).to_have_text("purple")
    await expect(visit["#hint"]).to_have_text("The model does not know “purple”.")
    await visit.photograph("unknown-word")
    await visit["#words"].press("Enter")
    await visit.done()
    await expect(visit["#receipt"]).to_contain_text("The model does not know “purple”.")
    await expect(visit["#marks .unknown"]).to_have_text("purple")


async def test_what_is_typed_is_completed_by_words_that_the_model_knows(visitor):
    visit = await visitor()
    await visit.open()
    await visit["#words"].press_sequentially("a mo")
    assert await visit["#completions .chip"].all_text_contents() == ["moon", "mountain"]
    await expect(visit["#marks .unknown"]).to_have_count(0)
    await visit["#words"].press("Tab")
    await visit.page.keyboard.press("Tab")
    await visit.page.keyboard.press("Enter")
    await expect(visit["#words"]).to_have_value("a mountain")
    await expect(visit["#words"]).to_be_focused()
    await visit["#words"].press_sequentially(" under a nihgt")
    await expect(visit["#completions .chip"]).to_have_text(["night"])


async def test_the_divider_moves_by_keyboard(visitor):
    visit = await visitor()
    await visit.draw()
    await expect(visit["#divider"]).to_be_disabled()
    await visit.change()
    await visit["#divider"].focus()
    for _ in range(30):
        await visit.page.keyboard.press("ArrowRight")
    await expect(visit["#divider"]).to_have_attribute("aria-valuetext", "30 % before")
    await visit.photograph("compared")
    clip = await visit["#before"].evaluate("e => getComputedStyle(e).clipPath")
    assert "30%" in clip or "70%" in clip
    await visit.page.keyboard.press("End")
    await expect(visit["#divider"]).to_have_value("100")


async def test_what_changed_can_be_shown_again(visitor):
    visit = await visitor()
    await visit.draw()
    await expect(visit["#where"]).to_be_hidden()
    await visit.change()
    await visit["#where"].click()
    await expect(visit["#frame"]).to_have_attribute("data-veil", "full")
    await visit.photograph("what-changed")
    await visit["#where"].click()
    await expect(visit["#frame"]).to_have_attribute("data-veil", "none")
