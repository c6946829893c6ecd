"""How connections end on which too much, or no HTTP, is sent: the answer arrives, and nothing is left behind."""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager

import pytest

from service import connections

GUARD_SECONDS = 60  # a test that hangs fails
HEAD = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
MUCH = bytes(1 << 20)


@pytest.fixture
def server(open_service):
    with open_service(body_bytes=1000) as opened:
        yield opened


@contextmanager
def connected(server):
    with socket.create_connection(("127.0.0.1", server.port), GUARD_SECONDS) as connection:
        yield connection


def read_all(connection):
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("announced", [True, False])
def test_who_sends_too_much_is_told_so(server, announced):
    body = f"Content-Length: {len(MUCH)}\r\n\r\n".encode() + MUCH
    chunks = b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n0\r\n\r\n" % (len(MUCH), MUCH)
    with connected(server) as connection:
        connection.sendall(HEAD + (body if announced else chunks))
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).startswith(b"HTTP/1.1 413 ")


def test_who_never_stops_sending_is_cut_off(server, monkeypatch, wait_until):
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.2)
    with connected(server) as connection:
        connection.sendall(CHUNKED + b"%x\r\n" % len(MUCH) + MUCH[:2000])
        assert read_all(connection).startswith(b"HTTP/1.1 413 ")
        wait_until(lambda: not server.server_state.connections)


def test_who_speaks_no_http_is_told_so_by_a_problem(server):
    with connected(server) as connection:
        connection.sendall(b"hello\r\n\r\n")
        head, _, content = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"application/problem+json" in head
    assert json.loads(content)["type"] == "urn:retouch:problem:no-http"


def test_a_body_that_breaks_off_into_something_else_ends_its_request(server, wait_until):
    with connected(server) as connection:
        connection.sendall(CHUNKED + b"2\r\n{}\r\n")
        wait_until(lambda: len(server.server_state.tasks) == 1)
        connection.sendall(b"no size\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 400 ")
        wait_until(lambda: not server.server_state.tasks)


def test_after_a_body_whose_end_is_told_twice_the_connection_is_closed(server):
    body = b"2\r\n{}\r\n0\r\n\r\n"
    hidden = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(server) as connection:
        connection.sendall(HEAD + b"Content-Length: 999\r\nTransfer-Encoding: chunked\r\n\r\n" + body + hidden)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 422 ")
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("other", [b"h2c", b"websocket"])
def test_who_would_rather_speak_something_else_is_answered_and_not_logged(server, caplog, other):
    asked = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: %b\r\n\r\n" % other
    with connected(server) as connection:
        connection.sendall(asked)
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]
