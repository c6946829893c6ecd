from __future__ import annotations

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import expect

pytestmark = pytest.mark.anyio

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
OVERHANG = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
SOURCE = "a snow mountain under a clear sky"


async def violations(visit) -> list[str]:
    """What axe-core finds against the page, colours included."""
    found = await Axe().run(visit.page)
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found.response["violations"]]


async def busy_page(visit):
    """A visit with all there is to see: an edit, the brush, every section open, an unknown word."""
    await visit.draw(SOURCE)
    await visit.change()
    await visit["#mask"].click()
    await visit["#settings summary"].click()
    await visit["#known summary"].click()
    await visit["#words"].fill(f"{SOURCE} with a purple house")
    await expect(visit["#hint"]).to_contain_text("purple")


async def test_nothing_is_wider_than_a_phone(visitor):
    visit = await visitor(**PHONE)
    await visit.open()
    assert await visit.page.evaluate(OVERHANG) == 0
    await visit.photograph("phone-start")
    await busy_page(visit)
    assert await visit.page.evaluate(OVERHANG) == 0
    await visit.photograph("phone")


@pytest.mark.parametrize("width", [360, 320])
async def test_one_long_word_is_broken_wherever_it_is_told(visitor, width):
    visit = await visitor(**PHONE | {"viewport": {"width": width, "height": 740}})
    await visit.open()
    await visit.set_quick()
    word = "w" * 200
    await visit["#words"].fill(word)
    await expect(visit["#hint"]).to_contain_text(word)
    assert await visit.page.evaluate(OVERHANG) == 0
    await visit.say(word)
    await visit.done()
    await expect(visit["#receipt"]).to_contain_text(word)
    assert await visit.page.evaluate(OVERHANG) == 0
    await visit.photograph(f"long-word-{width}")


async def test_a_long_chain_scrolls_by_itself(visitor):
    visit = await visitor(**PHONE)
    await visit.draw(SOURCE)
    for end in (" with a tree", " with a red house", " with a river"):
        await visit.change(SOURCE + end)
    assert await visit.page.evaluate(OVERHANG) == 0
    assert await visit["#tree"].evaluate("e => e.scrollWidth > e.clientWidth && e.scrollLeft > 0")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everybody_can_read_and_use_it(visitor, scheme):
    visit = await visitor(color_scheme=scheme, reduced_motion="reduce")
    await visit.open()
    assert await violations(visit) == []
    await visit.photograph(f"start-{scheme}")
    await busy_page(visit)
    assert await violations(visit) == []
    await visit.photograph(f"all-{scheme}")
    luminance = await visit.page.evaluate("getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g)")
    assert (int(luminance[0]) > 128) == (scheme == "light")


async def test_whatever_is_pressed_is_large_enough_for_a_finger(visitor):
    visit = await visitor(**PHONE)
    await busy_page(visit)
    small = await visit.page.evaluate("""() => [...document.querySelectorAll("button, a, input, select, summary")]
        .filter((one) => one.checkVisibility())
        .map((one) => [one.id || one.textContent, (one.closest("label") ?? one).getBoundingClientRect()])
        .filter(([, { width, height }]) => width < 24 || height < 24)
        .map(([name, { width, height }]) => [name, width, height])""")
    assert small == []


async def test_nothing_moves_for_those_who_asked_for_stillness(visitor):
    visit = await visitor(reduced_motion="reduce")
    await visit.page.add_init_script(
        "window.moved = 0; for (const name of ['animationstart', 'transitionrun'])"
        " addEventListener(name, () => (window.moved += 1), true);"
    )
    await visit.draw(SOURCE)
    await visit.change(f"{SOURCE} with a blue house")
    assert await visit.page.evaluate("window.moved") == 0


async def test_all_of_it_is_reached_by_the_tab_key_and_shows_where_it_is(visitor):
    visit = await visitor()
    await visit.draw(SOURCE)
    await visit.change()
    await visit["#mask"].click()
    await visit["h1 a"].focus()
    reached = []
    for _ in range(80):
        await visit.page.keyboard.press("Tab")
        told = await visit.page.evaluate("""() => {
            const at = document.activeElement;
            const shown = at.id === "words" ? at.parentElement : at.name === "tip" ? at.nextElementSibling : at;
            const { outlineStyle, boxShadow } = getComputedStyle(shown);
            return [at.id || at.name || at.className || at.tagName, outlineStyle !== "none" || boxShadow !== "none"];
        }""")
        if told[0] == "BODY":
            break
        reached.append(told)
    names = [name for name, _ in reached]
    wanted = {"words", "go", "again", "undo", "where", "mask", "download", "brush", "tip", "tip-size", "mask-find",
              "mask-invert", "mask-clear", "mask-union", "chip", "fresh", "delete", "forget", "SUMMARY"}  # fmt: skip
    assert wanted - set(names) == set()
    assert [name for name, shows in reached if not shows] == []


async def test_what_happens_is_told_to_screen_readers(visitor):
    visit = await visitor()
    await visit.draw(SOURCE)
    await expect(visit.page.get_by_role("status")).to_have_text("Done.")
    await expect(visit.page.get_by_role("img", name=SOURCE)).to_be_visible()
    await expect(visit.page.get_by_role("treeitem", name=SOURCE, selected=True)).to_be_visible()
