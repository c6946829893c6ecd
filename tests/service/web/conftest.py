"""The page in a real browser, before a real server with the embedded model."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from playwright.async_api import Browser, BrowserContext, Locator, Page, Response, async_playwright, expect

from cache_store.store import Store
from service.api.keys import make_key
from service.app import create_app
from service.batching.policy import Limits
from service.engine.weights import Model
from service.settings import Settings
from service.workers import Worker
from service.workers.local import open_local
from service.workers.models import open_model

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SCREENSHOTS = Path(__file__).parents[3] / "build" / "screenshots"
GUARD_MILLISECONDS = 20_000  # what hangs fails
QUICK = {"steps": 3, "width": 128, "height": 128}  # settings of pictures: how good they are is for other tests
SOURCE = "a snow mountain under a clear sky"
EDITED = "a snow mountain under a clear sky with a red house"

WATCH = """
window.seen = [];
const watch = () => new MutationObserver(() => {
  const { veil, busy } = document.getElementById("frame").dataset;
  const step = document.getElementById("progress").getAttribute("aria-valuenow");
  const now = JSON.stringify({ veil, busy, step });
  if (window.seen.at(-1) !== now) window.seen.push(now);
}).observe(document.getElementById("stage"), { attributes: true, subtree: true });
addEventListener("DOMContentLoaded", watch);
"""  # what a visitor may see for some milliseconds only

expect.set_options(timeout=GUARD_MILLISECONDS)


@dataclass
class Served:
    """A running service."""

    url: str
    app: FastAPI


@asynccontextmanager
async def serving(settings: Settings, **options: Any) -> AsyncIterator[Served]:
    """The application behind a port of this machine; requests wait until it has begun."""
    app = create_app(settings, **options)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve([listener]))
        try:
            yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", app)
        finally:
            server.should_exit = True
            await running


@dataclass
class Visit:
    """One visitor: a browser's window on the page, and what the page complained of."""

    page: Page
    url: str
    seed: int | None = None  # of pictures that no other test may have drawn or edited
    complaints: list[str] = field(default_factory=list)

    def __getitem__(self, selector: str) -> Locator:
        return self.page.locator(selector)

    async def open(self) -> None:
        """The page, when it knows the model."""
        await self.page.goto(self.url)
        await expect(self["#known .chip"]).not_to_have_count(0)

    async def set_quick(self) -> None:
        """As a visitor sets them."""
        await self["#settings summary"].click()
        for name, value in QUICK.items():
            await self[f"#{name}"].fill(str(value))
        if self.seed is not None:
            await self["#seed"].fill(str(self.seed))
        await self["#settings summary"].click()

    async def say(self, words: str) -> None:
        """Words into the field, and off they go."""
        await self["#words"].fill(words)
        await self["#words"].press("Enter")

    async def done(self) -> None:
        """The job has come to its end."""
        await expect(self["#status"]).to_have_text("Done.")

    async def draw(self, words: str = SOURCE) -> None:
        """A first picture."""
        await self.open()
        await self.set_quick()
        await self.say(words)
        await self.done()

    async def change(self, words: str = EDITED) -> None:
        """The picture that is shown, by other words."""
        await self.say(words)
        await self.done()

    async def pixels(self, canvas: str = "#after") -> list[int]:
        """Red, green, blue and alpha of all pixels of a canvas."""
        got: list[int] = await self[canvas].evaluate("""canvas => {
            const copy = new OffscreenCanvas(canvas.width, canvas.height);
            const context = copy.getContext("2d", { willReadFrequently: true });
            context.drawImage(canvas, 0, 0);
            return [...context.getImageData(0, 0, copy.width, copy.height).data];
        }""")
        return got

    async def kept(self) -> dict[str, Any]:
        """The tree as the browser's storage has it."""
        got: dict[str, Any] = await self.page.evaluate("JSON.parse(localStorage.getItem('retouch-edits'))")
        return got

    async def tree(self) -> list[tuple[str | None, str | None, str | None]]:
        """Words, level and whether it is the current one, of all pictures in the order of reading."""
        items = await self["#tree [role=treeitem]"].all()
        names = ("title", "aria-level", "aria-selected")
        return [tuple([await item.get_attribute(name) for name in names]) for item in items]

    async def picture_url(self) -> str:
        """Of the current picture."""
        return f"{self.url}/images/{(await self.kept())['current']}"

    async def photograph(self, name: str) -> None:
        """A picture of the page for people, in build/screenshots."""
        await self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


Visitor = Callable[..., Awaitable[Visit]]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
async def chromium() -> AsyncIterator[Browser]:
    path = shutil.which("chromium")
    assert path, "there is no chromium; `make test` installs it"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
async def service() -> AsyncIterator[Served]:
    """The embedded model; one job at a time, none may wait."""
    async with serving(Settings(device="cpu", threads=1, running_jobs=1, queue_jobs=0)) as served:
        await _ready(served.url)
        yield served


@dataclass
class Serve:
    """Services of other kinds, for one test."""

    stack: AsyncExitStack

    async def with_a_key(self) -> tuple[str, str]:
        """(key, URL) of one that asks for it."""
        key, entry = make_key("ann")
        settings = Settings(device="cpu", threads=1, api_keys=entry)
        return key, (await self.stack.enter_async_context(serving(settings))).url

    async def loading(self, may_load: threading.Event) -> str:
        """URL of one whose model comes when it may."""

        def open_model_then() -> Model:
            assert may_load.wait(GUARD_MILLISECONDS / 1000)
            return open_model("postcard", device="cpu", num_threads=1)

        def open_worker(settings: Settings) -> Worker:
            limits = Limits(settings.running_jobs, settings.step_images)
            return open_local(open_model_then, Store(0), queue_jobs=0, limits=limits)

        self.stack.callback(may_load.set)
        return (await self.stack.enter_async_context(serving(Settings(), open_worker=open_worker))).url

    async def ready(self, url: str) -> None:
        """Returns when the model is there."""
        await _ready(url)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:
        yield Serve(stack)


@pytest.fixture
async def visitor(chromium: Browser, service: Served) -> AsyncIterator[Visitor]:
    """Makes visits. After the test none of the pages may have complained of what was not foreseen."""
    async with AsyncExitStack() as stack:
        visits: list[Visit] = []

        async def make(
            url: str = service.url, foreseen: tuple[str, ...] = (), seed: int | None = None, **options: Any
        ) -> Visit:
            context = await chromium.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
            stack.push_async_callback(context.close)
            visit = Visit(await _watched(context), url, seed)
            visits.append(visit)
            _listen(visit, foreseen)
            return visit

        yield make
        assert [complaint for visit in visits for complaint in visit.complaints] == []


async def _ready(url: str) -> None:
    async with httpx.AsyncClient() as client:
        while (await client.get(f"{url}/readyz")).is_error:
            pass


async def _watched(context: BrowserContext) -> Page:
    await context.add_init_script(WATCH)
    context.set_default_timeout(GUARD_MILLISECONDS)
    return await context.new_page()


def _listen(visit: Visit, foreseen: tuple[str, ...]) -> None:
    """Errors and warnings of scripts, of the policy and of requests, but for texts that hold one of `foreseen`."""

    def complain(text: str) -> None:
        if not any(part in text for part in foreseen):
            visit.complaints.append(text)

    def answered(response: Response) -> None:
        if not response.url.startswith((visit.url, "blob:", "data:")):
            visit.complaints.append(f"asked elsewhere: {response.url}")

    visit.page.on("console", lambda message: complain(message.text) if message.type in {"error", "warning"} else None)
    visit.page.on("pageerror", lambda error: complain(str(error)))
    visit.page.on("response", answered)
