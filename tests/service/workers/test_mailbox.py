from __future__ import annotations

import asyncio

import pytest
from PIL import Image

from service.jobs import Accepted, Cancelled, ImageReady, Preview
from service.workers.mailbox import Mailbox

ACCEPTED, ENDING = Accepted("id", None, 3), Cancelled()
IMAGE = ImageReady("id", Image.new("RGB", (1, 1)))


def preview(step):
    return Preview(step, Image.new("RGB", (1, 1)), (0, 0, 1, 1))


def read_slowly(*events):
    """What a reader gets who asks for nothing until all has been put."""

    async def read():
        mailbox = Mailbox()
        for event in events:
            await asyncio.to_thread(mailbox.put, 0, event)
        got = []
        while not got or got[-1] is not ENDING:
            number, event = await mailbox.get()
            assert number == 0
            got.append(event)
        return got

    return asyncio.run(read())


def test_events_come_in_their_order():
    assert read_slowly(ACCEPTED, IMAGE, ENDING) == [ACCEPTED, IMAGE, ENDING]


def test_of_previews_in_a_row_the_newest_is_kept():
    first, newest, later = preview(1), preview(50), preview(60)
    many = [preview(step) for step in range(2, 50)]
    got = read_slowly(ACCEPTED, first, *many, newest, IMAGE, later, ENDING)
    assert got == [ACCEPTED, newest, IMAGE, later, ENDING]


def test_the_newest_preview_of_each_job_is_kept():
    async def read():
        mailbox = Mailbox()
        for step in range(1, 20):
            for number in range(2):
                mailbox.put(number, preview(step))
        await asyncio.sleep(0)
        return [await mailbox.get() for _ in range(2)]

    assert [(number, event.step) for number, event in asyncio.run(read())] == [(0, 19), (1, 19)]


def test_a_quick_reader_gets_every_preview():
    async def read():
        mailbox, got = Mailbox(), []
        for step in range(3):
            await asyncio.to_thread(mailbox.put, 0, preview(step))
            got.append((await mailbox.get())[1].step)
        return got

    assert asyncio.run(read()) == [0, 1, 2]


def test_a_reader_waits_for_the_next_event():
    async def read():
        mailbox = Mailbox()
        reading = asyncio.create_task(mailbox.get())
        await asyncio.sleep(0)
        assert not reading.done()
        mailbox.put(0, ACCEPTED)
        return await reading

    assert asyncio.run(read()) == (0, ACCEPTED)


def test_when_the_loop_is_gone_nothing_happens():
    async def open_one():
        return Mailbox()

    asyncio.run(open_one()).put(0, ACCEPTED)


def test_a_mailbox_is_opened_in_a_loop():
    with pytest.raises(RuntimeError, match="event loop"):
        Mailbox()
