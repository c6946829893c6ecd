from __future__ import annotations

import asyncio

import pytest
from PIL import Image

from service.api.repeats import HEADER, Repeats
from service.errors import InputError, RepeatedError
from service.jobs import Accepted, ImageReady, Preview, Receipt

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 30  # a test that hangs fails
DRAW = {"prompt": "a zebra"}
KEY = {HEADER: "one"}
ANN = {"authorization": "Bearer ann-key"}
BOB = {"authorization": "Bearer bob-key"}


async def test_the_same_request_is_answered_again_and_run_once(client, scripts):
    first = await client.post("/edit", json=DRAW, headers=KEY)
    again = await client.post("/edit", json=DRAW, headers=KEY)
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    assert len(scripts.jobs) == 1
    await client.post("/edit", json=DRAW)
    assert len(scripts.jobs) == 2


async def test_a_stream_is_told_again_without_its_previews(call, scripts):
    told = []
    for _ in range(2):
        stream = call("/edit", DRAW | {"stream": True, "preview_every": 1}, **{"idempotency-key": "one"})
        assert (await stream.start())[0] == 200
        told.append(await stream.events())
    first, again = told
    assert first.pop("preview")
    assert list(again) == ["accepted", "mask", "image", "receipt"]
    assert first == again
    assert len(scripts.jobs) == 1


@pytest.mark.parametrize("other", [{"path": "/generate"}, {"json": DRAW | {"seed": 1}}])
async def test_a_key_of_another_request_is_refused_by_name(client, scripts, other):
    await client.post("/edit", json=DRAW, headers=KEY)
    response = await client.post(other.get("path", "/edit"), json=other.get("json", DRAW), headers=KEY)
    assert (response.status_code, response.json()["field"]) == (422, HEADER)
    assert len(scripts.jobs) == 1


async def test_while_the_first_runs_the_second_is_refused(client, scripts):
    scripts.may_step.clear()
    first = asyncio.create_task(client.post("/generate", json=DRAW, headers=KEY))
    await asyncio.to_thread(scripts.begun.wait, GUARD_SECONDS)
    second = await client.post("/generate", json=DRAW, headers=KEY)
    scripts.may_step.set()
    assert second.status_code == 409
    assert second.json()["type"] == "urn:retouch:problem:repeated"
    assert (await first).status_code == 200


async def test_what_failed_may_be_tried_again(client, scripts):
    scripts.error = ZeroDivisionError()
    assert (await client.post("/generate", json=DRAW, headers=KEY)).status_code == 500
    scripts.error = None
    assert (await client.post("/generate", json=DRAW, headers=KEY)).status_code == 200


async def test_what_was_left_may_be_tried_again(client, call, scripts):
    scripts.may_step.clear()
    left = call("/generate", DRAW, **{"idempotency-key": "one"})
    await asyncio.to_thread(scripts.begun.wait, GUARD_SECONDS)
    left.gone.set()
    await left.task
    scripts.may_step.set()
    while client.app.state.worker.numbers().batching.running_jobs:  # noqa: ASYNC110  # at its next step it ends
        await asyncio.sleep(0)
    assert (await client.post("/generate", json=DRAW, headers=KEY)).status_code == 200


@pytest.mark.parametrize("key", ["", "x" * 201])
async def test_a_key_of_no_sensible_length_is_refused(client, key):
    response = await client.post("/generate", json=DRAW, headers={HEADER: key})
    assert (response.status_code, response.json()["field"]) == (422, HEADER)


async def test_one_tenants_key_is_not_anothers(keyed, scripts):
    await keyed.post("/generate", json=DRAW, headers=KEY | ANN)
    await keyed.post("/generate", json=DRAW, headers=KEY | BOB)
    assert len(scripts.jobs) == 2


class Job:
    """Counts how often it is run."""

    def __init__(self, image_id="id", size=(8, 8)):
        self.num_runs = 0
        self.events = [
            Accepted(image_id, None, 1),
            Preview(1, Image.new("RGB", (8, 8)), (0, 0, 8, 8)),
            ImageReady(image_id, Image.new("RGB", size)),
            Receipt(image_id),
        ]

    async def run(self):
        self.num_runs += 1
        for event in self.events:
            yield 0, event


async def ask(repeats, job, key="one", said="this", tenant=""):
    return [event async for _, event in repeats.once(tenant, key, said, job.run)]


@pytest.fixture
def job():
    return Job()


async def test_an_hour_later_it_is_another_request(job):
    now = [0.0]
    repeats = Repeats(10_000, clock=lambda: now[0])
    await ask(repeats, job)
    now[0] = 3599.0
    assert await ask(repeats, job) == [event for event in job.events if not isinstance(event, Preview)]
    now[0] = 3600.0
    await ask(repeats, job, said="something else")
    assert job.num_runs == 2


async def test_the_oldest_answers_make_room():
    now = [0.0]
    repeats = Repeats(2 * (64 * 64 * 3 + 2048), clock=lambda: now[0])
    jobs = [Job(size=(64, 64)) for _ in range(3)]
    for number, job in enumerate(jobs):
        now[0] += 1
        await ask(repeats, job, key=str(number))
    for number in (2, 1, 0):
        await ask(repeats, jobs[number], key=str(number))
    assert [job.num_runs for job in jobs] == [2, 1, 1]


async def test_an_answer_that_is_larger_than_all_room_is_not_kept(job):
    repeats = Repeats(100)
    await ask(repeats, job)
    await ask(repeats, job)
    assert job.num_runs == 2


async def test_a_deleted_picture_is_told_to_nobody(job):
    repeats = Repeats(10_000)
    await ask(repeats, job)
    repeats.forget("", "other")
    await ask(repeats, job)
    assert job.num_runs == 1
    repeats.forget("", "id")
    await ask(repeats, job)
    assert job.num_runs == 2


async def test_what_one_tenant_deletes_is_not_anothers(job):
    repeats = Repeats(10_000)
    for tenant in ("ann", "bob"):
        await ask(repeats, job, tenant=tenant)
    repeats.forget("ann", "id")
    await ask(repeats, job, tenant="bob")
    assert job.num_runs == 2
    await ask(repeats, job, tenant="ann")
    assert job.num_runs == 3


async def test_an_answer_that_was_told_to_its_receipt_is_kept(job):
    """A client may close the connection as soon as it has all that it wants."""
    repeats = Repeats(10_000)
    events = repeats.once("", "one", "this", job.run)
    while not isinstance((await anext(events))[1], Receipt):
        pass
    await events.aclose()
    await ask(repeats, job)
    assert job.num_runs == 1


async def test_another_body_is_refused_even_while_the_first_runs(job):
    repeats = Repeats(10_000)
    events = repeats.once("", "one", "this", job.run)
    await anext(events)
    with pytest.raises(InputError):
        await ask(repeats, job, said="that")
    with pytest.raises(RepeatedError):
        await ask(repeats, job)
    await events.aclose()


class Time(float):
    """Counts how often it is compared."""

    num_compared = 0

    def __add__(self, other):
        return Time(float(self) + other)

    def __le__(self, other):
        Time.num_compared += 1
        return float(self) <= float(other)


async def test_what_is_not_over_yet_is_not_looked_through(job):
    now = [Time(0)]
    repeats = Repeats(10**9, clock=lambda: now[0])
    for number in range(100):
        await ask(repeats, job, key=str(number))
    now[0] = Time(3600)
    await ask(repeats, job, key="100")
    assert job.num_runs == 101
    Time.num_compared = 0
    await ask(repeats, job, key="100")
    assert (job.num_runs, Time.num_compared) == (101, 1)


async def test_an_answer_for_which_there_is_no_room_is_not_kept_for_who_leaves_either(job):
    repeats = Repeats(100)
    for num_runs in (1, 2):
        events = repeats.once("", "one", "this", job.run)
        while not isinstance((await anext(events))[1], Receipt):
            pass
        await events.aclose()
        assert job.num_runs == num_runs


@pytest.mark.parametrize("last", [Accepted, ImageReady, Receipt])
async def test_a_picture_that_is_deleted_while_its_request_runs_is_not_told_again(last):
    first, second = Job("first"), Job("second")

    async def both():
        for number, job in enumerate((first, second)):
            async for _, event in job.run():
                yield number, event

    repeats = Repeats(10**9)
    events = repeats.once("", "one", "this", both, 2)
    while not isinstance((await anext(events))[1], last):
        pass
    repeats.forget("", "first")
    assert [type(event) async for _, event in events][-1] is Receipt
    again = [number async for number, _ in repeats.once("", "one", "this", both, 2)]
    assert (again, first.num_runs) == ([0, 0, 0, 0, 1, 1, 1, 1], 2)


async def test_a_picture_that_is_in_the_store_no_more_is_forgotten_all_the_same(client, scripts):
    """The scripts keep nothing."""
    drawn = (await client.post("/generate", json=DRAW, headers=KEY)).json()
    assert (await client.delete(f"/images/{drawn['image_id']}")).status_code == 404
    await client.post("/generate", json=DRAW, headers=KEY)
    assert len(scripts.jobs) == 2
