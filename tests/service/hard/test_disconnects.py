"""A client that leaves frees its place: whatever its job is at, no other network call is made for it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

GUARD_SECONDS = 60  # a test that hangs fails
STEPS = 3  # as many network calls make a picture
DRAW = {"prompt": "a green hill", "seed": 1, "cache": "off"}
NEXT = {"prompt": "a sea", "seed": 2, "cache": "off"}


@pytest.fixture
def server(open_service):
    """One job at a time, and one may wait."""
    with open_service(running_jobs=1, queue_jobs=1) as opened:
        yield opened


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url, timeout=GUARD_SECONDS) as opened:
        yield opened


@pytest.fixture(params=[False, True], ids=["JSON", "stream"])
def stream(request):
    return {"stream": request.param}


@pytest.fixture
def leave(server, wait_until):
    """Closes a client's connection; returns when the batcher has been told."""

    def leaving(connection: socket.socket) -> None:
        connection.close()
        batcher = server.app.state.worker._batcher
        wait_until(lambda: len(batcher._desk._cancelled) == 1)

    return leaving


@contextmanager
def asking(server, path, body) -> Iterator[socket.socket]:
    """A client whose request is on its way, and that reads nothing."""
    content = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    head = "\r\n".join([*lines, f"Content-Length: {len(content)}"])
    with socket.create_connection(("127.0.0.1", server.port), GUARD_SECONDS) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + content)
        yield connection


def numbers(server):
    return server.app.state.worker.numbers().batching


@pytest.mark.parametrize("num_calls", [1, 2, STEPS])
def test_while_it_is_drawn(server, client, device, leave, stream, num_calls):
    device.calls.let(num_calls - 1)
    with asking(server, "/generate", DRAW | stream) as connection:
        device.calls.wait_reached(num_calls)
        leave(connection)
    device.calls.let_all()
    assert client.post("/generate", json=NEXT).status_code == 200
    assert device.calls.num_reached == num_calls + STEPS


def test_while_its_mask_is_looked_for(server, client, device, leave, stream):
    source = client.post("/generate", json=DRAW | {"cache": "read_write"}).json()
    device.calls.let(0)
    with asking(server, "/edit", {"prompt": "a snow hill", "image_id": source["image_id"]} | stream) as connection:
        device.calls.wait_reached(STEPS + 1)
        leave(connection)
    device.calls.let_all()
    assert client.post("/generate", json=NEXT).status_code == 200
    assert device.calls.num_reached == STEPS + 1 + STEPS


def test_while_it_is_decoded(server, client, device, leave, stream):
    device.decodings.let(0)
    with asking(server, "/generate", DRAW | stream) as connection:
        device.decodings.wait_reached(1)
        leave(connection)
    device.decodings.let_all()
    assert client.post("/generate", json=NEXT).status_code == 200
    assert (device.calls.num_reached, device.decodings.num_reached) == (2 * STEPS, 2)


def test_while_it_waits(server, client, device, wait_until, leave, stream):
    device.calls.let(0)
    with asking(server, "/generate", DRAW):
        device.calls.wait_reached(1)
        with asking(server, "/generate", NEXT | stream) as waiting:
            wait_until(lambda: numbers(server).queued_jobs == 1)
            assert client.post("/generate", json=NEXT).status_code == 429
            leave(waiting)
        device.calls.let(1)
        device.calls.wait_reached(2)
        assert numbers(server).queued_jobs == 0
        device.calls.let_all()
        assert client.post("/generate", json=NEXT).status_code == 200
    assert device.calls.num_reached == 2 * STEPS


def test_each_job_that_was_left_has_one_end_and_no_task_waits_for_it(server, client, device, wait_until, leave, stream):
    device.calls.let(0)
    with asking(server, "/generate", DRAW | stream) as connection:
        device.calls.wait_reached(1)
        leave(connection)
    device.calls.let_all()
    assert client.post("/generate", json=NEXT).status_code == 200
    assert numbers(server).ended_jobs == {"cancelled": 1, "done": 1}
    wait_until(lambda: not server.server_state.tasks and server.app.state.drain.num_jobs == 0)
