"""Traces: a span for each request and one for each stage of its jobs, sent by OpenTelemetry.

They are made when the request is over, of times that were taken anyway: nothing is measured for them, and where nobody
listens they cost nothing. A thread sends them; what it cannot send in time is dropped.

A stage's seconds are a sum (a job comes back to its text, say), so its span says how long, and only roughly when: the
stages of a job stand one after the other, as in its receipt.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from service.errors import InputError
from service.exchange import Exchange, Run
from service.jobs import Receipt

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")  # OpenTelemetry's own names
STAGES = ("queue", "encode", "source", "detect", "denoise", "decode")  # in the order of a job
FLUSH_SECONDS = 3.0  # that the end of the service waits for the last spans
SECOND = 1_000_000_000  # nanoseconds


@dataclass(frozen=True, eq=False)
class Traces:
    """Makes spans of exchanges."""

    provider: TracerProvider

    def record(self, exchange: Exchange) -> None:
        """One span, and those of its jobs below it. Its trace's id goes to the log line."""
        if exchange.is_routine:
            return
        from opentelemetry import trace  # noqa: PLC0415  # an extra: see `open_traces`

        end = time.time_ns()
        begin = end - round(exchange.seconds * SECOND)
        tracer = self.provider.get_tracer("retouch", version("retouch"))
        span = tracer.start_span(
            f"{exchange.method} {exchange.route or ''}".strip(),
            _parent(exchange),
            trace.SpanKind.SERVER,
            _attributes(exchange),
            start_time=begin,
        )
        if span.get_span_context().is_valid:
            exchange.fields["trace_id"] = trace.format_trace_id(span.get_span_context().trace_id)
        inside = trace.set_span_in_context(span)
        for run in exchange.runs:
            for stage, start, stop in _stages(run, begin + round((run.begin - exchange.begin) * SECOND)):
                child = tracer.start_span(stage, inside, attributes=_told(run), start_time=start)
                child.end(stop)
        if exchange.status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        span.end(end)

    def close(self, flush_seconds: float = FLUSH_SECONDS) -> None:
        """Sends what is left, for so long at most."""
        closing = threading.Thread(target=self.provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(flush_seconds)


def open_traces(environ: Mapping[str, str]) -> Traces | None:
    """Spans to where the environment says; None where it does not. InputError where the extra is not installed.

    OpenTelemetry reads its other variables itself: headers, sampling, resource, timeout.
    """
    name = next((name for name in ENDPOINTS if environ.get(name)), None)
    if name is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise InputError(name, "traces need OpenTelemetry: pip install 'retouch[traces]'") from error
    resource = Resource.create({SERVICE_NAME: environ.get("OTEL_SERVICE_NAME", "retouch")})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)


def _parent(exchange: Exchange) -> Any:
    """The client's context, by the W3C's `traceparent`."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in exchange.scope["headers"]}
    return TraceContextTextMapPropagator().extract(headers)


def _attributes(exchange: Exchange) -> dict[str, Any]:
    """By OpenTelemetry's names for HTTP, and what the log line has of the request."""
    named = {
        "http.request.method": exchange.method,
        "http.route": exchange.route,
        "http.response.status_code": exchange.status,
        "error.type": exchange.fields.get("problem"),
        "retouch.request_id": exchange.fields.get("request_id"),
    }
    return {name: value for name, value in named.items() if value is not None}


def _told(run: Run) -> dict[str, Any]:
    """What a job's receipt says, without its words."""
    if not isinstance(run.ending, Receipt):
        return {}
    named = {
        "retouch.image_id": run.ending.image_id,
        "retouch.source_id": run.ending.source_id,
        "retouch.tier": run.ending.tier,
        "retouch.edited_ratio": run.ending.edited_ratio,
    }
    return {name: value for name, value in named.items() if value is not None}


def _stages(run: Run, begin: int) -> list[tuple[str, int, int]]:
    """Name, begin and end of each stage, one after the other from `begin` on; nanoseconds."""
    seconds = run.ending.seconds if isinstance(run.ending, Receipt) else {}
    spans = []
    for stage in STAGES:
        if stage in seconds:
            end = begin + round(seconds[stage] * SECOND)
            spans.append((stage, begin, end))
            begin = end
    return spans
