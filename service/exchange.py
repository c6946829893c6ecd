"""One request, its answer and its jobs, as seen from outside: what logs, metrics and traces are made of.

    Exchanges        ASGI middleware: makes an Exchange of each request, and tells the observers when it is over
    Exchange, Run    the facts of a request, and of each of its jobs

The engine stamps its times in the receipt, the middleware those of the request; nobody else measures.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.jobs import Cancelled, Ending, Failed, Job, Numbered, Receipt

CLIENT_GONE = 499  # nginx's number: the client did not wait for its answer
PROBES = {"/healthz", "/readyz", "/metrics"}  # asked every few seconds, by machines


@dataclass
class Run:
    """One job of a request."""

    job: Job
    begin: float  # of the exchanges' clock: when it was submitted
    ending: Ending | None = None  # None while it runs


@dataclass
class Exchange:
    """One request. `status`, `seconds` and `is_gone` are known when it is over."""

    scope: Scope
    begin: float  # of the exchanges' clock
    on_job: Sequence[Callable[[Run], None]] = ()
    clock: Callable[[], float] = time.perf_counter
    fields: dict[str, Any] = field(default_factory=dict)  # of its log line; whoever serves the request adds some
    runs: list[Run] = field(default_factory=list)
    answered: int | None = None  # the status that was sent
    end: float | None = None  # when the last byte was sent
    is_gone: bool = False  # the client went away before that

    @property
    def method(self) -> str:
        """GET, POST ..."""
        return str(self.scope["method"])

    @property
    def route(self) -> str | None:
        """The route's template, not the path: few values, and no ids. None where no route was found."""
        path: str | None = getattr(self.scope.get("route"), "path", None)
        return path

    @property
    def is_routine(self) -> bool:
        """Whether nobody wants to read of it: a machine asked how we are, and we are well."""
        return self.route in PROBES and self.status < 400

    @property
    def status(self) -> int:
        """What was answered; 499 to a client that went away, 500 where the application raised."""
        return CLIENT_GONE if self.is_gone else self.answered or 500

    @property
    def seconds(self) -> float:
        """Until the last byte, or until there was nobody to send it to."""
        return (self.clock() if self.end is None else self.end) - self.begin

    @property
    def receipts(self) -> list[Receipt]:
        """Of the jobs that ended well."""
        return [run.ending for run in self.runs if isinstance(run.ending, Receipt)]

    async def follow(
        self, jobs: Sequence[Job], events: AsyncGenerator[Numbered, None]
    ) -> AsyncGenerator[Numbered, None]:
        """The events of this request's jobs, `Worker.submit`'s, and a note of their ends: who leaves cancels them."""
        runs = [Run(job, self.clock()) for job in jobs]
        self.runs += runs
        ending: Ending = Cancelled()  # of those of which none is told
        try:
            async with aclosing(events):
                async for number, event in events:
                    if isinstance(event, Ending):
                        self._note(runs[number], event)
                    yield number, event
        except Exception as error:  # whatever ends jobs is noted, and goes on its way
            ending = Failed(error)
            raise
        finally:
            for run in runs:
                if run.ending is None:
                    self._note(run, ending)

    def _note(self, run: Run, ending: Ending) -> None:
        run.ending = ending
        for hear in self.on_job:
            hear(run)


class Exchanges:
    """ASGI middleware: `request.state.exchange` is the request's; its `fields` are `request.state.log`.

    `on_job` hears of each job when it ends, `on_end` of each exchange when the last byte has been sent.
    """

    def __init__(
        self,
        app: ASGIApp,
        on_end: Sequence[Callable[[Exchange], None]],
        on_job: Sequence[Callable[[Run], None]] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._app = app
        self._on_end = on_end
        self._on_job = on_job
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app, watched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, self._clock(), self._on_job, self._clock)
        scope.setdefault("state", {}).update(exchange=exchange, log=exchange.fields)
        try:
            await self._app(scope, _listening(receive, exchange), _watching(send, exchange))
        except Exception:  # a defect: its answer is made further out, and is no part of this
            exchange.fields.setdefault("problem", "failed")
            raise
        finally:
            for hear in self._on_end:
                hear(exchange)


def _listening(receive: Receive, exchange: Exchange) -> Receive:
    """Notes that the client closes the connection; after the last byte it may."""

    async def listen() -> Message:
        message = await receive()
        if message["type"] == "http.disconnect" and exchange.end is None:
            exchange.is_gone = True
        return message

    return listen


def _watching(send: Send, exchange: Exchange) -> Send:
    """Notes the status and the last byte; a server may raise OSError where there is nobody to send to."""

    async def watch(message: Message) -> None:
        if message["type"] == "http.response.start":
            exchange.answered = message["status"]
        try:
            await send(message)
        except OSError:
            exchange.is_gone = True
            raise
        if message["type"] == "http.response.body" and not message.get("more_body"):
            exchange.end = exchange.clock()

    return watch
