"""Clients that connect and then do nothing: they hold nobody up, and are let go."""

from __future__ import annotations

import json
import resource
import socket
from contextlib import ExitStack

import httpx
import pytest

from service.connections import Connection

GUARD_SECONDS = 60  # a test that hangs fails
NUM_CLIENTS = 200
DRAW = {"prompt": "a green hill", "seed": 1, "cache": "off"}
HEAD = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
SMALL_BYTES = 4096  # of the kernel's buffers: a few events fill them, and the server's own


def request_of(body):
    content = json.dumps(body).encode()
    return HEAD + f"Content-Length: {len(content)}\r\n\r\n".encode() + content


STREAM = DRAW | {"stream": True, "preview_every": 1}
SENT = {
    "nothing": b"",
    "half a head": HEAD,
    "half a body": request_of(DRAW)[:-10],
    "all, and reads nothing": request_of(STREAM),
}


def connected(server, sent):
    """A client that has sent this, and reads nothing."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
    connection.settimeout(GUARD_SECONDS)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(sent)
    return connection


def shrink(server):
    """Of what is sent from now on the kernel keeps little."""
    server.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)


def read_all(connection):
    """What came until the server closed the connection."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:  # how a server ends what is not taken
        pass
    return b"".join(parts)


def test_two_hundred_of_them_hold_nobody_up(open_service, wait_until):
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 3 * NUM_CLIENTS
    with open_service(queue_jobs=NUM_CLIENTS) as server, ExitStack() as stack:
        shrink(server)
        kinds = ["nothing", "half a head", "half a body"] * (NUM_CLIENTS // 3 - 1)
        kinds += ["all, and reads nothing"] * (NUM_CLIENTS - len(kinds))
        for kind in kinds:
            stack.enter_context(connected(server, SENT[kind]))
        wait_until(lambda: len(server.server_state.connections) == NUM_CLIENTS)
        answer = httpx.post(f"{server.url}/generate", json=DRAW, timeout=GUARD_SECONDS)
        assert answer.status_code == 200
        assert len(server.server_state.connections) >= NUM_CLIENTS  # all of them still are there


def test_of_too_many_who_has_waited_longest_makes_room(open_service, monkeypatch, wait_until):
    monkeypatch.setattr("service.connections.MOST_CONNECTIONS", 10)
    with open_service() as server, ExitStack() as stack:
        for _ in range(50):
            last = stack.enter_context(connected(server, SENT["half a head"]))
        assert httpx.post(f"{server.url}/generate", json=DRAW, timeout=GUARD_SECONDS).status_code == 200
        wait_until(lambda: len(server.server_state.connections) <= 10)
        last.sendall(b"Content-Length: 0\r\n\r\n")
        assert last.recv(100).startswith(b"HTTP/1.1 422 ")


@pytest.mark.parametrize("kind", ["nothing", "half a head"])
def test_who_sends_no_request_is_let_go(open_service, monkeypatch, kind):
    monkeypatch.setattr(Connection, "head_seconds", 0.2)
    with open_service() as server, connected(server, SENT[kind]) as connection:
        assert read_all(connection) == b""


def test_who_sends_half_a_body_is_told_and_let_go(open_service):
    with open_service(body_seconds=0.2) as server, connected(server, SENT["half a body"]) as connection:
        answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"type":"urn:retouch:problem:slow"' in answer


def test_the_job_of_who_reads_nothing_is_cancelled_when_all_buffers_are_full(
    open_service, wait_until, monkeypatch, caplog
):
    monkeypatch.setattr("service.server.LINE_SECONDS", GUARD_SECONDS)  # not by the kernel
    with open_service(send_seconds=0.2) as server:
        shrink(server)
        with connected(server, request_of(STREAM | {"num_inference_steps": 1000})):
            wait_until(lambda: server.app.state.worker.numbers().batching.ended_jobs == {"cancelled": 1})
            wait_until(lambda: not server.server_state.connections)
            wait_until(lambda: not server.server_state.tasks)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_the_job_of_who_takes_nothing_is_cancelled_when_the_kernel_says_so(
    open_service, device, wait_until, monkeypatch
):
    """Held when so much was sent that the client's kernel has not taken all of it, and ours has the rest."""
    monkeypatch.setattr("service.server.LINE_SECONDS", 0.4 - GUARD_SECONDS)  # not by the server
    device.calls.let(7)
    with open_service(send_seconds=GUARD_SECONDS) as server:
        shrink(server)
        with connected(server, request_of(STREAM | {"num_inference_steps": 10})):
            device.calls.wait_reached(8)
            batcher = server.app.state.worker._batcher
            wait_until(lambda: len(batcher._desk._cancelled) == 1)
            device.calls.let_all()
            wait_until(lambda: batcher.numbers().ended_jobs == {"cancelled": 1})
            wait_until(lambda: not server.server_state.connections)
