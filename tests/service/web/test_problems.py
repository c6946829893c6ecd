from __future__ import annotations

import json
import re
import threading

import httpx
import pytest
from playwright.async_api import expect

pytestmark = pytest.mark.anyio

WORDS = "a green hill under a clear sky with a river and a rainbow"
LONG = {"prompt": "a sea under a night sky", "num_inference_steps": 1000, "cache": "off", "stream": True}


async def test_a_full_queue_is_said_kindly_with_a_countdown_and_a_way_to_try_again(visitor):
    visit = await visitor(foreseen=("429",))
    await visit.page.clock.install()
    await visit.open()
    await visit.set_quick()
    async with (
        httpx.AsyncClient(base_url=visit.url, timeout=60) as client,
        client.stream("POST", "/generate", json=LONG) as running,
    ):
        lines = running.aiter_lines()  # held: when it goes, so does the connection, and the job with it
        assert await anext(lines) == "event: accepted"
        await visit.say(WORDS)
        await expect(visit["#problem"]).to_contain_text("The service is busy just now")
        seconds = int((await visit["#problem .countdown"].text_content()).split()[-2])
        await visit.page.clock.run_for(1000)
        left = f"It should have time in {seconds - 1} s." if seconds > 1 else "It should have time now."
        await expect(visit["#problem .countdown"]).to_have_text(left)
        await visit.page.clock.run_for(1000 * seconds)
        await expect(visit["#problem .countdown"]).to_have_text("It should have time now.")
        await visit.photograph("busy")
    await visit.page.clock.resume()
    while await visit["#problem button"].is_visible():  # until the long job has left its last step
        await visit["#problem button"].click()
        await expect(visit["#stop"]).to_be_hidden()
    await expect(visit["#status"]).to_have_text("Done.")
    await expect(visit["#words"]).to_have_value(WORDS)


async def test_a_key_is_asked_for_and_kept_for_the_session_only(visitor, serve):
    key, url = await serve.with_a_key()
    visit = await visitor(url, foreseen=("401", "503"))
    await visit.page.goto(url)
    await expect(visit["#key"]).to_be_focused()
    await expect(visit["#key-refused"]).to_be_hidden()
    await visit["#key"].fill("not-the-key")
    await visit.page.keyboard.press("Enter")
    await expect(visit["#key-refused"]).to_be_visible()
    await visit.photograph("key")
    await visit["#key"].fill(key)
    await visit.page.keyboard.press("Enter")
    await expect(visit["#known .chip"]).not_to_have_count(0)
    assert await visit.page.evaluate("sessionStorage.getItem('retouch-key')") == key
    assert key not in await visit.page.evaluate("JSON.stringify(localStorage)")
    await visit.page.reload()
    await expect(visit["#known .chip"]).not_to_have_count(0)
    await visit.set_quick()
    await visit.say(WORDS)
    await visit.done()
    await visit.page.reload()  # what is fetched again is fetched with the key
    await expect(visit["#words"]).to_have_value(WORDS)
    await expect(visit["#download"]).to_have_attribute("href", re.compile("^blob:"))


async def test_a_key_with_a_sign_that_nobody_sees_is_refused_and_asked_for_again(visitor, serve):
    key, url = await serve.with_a_key()
    visit = await visitor(url, foreseen=("401", "503"))
    await visit.page.goto(url)
    await visit["#key"].fill(f"{key}\u200b")
    await visit.page.keyboard.press("Enter")
    await expect(visit["#key-refused"]).to_be_visible()
    await expect(visit["#key"]).to_be_focused()
    await expect(visit["#problem"]).to_be_empty()
    await visit["#key"].fill(f" {key} ")
    await visit.page.keyboard.press("Enter")
    await expect(visit["#known .chip"]).not_to_have_count(0)


async def test_a_key_is_kept_only_once_it_was_accepted(visitor, serve):
    _, url = await serve.with_a_key()
    visit = await visitor(url, foreseen=("401",))
    await visit.page.goto(url)
    await visit["#key"].fill("not-the-key")
    await visit.page.keyboard.press("Enter")
    await expect(visit["#key-refused"]).to_be_visible()
    assert await visit.page.evaluate("sessionStorage.length") == 0
    await visit.page.reload()
    await expect(visit["#key"]).to_be_focused()
    await expect(visit["#key-refused"]).to_be_hidden()


async def test_who_has_no_key_is_told_so(visitor, serve):
    _, url = await serve.with_a_key()
    visit = await visitor(url, foreseen=("401",))
    await visit.page.goto(url)
    await expect(visit["#key"]).to_be_focused()
    await visit.page.keyboard.press("Escape")
    await expect(visit["#problem"]).to_contain_text("A key is needed")


async def test_a_model_that_is_loading_is_waited_for(visitor, serve):
    may_load = threading.Event()
    url = await serve.loading(may_load)
    visit = await visitor(url, foreseen=("503",))
    await visit.page.clock.install()
    await visit.page.goto(url)
    await expect(visit["#status"]).to_have_text("The model is loading…")
    may_load.set()
    await serve.ready(url)
    await visit.page.clock.run_for(10_000)
    await expect(visit["#known .chip"]).not_to_have_count(0)
    await expect(visit["#status"]).to_have_text("")


async def test_a_lost_connection_loses_nothing_else(visitor):
    visit = await visitor(foreseen=("ERR_INTERNET_DISCONNECTED",))
    await visit.open()
    await visit.set_quick()
    await visit.page.context.set_offline(True)
    await visit.say(WORDS)
    await expect(visit["#problem"]).to_contain_text("The connection was lost")
    await expect(visit["#words"]).to_have_value(WORDS)
    await visit.page.context.set_offline(False)
    await visit["#problem"].get_by_role("button", name="Try again").click()
    await visit.done()


@pytest.mark.parametrize(
    ("status", "name", "said"),
    [
        (429, "limit", "Your key has done as much as it may for now."),
        (422, "input", "Seed: must be a number."),
        (500, "failed", "Something went wrong"),
        (503, "not-ready", "The service is not ready yet"),
        (504, "deadline", "It took too long"),
    ],
)
async def test_each_problem_has_words_of_its_own(visitor, status, name, said):
    visit = await visitor(foreseen=(str(status),))
    await visit.open()
    problem = {
        "type": f"urn:retouch:problem:{name}",
        "title": "x",
        "status": status,
        "detail": "seed: must be a number",
    }
    await visit.page.route("**/generate", lambda route: route.fulfill(status=status, json=problem))
    await visit.say(WORDS)
    await expect(visit["#problem"]).to_contain_text(said)
    await expect(visit["#go"]).to_be_enabled()


@pytest.mark.parametrize(
    ("problem", "where", "said"),
    [
        ({"status": 504, "detail": "the deadline is over"}, "#problem", "It took too long"),
        (
            {"status": 429, "detail": "the queue is full", "retry_after_seconds": 12.3},
            "#problem .countdown",
            "It should have time in 13 s.",
        ),
    ],
)
async def test_a_stream_that_ends_with_an_error_says_it(visitor, problem, where, said):
    visit = await visitor()
    await visit.page.clock.install()
    await visit.open()
    frames = (
        'event: accepted\ndata: {"image_id": "a", "source_id": null, "num_inference_steps": 4}\n\n'
        f": still here\n\nevent: error\ndata: {json.dumps(problem)}\n\n"
    )
    await visit.page.route("**/generate", lambda route: route.fulfill(body=frames, content_type="text/event-stream"))
    await visit.say(WORDS)
    await expect(visit[where]).to_contain_text(said)
