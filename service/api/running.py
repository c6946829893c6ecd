"""One job, run for one request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from starlette.types import Receive

from service.errors import JobFailedError, NotReadyError
from service.jobs import Cancelled, Event, Failed, Job
from service.workers import Worker

CLIENT_GONE = 499  # nginx's number, for the log; nobody reads the answer

T = TypeVar("T")


async def events_of(request: Request, job: Job) -> AsyncGenerator[Event, None]:
    """What the job tells, up to its receipt; closing the generator cancels the job at its next step.

    Raises:
        RetouchError: the job was not taken, or it failed.
    """
    worker: Worker = request.app.state.worker
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

    Raises:
        NotReadyError: the server ends what runs, for its time to drain is over.
    """
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    except asyncio.CancelledError as error:
        raise NotReadyError("the service was shut down before the job was done") from error
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    """Returns when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
