from __future__ import annotations

import re
from functools import partial
from zlib import crc32

import httpx
import pytest
from playwright.async_api import expect

pytestmark = pytest.mark.anyio

SOURCE = "a snow mountain under a clear sky"
RED = "a snow mountain under a clear sky with a red house"
GONE = "The service no longer has this picture; the words can be drawn anew."
NIGHT = "a snow mountain under a night sky"


@pytest.fixture
def visitor(visitor, request):
    """Visits with pictures that no other test has made anything of."""
    return partial(visitor, seed=crc32(request.node.name.encode()) >> 1)


async def test_a_branch_begins_where_one_went_back_to(visitor):
    visit = await visitor()
    await visit.draw(SOURCE)
    await visit.change(RED)
    await visit["#undo"].click()
    await expect(visit["#words"]).to_have_value(SOURCE)
    await expect(visit["#undo"]).to_be_disabled()
    await visit.change(NIGHT)
    assert await visit.tree() == [(SOURCE, "1", "false"), (RED, "2", "false"), (NIGHT, "2", "true")]
    assert len(await visit["#tree path"].all()) == 2
    await visit.photograph("tree")


async def test_redo_goes_where_undo_came_from_also_by_keys(visitor):
    visit = await visitor()
    await visit.draw(SOURCE)
    await visit.change(RED)
    await visit["#undo"].click()
    await visit.change(NIGHT)
    await visit["#tree [role=treeitem]"].nth(1).click()
    await expect(visit["#words"]).to_have_value(RED)
    await visit.page.keyboard.press("Control+z")
    await expect(visit["#words"]).to_have_value(SOURCE)
    await visit.page.keyboard.press("Control+Shift+Z")
    await expect(visit["#words"]).to_have_value(RED)
    await expect(visit["#redo"]).to_be_disabled()


async def test_the_tree_is_walked_by_arrow_keys(visitor):
    visit = await visitor()
    await visit.draw(SOURCE)
    await visit.change(RED)
    await visit["#tree [aria-selected=true]"].focus()
    await visit.page.keyboard.press("ArrowLeft")
    await expect(visit["#tree :focus"]).to_have_attribute("title", SOURCE)
    await visit.page.keyboard.press("Enter")
    await expect(visit["#words"]).to_have_value(SOURCE)
    await expect(visit["#tree :focus"]).to_have_attribute("title", SOURCE)


async def test_pictures_are_there_again_after_a_reload(visitor):
    visit = await visitor()
    await visit.draw(SOURCE)
    await visit.change(RED)
    pixels, tree = await visit.pixels(), await visit.tree()
    await visit.page.reload()
    await expect(visit["#words"]).to_have_value(RED)
    await expect(visit["#frame"]).to_have_attribute("data-comparable", "true")
    assert (await visit.pixels(), await visit.tree()) == (pixels, tree)
    await expect(visit["#receipt"]).to_contain_text("of the picture, ")


async def test_the_tree_learns_from_the_service_what_this_browser_does_not_know(visitor):
    visit = await visitor()
    await visit.draw(SOURCE)
    source_id = (await visit.kept())["current"]
    async with httpx.AsyncClient(base_url=visit.url, timeout=60) as client:
        await client.post("/edit", json={"prompt": NIGHT, "image_id": source_id})
    await visit["#tree [role=treeitem]"].first.click()
    await expect(visit[f"#tree [title='{NIGHT}'] img"]).to_be_visible()


async def test_a_picture_that_the_service_forgot_is_still_seen_and_can_be_drawn_anew(visitor):
    visit = await visitor(foreseen=("404",))
    await visit.draw(SOURCE)
    async with httpx.AsyncClient() as client:
        await client.delete(await visit.picture_url())
    await visit.say(NIGHT)
    await expect(visit["#problem"]).to_contain_text("The service no longer has this picture")
    await visit.page.reload()
    await expect(visit["#tree [data-gone=true] img"]).to_be_visible()
    await expect(visit["#go"]).to_have_text("Draw it")
    await visit.set_quick()
    await visit["#go"].click()
    await visit.done()
    await expect(visit["#go"]).to_have_text("Change it")


async def test_a_picture_that_is_gone_is_not_offered_as_a_file_and_the_page_says_why_it_is_blurred(visitor):
    visit = await visitor(foreseen=("404",))
    await visit.draw(SOURCE)
    source_url = await visit.picture_url()
    await visit.change(RED)
    async with httpx.AsyncClient() as client:
        await client.delete(source_url)
    await visit.page.reload()
    await expect(visit["#download"]).to_have_attribute("download", re.compile("with-a-red-house"))
    await visit["#undo"].click()
    await expect(visit["#status"]).to_have_text(GONE)
    await expect(visit["#download"]).to_be_hidden()
    await expect(visit["#download"]).not_to_have_attribute("href", re.compile("."))
    await visit.photograph("gone")
    await visit.page.reload()
    await expect(visit["#status"]).to_have_text(GONE)
    await expect(visit["#download"]).to_be_hidden()
    await visit["#redo"].click()
    await expect(visit["#download"]).to_have_attribute("download", re.compile("with-a-red-house"))
    await expect(visit["#status"]).to_be_empty()


async def test_storage_that_holds_something_else_is_no_obstacle(visitor):
    visit = await visitor()
    await visit.page.add_init_script("localStorage.setItem('retouch-edits', '[no json')")
    await visit.open()
    await expect(visit["body"]).to_have_attribute("data-view", "start")


async def test_a_new_picture_leaves_the_others_where_they_are(visitor):
    visit = await visitor()
    await visit.draw(SOURCE)
    await visit["#fresh"].click()
    await expect(visit["#words"]).to_have_value("")
    await expect(visit["#go"]).to_have_text("Draw it")
    assert await visit.tree() == [(SOURCE, "1", "false")]


async def test_a_picture_is_deleted_once_that_was_confirmed_and_what_was_made_of_it_stays(visitor):
    visit = await visitor(foreseen=("404",))
    await visit.draw(SOURCE)
    url = await visit.picture_url()
    await visit.change(RED)
    await visit["#undo"].click()
    await expect(visit["#words"]).to_have_value(SOURCE)
    delete = visit.page.get_by_role("button", name="Delete this picture")
    await delete.press("Enter")
    await visit.page.keyboard.press("Escape")
    await expect(delete).to_be_focused()
    assert [name for name, *_ in await visit.tree()] == [SOURCE, RED]
    await delete.press("Enter")
    await expect(visit.page.get_by_role("dialog", name="Delete this picture?")).to_be_visible()
    await visit.photograph("delete")
    await visit.page.keyboard.press("Enter")
    await expect(visit["#status"]).to_have_text("Deleted.")
    await expect(visit["#words"]).to_be_focused()
    assert await visit.tree() == [(RED, "1", "false")]
    async with httpx.AsyncClient() as client:
        assert (await client.get(url)).status_code == 404
    await visit["#tree [role=treeitem]"].click()
    await expect(visit["#download"]).to_have_attribute("download", re.compile("with-a-red-house"))


async def test_a_deleted_edit_leads_back_to_what_it_was_made_of(visitor):
    visit = await visitor()
    await visit.draw(SOURCE)
    await visit.change(RED)
    await visit["#delete"].click()
    await visit["#delete-dialog"].get_by_role("button", name="Delete").click()
    await expect(visit["#words"]).to_have_value(SOURCE)
    assert await visit.tree() == [(SOURCE, "1", "true")]


async def test_all_that_this_browser_has_kept_is_forgotten_once_that_was_confirmed(visitor):
    visit = await visitor()
    await visit.draw(SOURCE)
    forget = visit.page.get_by_role("button", name="Forget all pictures in this browser")
    await forget.click()
    await visit["#forget-dialog"].get_by_role("button", name="Keep them").click()
    assert await visit.tree() == [(SOURCE, "1", "true")]
    await forget.press("Enter")
    await visit.page.keyboard.press("Enter")
    await expect(visit["#status"]).to_have_text("All is forgotten here.")
    await expect(visit["#history"]).to_be_hidden()
    await expect(visit["#words"]).to_be_focused()
    await expect(visit["#words"]).to_have_value("")
    assert await visit.page.evaluate("localStorage.length") == 0
    await visit.page.reload()
    await expect(visit["body"]).to_have_attribute("data-view", "start")
    assert await visit.tree() == []
