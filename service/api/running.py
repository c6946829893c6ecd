"""The jobs of one request, run for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from starlette.types import Receive

from service.api.deadlines import Deadlines
from service.api.draining import Drain
from service.api.quotas import Quotas
from service.api.repeats import HEADER, Repeats
from service.errors import JobFailedError
from service.jobs import Cancelled, Failed, Job, Numbered
from service.workers import Worker

T = TypeVar("T")
Make = Callable[[], Awaitable[Sequence[Job]]]  # may ask the worker for what they need


def events_of(request: Request, jobs: Sequence[Job], said: str) -> AsyncGenerator[Numbered, None]:
    """As `events_when_made`, of jobs that are there."""

    async def made() -> Sequence[Job]:
        return jobs

    return events_when_made(request, made, len(jobs), said)


def events_when_made(request: Request, make: Make, num_jobs: int, said: str) -> AsyncGenerator[Numbered, None]:
    """What the jobs tell, up to their receipts; closing the generator cancels them at their next step.

    All are taken, or none; when one fails, so does the request. Their tenant is the request's. `said` stands for all
    that was asked: where the request has an Idempotency-Key, and the same was asked with it before, it is told again
    what came of that, and no job is made or run.

    The generator raises:
        RetouchError: the jobs were not made or not taken, or one failed.
    """
    key, tenant = request.headers.get(HEADER), request.state.tenant
    if key is None:
        return _run(request, tenant, make)
    repeats: Repeats = request.app.state.repeats
    return repeats.once(tenant, key, said, lambda: _run(request, tenant, make), num_jobs)


async def _run(request: Request, tenant: str, make: Make) -> AsyncGenerator[Numbered, None]:
    worker: Worker = request.app.state.worker
    drain: Drain = request.app.state.drain
    quotas: Quotas = request.app.state.gate.quotas
    deadlines: Deadlines = request.app.state.deadlines
    jobs = [deadlines.bounded(job) for job in await make()]
    with drain.job(), quotas.jobs(tenant, len(jobs)):
        async with aclosing(request.state.exchange.follow(jobs, worker.submit(jobs))) as events:
            async for number, event in events:
                match event:
                    case Failed():
                        raise event.error
                    case Cancelled():
                        raise JobFailedError("the job was stopped before its end")
                yield number, event


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
