"""Metrics for Prometheus: requests and jobs are counted here when they end, all else is read at each scrape (`scrape`).

The engine stamps its times and counts in the receipt; here they are only added up. Labels have few values: templates of
routes, statuses, stages, tiers, names of reasons. Nothing is told of tenants, prompts or images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from socket import AF_INET, AF_INET6
from socketserver import ThreadingMixIn
from threading import BoundedSemaphore, Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    make_wsgi_app,
)
from prometheus_client.exposition import choose_encoder

from service.errors import BusyError, DeadlineError, InputError, NotReadyError, UnknownImageError
from service.exchange import Exchange, Run
from service.fallbacks import OTHER, REASONS, name_of
from service.jobs import Cancelled, EditJob, Failed, Receipt
from service.scrape import Ask, Scrape

NAMESPACE = "retouch"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
WAITS = (0.0, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
RATIOS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0)
STAGES = ("encode", "source", "detect", "denoise", "decode")  # of a receipt; a queue and a total are none
OUTCOMES = ("done", "cancelled", "refused", "invalid", "deadline", "failed")
SCRAPE_SECONDS = 10.0  # that a client of the port may send or take nothing
MOST_SCRAPES = 16  # at a time: each has a thread
NO_ROUTE = "none"  # the label of a path that leads nowhere


class Metrics:
    """What one application counts, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        counter = partial(Counter, namespace=NAMESPACE, registry=registry)
        histogram = partial(Histogram, namespace=NAMESPACE, registry=registry)
        self._requests = counter("requests", "Requests that are over; 499: the client went away", ["route", "status"])
        self._request_seconds = histogram("request_seconds", "To the last byte", ["route"], buckets=SECONDS)
        self._jobs = counter("jobs", "Jobs that have ended", ["outcome"])
        self._stage_seconds = histogram("stage_seconds", "Of a job, at each stage", ["stage"], buckets=SECONDS)
        self._queue_wait = histogram("queue_wait_seconds", "Until a job's first step", buckets=SECONDS)
        self._transfer_wait = histogram("transfer_wait_seconds", "Of an edit's steps, for recorded rows", buckets=WAITS)
        self._edited_ratio = histogram("edited_ratio", "Of an edit: the part that changes", buckets=RATIOS)
        self._rows = counter("unet_rows", "Of finished jobs, against drawing the picture again", ["kind"])
        self._macs = counter("unet_macs", "Multiplications, likewise", ["kind"])
        self._fallbacks = counter("dense_fallbacks", "What was not computed sparsely as it was asked for", ["reason"])
        self._moved = Counter("transfer_bytes", "", ["direction"], namespace=NAMESPACE, registry=None)
        for outcome in OUTCOMES:  # a rate needs the zero before the first
            self._jobs.labels(outcome)
        for stage in STAGES:
            self._stage_seconds.labels(stage)
        for kind in ("computed", "skipped"):
            self._rows.labels(kind)
            self._macs.labels(kind)
        for reason in (*REASONS.values(), OTHER):
            self._fallbacks.labels(reason)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)

    @contextmanager
    def watching(self, ask: Ask) -> Iterator[None]:
        """Meanwhile also what a worker counts itself; it is asked at each scrape."""
        scrape = Scrape(ask, self._moved)
        self.registry.register(scrape)
        try:
            yield
        finally:
            self.registry.unregister(scrape)

    def count_exchange(self, exchange: Exchange) -> None:
        """A request is over."""
        route = exchange.route or NO_ROUTE
        self._requests.labels(route, str(exchange.status)).inc()
        self._request_seconds.labels(route).observe(exchange.seconds)

    def count_job(self, run: Run) -> None:
        """A job has ended; what it cost is known of those that ended well."""
        self._jobs.labels(_outcome(run)).inc()
        if isinstance(run.ending, Receipt):
            self._count_receipt(run.ending, is_drawn=not (isinstance(run.job, EditJob) and run.job.dry_run))

    def _count_receipt(self, receipt: Receipt, *, is_drawn: bool) -> None:
        for stage in STAGES:
            if stage in receipt.seconds:
                self._stage_seconds.labels(stage).observe(receipt.seconds[stage])
        self._queue_wait.observe(receipt.seconds.get("queue", 0.0))
        if receipt.source_id is not None:
            self._edited_ratio.observe(receipt.edited_ratio)
        for its, computed, dense in (
            (self._rows, receipt.rows_computed, receipt.rows_total),
            (self._macs, receipt.macs_computed, receipt.macs_dense),
        ):
            its.labels("computed").inc(computed)
            its.labels("skipped").inc(max(0, dense - computed) if is_drawn else 0)
        if receipt.tier is not None:
            self._moved.labels(f"{receipt.tier}_to_step").inc(receipt.bytes_moved)
            self._transfer_wait.observe(receipt.transfer_wait_seconds)
        for fallback in receipt.fallbacks:
            self._fallbacks.labels(name_of(fallback.reason)).inc()

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All of it as the `Accept` header wants it, Prometheus' text or OpenMetrics; and its media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type

    def serve(self, host: str, port: int) -> WSGIServer:
        """On a port of its own, by a thread of its own. OSError where the port cannot be had."""
        server = ScrapeServer(host, port)
        server.set_app(make_wsgi_app(self.registry))
        Thread(target=server.serve_forever, name="retouch-metrics", daemon=True).start()
        return server


class ScrapeHandler(WSGIRequestHandler):
    """One scrape."""

    timeout = SCRAPE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # as the library names it
        """Nothing: they come every few seconds."""


class ScrapeServer(ThreadingMixIn, WSGIServer):
    """Answers scrapes, each in a thread; those of whom there are too many are hung up on."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self.address_family = AF_INET6 if ":" in host else AF_INET
        self._free = BoundedSemaphore(MOST_SCRAPES)
        super().__init__((host, port), ScrapeHandler)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002  # as the library asks
        """Whether there is a thread for it."""
        return self._free.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """As the library calls it, in that thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: who asks went away, or says nothing, and what could not be collected is told in the answer."""


def _outcome(run: Run) -> str:
    """One of `OUTCOMES`."""
    match run.ending:
        case Receipt():
            return "done"
        case Failed(BusyError() | NotReadyError()):
            return "refused"
        case Failed(InputError() | UnknownImageError()):
            return "invalid"
        case Failed(DeadlineError()):
            return "deadline"
        case Failed():
            return "failed"
        case Cancelled() | None:
            return "cancelled"
