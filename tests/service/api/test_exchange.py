from __future__ import annotations

import asyncio
from itertools import count
from types import SimpleNamespace

import pytest

from service.errors import BusyError
from service.exchange import Exchanges
from service.jobs import Accepted, Cancelled, Failed, GenerateJob, Receipt

pytestmark = pytest.mark.anyio

JOB = GenerateJob("a zebra")
START = {"type": "http.response.start", "status": 200, "headers": []}
MORE = {"type": "http.response.body", "body": b"a", "more_body": True}
LAST = {"type": "http.response.body", "body": b"b"}
GONE = {"type": "http.disconnect"}


async def over(app, *, send=None, arriving=()):
    """What is noted of one request to `app`; the clock counts how often it is asked."""
    ended = []
    arriving = iter(arriving)

    async def receive():
        return next(arriving)

    async def sent(message):
        del message

    ticks = count()
    exchanges = Exchanges(app, on_end=[ended.append], clock=lambda: next(ticks))
    await exchanges({"type": "http", "method": "GET", "headers": []}, receive, send or sent)
    (exchange,) = ended
    return exchange


async def test_a_request_ends_with_its_last_byte_and_not_before():
    async def app(scope, receive, send):
        del receive
        for message in (START, MORE, LAST):
            assert scope["state"]["exchange"].end is None
            await send(message)

    exchange = await over(app)
    assert (exchange.status, exchange.seconds, exchange.is_gone) == (200, 1, False)


async def test_a_client_that_goes_away_in_a_stream_is_499_whatever_it_began_with():
    async def app(scope, receive, send):
        del scope
        await send(START)
        await receive()

    exchange = await over(app, arriving=[GONE])
    assert (exchange.status, exchange.answered) == (499, 200)


async def test_a_client_that_closes_after_the_last_byte_has_its_answer():
    async def app(scope, receive, send):
        del scope
        await send(START)
        await send(LAST)
        await receive()

    assert (await over(app, arriving=[GONE])).status == 200


async def test_a_server_that_cannot_send_says_that_the_client_is_gone():
    async def app(scope, receive, send):
        del scope, receive
        with pytest.raises(OSError, match="nobody"):
            await send(START)

    async def send(message):
        del message
        raise OSError("nobody is there")

    assert (await over(app, send=send)).status == 499


async def test_what_raises_is_500_and_told():
    ended = []

    async def app(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Exchanges(app, on_end=[ended.append])({"type": "http", "method": "GET"}, None, None)
    assert (ended[0].status, ended[0].fields["problem"]) == (500, "failed")


async def test_what_is_no_request_is_none():
    async def app(*_):
        pass

    ended = []
    await Exchanges(app, on_end=[ended.append])({"type": "lifespan"}, None, None)
    assert ended == []


async def test_a_template_and_no_path_is_the_route():
    async def app(scope, receive, send):
        del receive
        scope["route"] = SimpleNamespace(path="/images/{image_id}")
        await send(START)

    assert (await over(app)).route == "/images/{image_id}"


async def followed(events, *, take=None):
    """How a job of these events ended, for one who takes so many."""
    heard = []

    async def app(scope, receive, send):
        del receive, send
        following = scope["state"]["exchange"].follow([JOB], events())
        number = 0
        async for _ in following:
            number += 1
            if number == take:
                break
        await following.aclose()

    await Exchanges(app, on_end=[], on_job=[heard.append])({"type": "http", "method": "GET"}, None, None)
    (run,) = heard
    return run


async def test_a_job_ends_by_its_receipt_once():
    async def events():
        yield 0, Accepted("id", None, 1)
        yield 0, Receipt("id")

    run = await followed(events)
    assert (run.job, run.ending) == (JOB, Receipt("id"))


async def test_each_job_of_a_request_has_its_own_end():
    async def events():
        yield 1, Receipt("second")
        raise BusyError(1.0)

    heard = []

    async def app(scope, receive, send):
        del receive, send
        async for _ in scope["state"]["exchange"].follow([JOB, JOB, JOB], events()):
            pass

    with pytest.raises(BusyError):
        await Exchanges(app, on_end=[], on_job=[heard.append])({"type": "http", "method": "GET"}, None, None)
    assert [type(run.ending) for run in heard] == [Receipt, Failed, Failed]


async def test_who_leaves_a_job_cancels_it():
    closed = asyncio.Event()

    async def events():
        try:
            yield 0, Accepted("id", None, 1)
            yield 0, Receipt("id")
        finally:
            closed.set()

    assert (await followed(events, take=1)).ending == Cancelled()
    assert closed.is_set()


async def test_a_job_that_is_not_taken_has_failed():
    refusal = BusyError(3.0)

    async def events():
        raise refusal
        yield

    heard = []

    async def app(scope, receive, send):
        del receive, send
        async for _ in scope["state"]["exchange"].follow([JOB], events()):
            pass

    with pytest.raises(BusyError):
        await Exchanges(app, on_end=[], on_job=[heard.append])({"type": "http", "method": "GET"}, None, None)
    assert [run.ending for run in heard] == [Failed(refusal)]
