"""One job, run for one request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from starlette.types import Receive

from service.api.draining import Drain
from service.api.quotas import Quotas
from service.api.repeats import HEADER, Repeats
from service.errors import JobFailedError
from service.jobs import Cancelled, Event, Failed, Job
from service.workers import Worker

T = TypeVar("T")


async def events_of(request: Request, job: Job, said: str, number: int = 0) -> AsyncGenerator[Event, None]:
    """What the job tells, up to its receipt; closing the generator cancels the job at its next step.

    `said` stands for all that was asked: where the request has an Idempotency-Key, and the same was asked with it
    before, it is told again what came of that, and no job is run. `number` is the job's among those of the request.
    The job's tenant is the request's.

    Raises:
        RetouchError: the job was not taken, or it failed.
    """
    key = request.headers.get(HEADER)
    if key is None:
        events = _run(request, job)
    else:
        repeats: Repeats = request.app.state.repeats
        own = f"{key}\n{number}" if number else key  # no header has line ends in it
        events = repeats.once(job.tenant, own, said, lambda: _run(request, job))
    async with aclosing(events):
        async for event in events:
            yield event


async def _run(request: Request, job: Job) -> AsyncGenerator[Event, None]:
    worker: Worker = request.app.state.worker
    drain: Drain = request.app.state.drain
    quotas: Quotas = request.app.state.gate.quotas
    with drain.job(), quotas.job(job.tenant):
        async with aclosing(request.state.exchange.follow(job, worker.submit(job))) as events:
            async for event in events:
                match event:
                    case Failed():
                        raise event.error
                    case Cancelled():
                        raise JobFailedError("the job was stopped before its end")
                yield event


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns; None if the client closes its connection first: then it is cancelled, and its job with it.

    The request's body must have been read.
    """
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    """Returns when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
