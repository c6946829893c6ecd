"""When the same is asked again."""

from __future__ import annotations

import httpx
import pytest

from service.client import AsyncClient, Client, ServerError
from service.errors import BusyError, InputError, NotReadyError


@pytest.fixture
def waits():
    return []


@pytest.fixture
def patient(scripted_server, worker, open_client, waits):
    """A client that tries twice again; its sleeps are noted, not slept."""
    del worker

    async def anote(seconds):
        waits.append(seconds)

    sleep = waits.append if open_client is Client else anote
    with open_client(scripted_server[0], retries=2, sleep=sleep) as client:
        yield client


def test_a_busy_service_is_asked_again_when_it_says(patient, worker, waits):
    worker.refusals = [BusyError(12.3), NotReadyError("the model is still loading")]
    assert patient.generate("a house").image_id == "id"
    assert waits == [13.0, 5.0]
    assert len(worker.jobs) == 3


def test_a_stream_is_asked_for_again_too(patient, worker, waits):
    worker.refusals = [BusyError(2)]
    with patient.stream_generate("a house") as events:
        assert next(events).image_id == "id"
    assert waits == [2.0]


def test_it_is_not_asked_for_ever(patient, worker, waits):
    worker.refusals = [BusyError(1), BusyError(2), BusyError(3), BusyError(4)]
    with pytest.raises(BusyError, match="in 3 s"):
        patient.generate("a house")
    assert waits == [1.0, 2.0]


def test_nobody_waits_longer_than_a_minute(patient, worker, waits):
    worker.refusals = [BusyError(60), BusyError(61)]
    with pytest.raises(BusyError, match="in 61 s"):
        patient.generate("a house")
    assert waits == [60.0]


def test_other_refusals_are_final(patient, worker, waits):
    worker.refusals = [InputError("seed", "is wrong")]
    with pytest.raises(InputError):
        patient.generate("a house")
    assert (waits, len(worker.jobs)) == ([], 1)


def test_by_default_nothing_is_asked_again(client, worker):
    worker.refusals = [BusyError(1)]
    with pytest.raises(BusyError):
        client.generate("a house")
    assert len(worker.jobs) == 1


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "Wed, 25 Nov 2026 22:00:00 GMT"}, {"Retry-After": "-1"}])
def test_who_does_not_say_when_is_not_asked_again(waits, headers):
    transport = httpx.MockTransport(lambda _: httpx.Response(503, headers=headers))
    client = Client("http://localhost", retries=2, sleep=waits.append, transport=transport)
    with client, pytest.raises(ServerError):
        client.generate("a house")
    assert waits == []


@pytest.mark.parametrize("opened", [Client, AsyncClient])
def test_clients_sleep_by_their_own_means(opened):
    assert opened("http://localhost")._sleep.__name__ == "sleep"
