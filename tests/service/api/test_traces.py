from __future__ import annotations

import builtins
import io
import json
import logging
import os
import socket
import sys
import threading
from itertools import pairwise

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_trace_id

from service import logs
from service.errors import InputError
from service.jobs import Receipt
from service.traces import ENDPOINTS, SECOND, Traces, open_traces

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 30  # a test that hangs fails
WORDS = "a zebra that nobody may read of"
EDIT = {"prompt": WORDS, "source_prompt": f"{WORDS}, as it was"}
TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECONDS = {"decode": 0.5, "encode": 0.25, "denoise": 2.0, "detect": 1.0, "total": 3.75}


@pytest.fixture
def spans():
    return InMemorySpanExporter()


@pytest.fixture
async def traced(open_client, spans):
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    async with open_client(traces=Traces(provider)) as client:
        yield client


async def test_a_request_is_a_span_and_its_job_one_for_each_stage(traced, scripts, spans):
    scripts.receipt = Receipt("id", "source", tier="host", edited_ratio=0.125, seconds=SECONDS)
    await traced.post("/edit", json=EDIT)
    *stages, request = spans.get_finished_spans()
    assert (request.name, request.kind, request.parent) == ("POST /edit", SpanKind.SERVER, None)
    assert request.attributes["http.request.method"] == "POST"
    assert (request.attributes["http.route"], request.attributes["http.response.status_code"]) == ("/edit", 200)
    assert [stage.name for stage in stages] == ["queue", "encode", "detect", "denoise", "decode"]
    for stage, following in pairwise(stages):
        assert stage.end_time == following.start_time
    for stage in stages[1:]:
        assert stage.end_time - stage.start_time == SECONDS[stage.name] * SECOND
        assert stage.attributes["retouch.image_id"] == "id"
        assert (stage.attributes["retouch.tier"], stage.attributes["retouch.edited_ratio"]) == ("host", 0.125)
    assert {stage.parent.span_id for stage in stages} == {request.context.span_id}
    assert request.start_time <= stages[0].start_time


async def test_a_clients_trace_goes_on_here(traced, spans):
    traceparent = f"00-{TRACE_ID}-{PARENT_ID}-01"
    await traced.get("/images/some-id", headers={"traceparent": traceparent})
    (request,) = spans.get_finished_spans()
    assert format_trace_id(request.context.trace_id) == TRACE_ID
    assert f"{request.parent.span_id:016x}" == PARENT_ID
    assert request.attributes["error.type"] == "unknown-image"
    assert request.status.status_code == StatusCode.UNSET  # the client's fault


async def test_a_client_that_does_not_sample_is_not_sampled(traced, spans):
    await traced.get("/images/some-id", headers={"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-00"})
    assert spans.get_finished_spans() == ()


async def test_a_failure_of_ours_is_an_error(traced, scripts, spans):
    scripts.error = RuntimeError(WORDS)
    await traced.post("/generate", json={"prompt": WORDS})
    (request,) = spans.get_finished_spans()
    assert (request.status.status_code, request.attributes["error.type"]) == (StatusCode.ERROR, "failed")


async def test_machines_that_ask_how_we_are_make_no_spans(traced, spans):
    for path in ("/healthz", "/readyz", "/metrics"):
        await traced.get(path)
    assert spans.get_finished_spans() == ()


async def test_no_prompt_is_in_a_span(traced, spans):
    await traced.post("/generate", json={"prompt": WORDS})
    await traced.post("/edit", json=EDIT)
    await traced.post("/edit", json=EDIT | {"seed": WORDS})
    told = [span.to_json() for span in spans.get_finished_spans()]
    assert len(told) == 5
    assert "zebra" not in "".join(told)


async def test_the_line_of_a_request_has_its_traces_id(traced, spans, monkeypatch):
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(logging.getLogger("httpx"), "disabled", True)  # the client's
    logs.configure("info")
    await traced.get("/images/some-id")
    (line,) = sys.stderr.getvalue().splitlines()
    root.handlers[:], root.level = before, level
    structlog.reset_defaults()
    (request,) = spans.get_finished_spans()
    assert json.loads(line)["trace_id"] == format_trace_id(request.context.trace_id)


def test_without_an_endpoint_nothing_is_traced_or_imported(monkeypatch):
    monkeypatch.setattr(builtins, "__import__", _without("opentelemetry"))
    assert open_traces({}) is None
    assert open_traces({ENDPOINTS[0]: ""}) is None


@pytest.mark.parametrize("name", ENDPOINTS)
def test_an_endpoint_without_the_extra_is_refused_at_the_start(monkeypatch, name):
    monkeypatch.setattr(builtins, "__import__", _without("opentelemetry"))
    with pytest.raises(InputError, match=rf"{name}: .*retouch\[traces\]"):
        open_traces({name: "http://localhost:4318"})


async def test_spans_are_sent_by_a_thread_and_no_request_waits_for_it(open_client, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # connections are made, and nothing is answered
        deaf.setblocking(False)
        monkeypatch.setenv(ENDPOINTS[0], f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
        async with open_client(traces=open_traces(os.environ)) as client:
            assert (await client.post("/generate", json={"prompt": WORDS})).status_code == 200
            with pytest.raises(BlockingIOError):
                deaf.accept()
        _wait_for_the_end()
        connection, _ = deaf.accept()
        connection.close()


class Stuck(InMemorySpanExporter):
    """Sends nothing before it may."""

    def __init__(self):
        super().__init__()
        self.may_send = threading.Event()

    def export(self, spans):
        assert self.may_send.wait(GUARD_SECONDS)
        return super().export(spans)


def test_the_end_does_not_wait_for_an_endpoint_that_is_stuck():
    stuck = Stuck()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(stuck))
    provider.get_tracer("test").start_span("last").end()
    Traces(provider).close(flush_seconds=0.0)
    assert stuck.get_finished_spans() == ()
    stuck.may_send.set()
    _wait_for_the_end()


def test_the_end_sends_what_is_left(spans):
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(spans, schedule_delay_millis=3_600_000))
    provider.get_tracer("test").start_span("last").end()
    assert spans.get_finished_spans() == ()
    Traces(provider).close(flush_seconds=30.0)
    assert [span.name for span in spans.get_finished_spans()] == ["last"]


def _wait_for_the_end():
    """Of the thread that ends a provider: what it says must not come into another test's logs."""
    for thread in [one for one in threading.enumerate() if one.name == "traces"]:
        thread.join(GUARD_SECONDS)


def _without(package):
    """`import`, on a machine that does not have the package."""
    real = builtins.__import__

    def without(name, *args, **named):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **named)

    return without
