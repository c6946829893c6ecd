"""The thread that owns the device dies: whoever waits is told, and another takes its place in the same process."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

GUARD_SECONDS = 60  # a test that hangs fails
DRAW = {"prompt": "a green hill", "seed": 1, "cache": "off"}
FAILED = "urn:retouch:problem:failed"


@pytest.fixture
def server(open_service):
    """One job at a time."""
    with open_service(running_jobs=1) as opened:
        yield opened


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url, timeout=GUARD_SECONDS) as opened:
        yield opened


def test_all_its_jobs_are_answered_and_the_service_is_ready_again(server, client, device, wait_until):
    first = server.app.state.worker._batcher._thread
    device.calls.let(0)
    device.openings.let(0)
    running = client.stream("POST", "/generate", json=DRAW | {"stream": True})
    with running as stream, ThreadPoolExecutor() as pool:
        lines = stream.iter_lines()
        assert next(lines) == "event: accepted"
        waiting = [pool.submit(client.post, "/generate", json=DRAW | {"seed": seed}) for seed in range(5)]
        wait_until(lambda: server.app.state.worker.numbers().batching.queued_jobs == 5)
        device.calls.error = SystemExit("the device is gone")
        device.calls.let_all()
        *_, name, data, _ = lines
        assert (name, json.loads(data.removeprefix("data: "))["type"]) == ("event: error", FAILED)
        answers = [one.result() for one in waiting]
    assert {(answer.status_code, answer.json()["type"]) for answer in answers} == {(500, FAILED)}
    first.join(GUARD_SECONDS)
    assert not first.is_alive()
    refused = [client.get("/readyz"), client.post("/generate", json=DRAW)]
    assert {answer.status_code for answer in refused} == {503}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert client.get("/healthz").json() == {"state": "restarting"}
    device.openings.let_all()
    wait_until(lambda: client.get("/readyz").status_code == 200)
    assert client.post("/generate", json=DRAW).status_code == 200
    numbers = server.app.state.worker.numbers().batching
    assert (numbers.num_restarts, numbers.ended_jobs) == (1, {"failed": 6, "done": 1})
