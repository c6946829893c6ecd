from __future__ import annotations

import pytest

pytestmark = pytest.mark.anyio

FRAMES = (
    ': hello\r\n\r\nevent: mask\r\ndata: {"a": 1}\r\n\r\ndata: {"b":\ndata: "\u00e9"}\n\nevent: receipt\ndata: {}\n\n'
)


@pytest.fixture(scope="module")
async def call(chromium, service):
    """Calls a function of a module of the page, in the browser."""
    page = await chromium.new_page()
    await page.goto(service.url)

    async def run(module, code, *arguments):
        body = f"async (given) => {{ const m = await import('/web/{module}.js'); return ({code})(m, ...given); }}"
        return await page.evaluate(body, list(arguments))

    yield run
    await page.close()


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
async def test_events_are_read_wherever_the_network_cuts_them(call, size):
    read = """async ({ readEvents }, text, size) => {
        const bytes = new TextEncoder().encode(text);
        const body = new ReadableStream({ start(to) {
            for (let at = 0; at < bytes.length; at += size) to.enqueue(bytes.slice(at, at + size));
            to.close();
        } });
        const got = [];
        for await (const { event, data } of readEvents(body)) got.push([event, data]);
        return got;
    }"""
    got = await call("sse", read, FRAMES, size)
    assert got == [["mask", {"a": 1}], ["message", {"b": "\u00e9"}], ["receipt", {}]]


@pytest.mark.parametrize(
    ("before", "after", "removed", "added"),
    [
        ("a clear sky", "a night sky", ["clear"], ["night"]),
        ("a sky", "a sky with a moon", [], ["with", "a", "moon"]),
        ("a red house and a tree", "a tree", ["red", "house", "and", "a"], []),
        ("A Sky", "a sky", [], []),
        ("", "l\u2019\u00e9t\u00e9", [], ["l\u2019\u00e9t\u00e9"]),
    ],
)
async def test_what_changed_between_two_prompts(call, before, after, removed, added):
    code = "({ changes }, a, b) => { const c = changes(a, b); return [c.removed, c.added.map(({ word }) => word)]; }"
    assert await call("words", code, before, after) == [removed, added]


def receipt(**fields):
    """Of an edit that waited four seconds for its turn and took one from there."""
    return {
        "source_id": "s", "macs_computed": 100, "macs_dense": 340, "edited_ratio": 0.11,
        "seconds": {"queue": 4, "total": 5}, "unknown_words": [], "fallbacks": [], **fields,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "drawn_seconds", "said"),
    [
        ({}, 3.1, "3.1\u00d7 faster than drawing it again"),
        ({}, None, "3.4\u00d7 less work than drawing it again"),
        ({}, 0.9, "3.4\u00d7 less work than drawing it again"),
        ({"macs_computed": 335}, 1, "as much work as drawing it again"),
        ({"macs_computed": 1020}, 0.5, "3.0\u00d7 the work of drawing it again"),
    ],
)
async def test_a_receipt_is_one_sentence_of_the_time_that_was_saved_or_else_of_the_work(
    call, fields, drawn_seconds, said
):
    code = "({ sentence }, ...given) => sentence(...given)"
    told = await call("receipt", code, receipt(**fields), drawn_seconds)
    assert told == f"Recomputed 11\u202f% of the picture, {said}."


async def test_a_receipt_says_small_parts_and_what_was_not_done_as_asked(call):
    code = "({ sentence, remarks }, receipt) => [sentence(receipt), ...remarks(receipt)]"
    fallbacks = [{"stage": "mask", "reason": "it is empty"}]
    told = await call("receipt", code, receipt(edited_ratio=0.001, fallbacks=fallbacks))
    assert told[0].startswith("Recomputed under 1\u202f% of the picture, ")
    assert told[1:] == ["It is empty."]


async def test_drawing_took_what_it_took_without_the_queue_and_only_where_something_was_drawn(call):
    code = """({ Edits }, receipts) => receipts.map((receipt) => {
        const edits = new Edits({ getItem: () => null, setItem: () => {}, removeItem: () => {} });
        edits.add({ id: "root", parent: null }, receipt);
        edits.put({ id: "child", parent: "root" });
        return edits.drawnSeconds("child");
    })"""
    drawn = receipt(source_id=None)
    assert await call("edits", code, [drawn, drawn | {"macs_computed": 0}, receipt()]) == [1, None, None]


async def test_a_tree_that_grows_too_large_forgets_its_oldest_pictures_but_not_the_current_ones(call):
    code = """({ Edits }) => {
        const edits = new Edits({ getItem: () => null, setItem: () => {}, removeItem: () => {} });
        for (const id of ["first", "second"]) edits.put({ id, parent: null });
        edits.put({ id: "child", parent: "first" });
        edits.select("child");
        for (let i = 0; i < 200; i++) edits.put({ id: `p${i}`, parent: null });
        return [edits.size, ...["first", "child", "second", "p0", "p199"].map((id) => edits.get(id) !== null)];
    }"""
    assert await call("edits", code) == [150, True, True, False, False, True]
