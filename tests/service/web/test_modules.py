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


@pytest.mark.parametrize(
    ("computed", "dense", "said"),
    [(100, 310, "3.1\u00d7 less work"), (100, 102, "1\u00d7 the work"), (310, 100, "3.1\u00d7 the work")],
)
async def test_the_receipt_says_less_work_only_where_it_is_less(call, computed, dense, said):
    receipt = {
        "source_id": "s", "macs_computed": computed, "macs_dense": dense, "edited_ratio": 0.001,
        "seconds": {"total": 0.256}, "unknown_words": [], "fallbacks": [{"stage": "mask", "reason": "it is empty"}],
    }  # fmt: skip
    code = """({ facts, remarks }, receipt) =>
        [...facts(receipt, 4).map(({ figure, text }) => `${figure} ${text}`), ...remarks(receipt)]"""
    told = await call("receipt", code, receipt)
    assert told[0].startswith("under 1\u202f% of the picture")
    assert told[1].startswith(said)
    assert told[2:] == ["0.26\u202fs for this change; the drawing took 4\u202fs", "It is empty."]


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
