from __future__ import annotations

import ast
import asyncio
import shutil
import socket
import subprocess
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parsed_as_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parsed_as_text

import service.engine
from service.errors import DeadlineError, InputError, JobFailedError
from service.fallbacks import OTHER, name_of
from service.jobs import Fallback, Receipt
from service.metrics import MOST_SCRAPES, ScrapeHandler

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 30  # a test that hangs fails
NAMED = {  # what dashboards and alerts ask for, and by which labels
    "requests_total": {"route", "status"},
    "request_seconds": {"route"},
    "stage_seconds": {"stage"},
    "queue_jobs": set(),
    "queue_wait_seconds": set(),
    "jobs_running": set(),
    "step_batch_images": set(),
    "edited_ratio": set(),
    "unet_rows_total": {"kind"},
    "unet_macs_total": {"kind"},
    "cache_reads_total": {"tier", "outcome"},
    "cache_bytes": {"tier"},
    "cache_evictions_total": {"tier", "reason"},
    "transfer_bytes_total": {"direction"},
    "transfer_wait_seconds": set(),
    "index_lookups_total": {"outcome"},
    "index_stale_hits_total": set(),
    "dense_fallbacks_total": {"reason"},
    "index_up": set(),
    "worker_up": set(),
    "device_memory_bytes": set(),
}
EDIT = {"prompt": "a blue zebra", "source_prompt": "a red zebra"}
DRAW = {"prompt": "a zebra"}


class Scraped:
    """The samples of one scrape."""

    def __init__(self, text):
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in parsed_as_text(text)
            for sample in family.samples
        }

    def of(self, name, **labels):
        """One sample's value; 0 where there is none."""
        return self.samples.get((f"retouch_{name}", frozenset(labels.items())), 0.0)

    def labels(self, name):
        return [dict(labels) for its, labels in self.samples if its == f"retouch_{name}"]


async def scraped(client):
    return Scraped((await client.get("/metrics")).text)


async def grown(client, *asked, before):
    """By how much samples, given by name and labels, have grown since `before`."""
    after = await scraped(client)
    return [after.of(name, **labels) - before.of(name, **labels) for name, labels in asked]


async def test_every_metric_is_there_with_its_labels_and_no_others(postcard):
    await postcard.post("/edit", json={"prompt": "a red house", "source_prompt": "a house", "num_inference_steps": 5})
    now = await scraped(postcard)
    for name, labels in NAMED.items():
        found = now.labels(name) or [one.keys() - {"le"} for one in now.labels(f"{name}_bucket")]
        assert found, name
        assert all(set(one) == labels for one in found), name
    assert now.samples["process_open_fds", frozenset()] > 0
    assert any(name == "python_info" for name, _ in now.samples)


async def test_the_engine_counts_a_picture_an_edit_and_what_is_known_already(postcard):
    rows = [("unet_rows_total", {"kind": kind}) for kind in ("computed", "skipped")]
    macs = [("unet_macs_total", {"kind": kind}) for kind in ("computed", "skipped")]
    drawn = {"prompt": "a snowy mountain", "num_inference_steps": 5, "seed": 11}
    before = await scraped(postcard)
    receipt = (await postcard.post("/generate", json=drawn)).json()["receipt"]
    assert await grown(postcard, *rows, *macs, before=before) == [
        receipt["rows_total"], 0, receipt["macs_computed"], receipt["macs_dense"] - receipt["macs_computed"],
    ]  # fmt: skip
    steps = [("step_batch_images_count", {}), ("step_batch_images_sum", {})]
    assert await grown(postcard, *steps, before=before) == [5, 10]

    before = await scraped(postcard)
    await postcard.post("/generate", json=drawn)
    assert await grown(postcard, *rows, *steps, before=before) == [0, receipt["rows_total"], 0, 0]

    before = await scraped(postcard)
    body = {"prompt": "a snowy mountain and a tent", "image_id": receipt["image_id"]}
    receipt = (await postcard.post("/edit", json=body)).json()["receipt"]
    skipped = max(0, receipt["rows_total"] - receipt["rows_computed"])
    assert await grown(postcard, *rows, before=before) == [receipt["rows_computed"], skipped]
    (reads,) = await grown(postcard, ("cache_reads_total", {"tier": "host", "outcome": "hit"}), before=before)
    assert reads >= 1
    moved = [("transfer_bytes_total", {"direction": "host_to_step"}), ("transfer_wait_seconds_count", {})]
    assert await grown(postcard, *moved, before=before) == [receipt["bytes_moved"], 1]
    assert (await scraped(postcard)).of("cache_bytes", tier="host") > 0

    before = await scraped(postcard)
    await postcard.post("/edit", json={"prompt": "a snowy mountain and a red tent"})
    assert (
        sum(
            await grown(
                postcard, *(("index_lookups_total", {"outcome": its}) for its in ("hit", "miss")), before=before
            )
        )
        == 1
    )


async def test_a_receipt_is_added_up(client, scripts):
    large = Fallback("denoise", "61% of the picture would be computed: dense is as quick")
    scripts.receipt = Receipt(
        "id", "source", tier="disk", edited_ratio=0.11, rows_computed=30, rows_total=100, macs_computed=7,
        macs_dense=10, bytes_moved=512, transfer_wait_seconds=0.25,
        fallbacks=(large, Fallback("denoise", "a new reason")),
        seconds={"encode": 0.02, "detect": 0.2, "denoise": 2.0, "total": 2.22},
    )  # fmt: skip
    before = await scraped(client)
    await client.post("/edit", json=EDIT)
    asked = {
        ("unet_rows_total", "kind", "computed"): 30,
        ("unet_rows_total", "kind", "skipped"): 70,
        ("unet_macs_total", "kind", "computed"): 7,
        ("unet_macs_total", "kind", "skipped"): 3,
        ("transfer_bytes_total", "direction", "disk_to_step"): 512,
        ("stage_seconds_sum", "stage", "denoise"): 2.0,
        ("stage_seconds_count", "stage", "detect"): 1,
        ("stage_seconds_count", "stage", "decode"): 0,
        ("dense_fallbacks_total", "reason", "large_region"): 1,
        ("dense_fallbacks_total", "reason", "other"): 1,
        ("jobs_total", "outcome", "done"): 1,
        ("requests_total", "status", "200"): 1,
    }
    after = await scraped(client)
    for (name, label, value), number in asked.items():
        labels = {label: value} | ({"route": "/edit"} if name == "requests_total" else {})
        assert after.of(name, **labels) - before.of(name, **labels) == number, (name, value)
    assert after.of("transfer_wait_seconds_sum") == 0.25
    assert after.of("queue_wait_seconds_count") == after.of("edited_ratio_count") == 1
    assert (after.of("edited_ratio_bucket", le="0.1"), after.of("edited_ratio_bucket", le="0.15")) == (0, 1)


async def test_a_dry_run_skips_nothing_for_nothing_was_to_be_drawn(client, scripts):
    scripts.receipt = Receipt("id", "source", rows_computed=30, rows_total=100, seconds={"total": 1.0})
    await client.post("/edit", json=EDIT | {"dry_run": True})
    now = await scraped(client)
    assert (now.of("unet_rows_total", kind="computed"), now.of("unet_rows_total", kind="skipped")) == (30, 0)


async def test_what_computes_more_than_drawing_anew_skips_nothing(client, scripts):
    scripts.receipt = Receipt("id", "source", rows_computed=130, rows_total=100, seconds={"total": 1.0})
    await client.post("/edit", json=EDIT)
    assert (await scraped(client)).of("unet_rows_total", kind="skipped") == 0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InputError("prompt", "no"), "invalid"),
        (DeadlineError(1.0), "deadline"),
        (JobFailedError("no"), "failed"),
        (RuntimeError("a defect"), "failed"),
    ],
)
async def test_a_job_that_fails_is_counted_by_why(client, scripts, error, outcome):
    scripts.error = error
    response = await client.post("/generate", json=DRAW)
    now = await scraped(client)
    assert now.of("jobs_total", outcome=outcome) == 1
    assert now.of("jobs_total", outcome="done") == 0
    assert now.of("requests_total", route="/generate", status=str(response.status_code)) == 1


async def test_refusals_are_counted_by_their_status(client, scripts):
    await client.post("/generate", json={"prompt": 3})
    await client.get("/nowhere")
    scripts.may_step.clear()
    first = asyncio.create_task(client.post("/generate", json=DRAW))
    assert await asyncio.to_thread(scripts.begun.wait, GUARD_SECONDS)
    assert (await client.post("/generate", json=DRAW)).status_code == 429
    meanwhile = await scraped(client)
    scripts.may_step.set()
    await first
    now = await scraped(client)
    assert (meanwhile.of("jobs_running"), now.of("jobs_running")) == (1, 0)
    for route, status in (("/generate", "422"), ("/generate", "429"), ("/generate", "200"), ("none", "404")):
        assert now.of("requests_total", route=route, status=status) == 1
    assert (now.of("jobs_total", outcome="refused"), now.of("jobs_total", outcome="done")) == (1, 1)


async def test_a_client_that_leaves_a_stream_is_499_and_its_job_cancelled(client, call, scripts):
    scripts.may_step.clear()
    stream = call("/generate", DRAW | {"stream": True})
    await stream.start()
    stream.gone.set()
    await stream.task
    scripts.may_step.set()
    now = await scraped(client)
    assert now.of("requests_total", route="/generate", status="499") == 1
    assert now.of("jobs_total", outcome="cancelled") == 1


async def test_a_stream_is_one_request_that_lasts_to_its_end(client, call, scripts):
    scripts.may_step.clear()
    stream = call("/generate", DRAW | {"stream": True})
    await stream.start()
    assert (await scraped(client)).of("request_seconds_count", route="/generate") == 0
    scripts.may_step.set()
    await stream.events()
    await stream.task
    assert (await scraped(client)).of("request_seconds_count", route="/generate") == 1


async def test_a_worker_is_up_when_its_model_is_loaded_and_until_its_thread_ends(loading, scripts):
    assert (await scraped(loading)).of("worker_up") == 0
    scripts.may_load.set()
    loading.app.state.worker._batcher.wait_opened()
    assert (await scraped(loading)).of("worker_up") == 1
    await loading.app.state.worker.close()
    assert (await scraped(loading)).of("worker_up") == 0


async def test_two_applications_count_for_themselves(open_client):
    async with open_client() as one, open_client() as other:
        await one.post("/generate", json=DRAW)
        assert (await scraped(one)).of("jobs_total", outcome="done") == 1
        assert (await scraped(other)).of("jobs_total", outcome="done") == 0


async def test_openmetrics_is_for_who_asks_for_it(client):
    wanted = "application/openmetrics-text; version=1.0.0"
    response = await client.get("/metrics", headers={"accept": wanted})
    assert response.headers["content-type"].startswith(wanted)
    assert "retouch_requests" in {family.name for family in parsed_as_openmetrics(response.text)}
    assert (await client.get("/metrics")).headers["content-type"].startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({}, 200),
        ({"host": "10.0.0.1"}, 404),
        ({"api_keys": f"ann:{64 * '0'}"}, 404),
        ({"host": "10.0.0.1", "metrics": "open"}, 200),
        ({"metrics": "off"}, 404),
    ],
)
async def test_the_main_port_has_metrics_on_loopback_or_where_that_is_wanted(open_client, settings, status):
    async with open_client(**settings) as client:
        assert (await client.get("/metrics")).status_code == status
        assert ("/metrics" in (await client.get("/openapi.json")).json()["paths"]) == (status == 200)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


async def test_a_port_of_their_own_is_open_while_the_service_runs(open_client):
    port = free_port()
    async with open_client(metrics=port) as client:
        await client.post("/generate", json=DRAW)
        assert (await client.get("/metrics")).status_code == 404
        with await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/metrics") as response:
            assert Scraped(response.read().decode()).of("jobs_total", outcome="done") == 1
        with pytest.raises(InputError, match=f"RETOUCH_METRICS: port {port} of 127.0.0.1 cannot be had"):
            async with open_client(metrics=port):
                pass
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/metrics")


def status_at(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=GUARD_SECONDS) as response:
        return response.status


async def test_who_asks_that_port_nothing_is_hung_up_on(open_client, monkeypatch):
    monkeypatch.setattr(ScrapeHandler, "timeout", 0.2)
    port = free_port()
    async with open_client(metrics=port):
        with socket.create_connection(("127.0.0.1", port), GUARD_SECONDS) as idle:
            assert await asyncio.to_thread(idle.recv, 1) == b""
        assert await asyncio.to_thread(status_at, port) == 200


async def test_that_port_has_so_many_threads_and_no_more(open_client):
    port = free_port()
    async with open_client(metrics=port):
        with ExitStack() as stack:
            for _ in range(MOST_SCRAPES):
                idle = stack.enter_context(socket.create_connection(("127.0.0.1", port), GUARD_SECONDS))
            with socket.create_connection(("127.0.0.1", port), GUARD_SECONDS) as too_many:
                assert await asyncio.to_thread(too_many.recv, 1) == b""
            idle.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert (await asyncio.to_thread(idle.recv, 12)).endswith(b" 200")


async def test_prometheus_own_check_has_nothing_to_say(postcard):
    promtool = shutil.which("promtool")
    assert promtool is not None, "`make test` installs it"
    text = (await postcard.get("/metrics")).content
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)  # noqa: ASYNC221, S603
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def texts(node):
    """The texts that an expression may be; what is put into them is left out."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr():
            return ["".join(text for part in node.values for text in texts(part))]
        case ast.IfExp():
            return [*texts(node.body), *texts(node.orelse)]
        case _:
            return []


def reasons():
    """All that the engine gives as the reason of a fallback."""
    for path in Path(service.engine.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "fall_back":
                yield from texts(node.args[1])
            if isinstance(node, ast.FunctionDef) and node.name == "_unreadable":
                for part in ast.walk(node):
                    if isinstance(part, ast.Return) and part.value is not None:
                        yield from texts(part.value)


def test_every_reason_of_the_engine_has_a_name():
    named = {reason: name_of(reason) for reason in reasons()}
    assert len(named) >= 10
    assert OTHER not in named.values(), named
