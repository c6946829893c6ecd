"""Every named error goes over the wire and comes back as itself."""

from __future__ import annotations

import httpx
import pytest

from service import errors
from service.api.problems import KINDS
from service.client import AsyncClient, Client, ServerError
from service.client.errors import ERRORS
from service.errors import (
    BusyError,
    ConflictError,
    DeadlineError,
    InputError,
    JobFailedError,
    LimitError,
    NoMaskError,
    NotReadyError,
    RepeatedError,
    RetouchError,
    UnauthorizedError,
    UnknownImageError,
)

NAMED = [
    InputError("seed", "must be less: 9"),
    InputError("seed", "seed: twice"),
    ConflictError("seed", "is the source's, 1; 2 was given"),
    UnknownImageError("a'b"),
    NoMaskError("a'b"),
    UnauthorizedError("the key is not known here"),
    RepeatedError("the request with this Idempotency-Key still runs"),
    BusyError(12.3),
    BusyError(3.0, "the queue is too long; for this deadline"),
    BusyError(0.1, "; try again in 7 s"),
    LimitError(7.0, "this key may run 8 jobs at a time"),
    DeadlineError(0.25),
    NotReadyError("the model is still loading"),
    NotReadyError("the thread that owns the device is started again", 60.25),
    JobFailedError("the device failed"),
]


def test_every_named_error_is_tried_and_known():
    named = {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, RetouchError)}
    assert {type(error) for error in NAMED} == set(ERRORS.values()) == named - {RetouchError}
    assert {name: KINDS[cls].name for name, cls in ERRORS.items()} == {name: name for name in ERRORS}


@pytest.mark.parametrize("error", NAMED, ids=repr)
def test_a_refusal_comes_back_as_itself(client, worker, error):
    worker.refusals = [error]
    with pytest.raises(type(error)) as caught:
        client.edit("a house")
    assert_same(caught.value, error)


@pytest.mark.parametrize("error", NAMED, ids=repr)
def test_a_failure_in_a_stream_comes_back_as_itself(client, worker, error):
    worker.error = error
    with client.stream_edit("a house") as events:
        next(events)
        with pytest.raises(type(error)) as caught:
            next(events)
    assert_same(caught.value, error)


def assert_same(came, error):
    assert type(came) is type(error)
    assert str(came) == str(error)
    assert vars(came) | {"__notes__": None} == vars(error) | {"__notes__": None}


def test_a_defect_is_a_failed_job(client, worker):
    worker.error = ZeroDivisionError("secret")
    with pytest.raises(JobFailedError, match="the service met a defect"):
        client.generate("a house")


def test_an_error_notes_what_the_log_calls_the_request(client, worker):
    worker.refusals = [BusyError(1)]
    with pytest.raises(BusyError) as caught:
        client.generate("a house", request_id="mine-1")
    assert caught.value.__notes__ == ["X-Request-Id: mine-1"]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"seed": -1}, "seed"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"negative_prompt": "\ud800"}, "negative_prompt"),
        ({"colour": "red"}, "colour"),
        ({"idempotency_key": "clé"}, "idempotency_key"),
        ({"request_id": "two\nlines"}, "request_id"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"edit_mask": "no/such.png"}, "edit_mask"),
        ({"edit_mask": b"no picture"}, "edit_mask"),
    ],
)
def test_what_cannot_be_asked_names_the_field(client, worker, fields, name):
    with pytest.raises(InputError) as caught:
        client.edit("a house", **fields)
    assert caught.value.field == name
    assert worker.jobs == []


@pytest.mark.parametrize("base_url", ["localhost:8000", "ftp://localhost", "http://", "", "http://[::1", "http://a:b"])
@pytest.mark.parametrize("opened", [Client, AsyncClient])
def test_an_address_is_checked_when_a_client_is_made(opened, base_url):
    with pytest.raises(InputError, match=r"^base_url: "):
        opened(base_url)


def test_a_key_that_no_header_can_have_is_not_repeated():
    with pytest.raises(InputError, match=r"^key: must be printable ASCII without spaces around it$"):
        Client("http://localhost", "rt_secret\n")


def test_a_service_may_be_below_a_path():
    asked = []

    def answer(request):
        asked.append(request.url.raw_path)
        return httpx.Response(200, content=b"png", headers={"Content-Type": "image/png"})

    with Client("http://localhost/retouch/", transport=httpx.MockTransport(answer)) as client:
        client.image("a?b")
    assert asked == [b"/retouch/images/a%3Fb"]


PROBLEM = {"Content-Type": "application/problem+json"}


@pytest.mark.parametrize(
    ("response", "status", "text"),
    [
        (httpx.Response(502, text="Bad gateway"), 502, "Bad gateway"),
        (httpx.Response(307, headers={"Location": "/there"}), 307, ""),
        (httpx.Response(418, json={"type": "urn:x", "detail": "tea", "status": 418}, headers=PROBLEM), 418, "tea"),
        (httpx.Response(422, json={"type": "urn:retouch:problem:input"}, headers=PROBLEM), 422, "KeyError"),
        (httpx.Response(500, text="no json", headers=PROBLEM), 500, "JSONDecodeError"),
        (httpx.Response(200, text="<html>"), 200, "JSONDecodeError"),
        (httpx.Response(200, json={"image_id": "a"}), 200, "KeyError"),
        (httpx.Response(200, json=[]), 200, "TypeError"),
    ],
)
def test_what_is_no_answer_of_a_service_is_a_server_error(response, status, text):
    with answered_with(response) as client, pytest.raises(ServerError) as caught:
        client.generate("a house")
    assert (caught.value.status, text in caught.value.text) == (status, True)
    assert str(caught.value).startswith(f"the server answered {status}: ")


def test_of_a_strange_answer_the_beginning_is_told():
    with answered_with(httpx.Response(502, text="x" * 5000)) as client, pytest.raises(ServerError) as caught:
        client.ready()
    assert str(caught.value) == f"the server answered 502: {'x' * 200}..."
    assert len(caught.value.text) == 5000


def test_another_document_is_no_picture():
    response = httpx.Response(200, html="<p>a page")
    with answered_with(response) as client, pytest.raises(ServerError, match="must be a PNG, got text/html"):
        client.image("id")


def answered_with(response):
    return Client("http://localhost", transport=httpx.MockTransport(lambda _: response))


@pytest.mark.parametrize("state", ["loading", "draining", "dead"])
def test_a_service_that_takes_no_jobs_is_not_ready(client, worker, state):
    worker.state = state
    assert client.ready() is False


def test_what_the_network_does_stays_httpxs(open_client, unused_url):
    with open_client(unused_url) as client, pytest.raises(httpx.ConnectError):
        client.generate("a house")
