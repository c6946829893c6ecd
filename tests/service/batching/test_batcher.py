from __future__ import annotations

import queue
import random
import threading
from functools import partial

import pytest

from service.batching.desk import Order
from service.errors import BusyError, NotReadyError
from service.jobs import Accepted, Cancelled, Failed, GenerateJob, Receipt

GUARD_SECONDS = 30  # a test that hangs fails


def test_events_come_from_the_device_thread(open_batcher, submit):
    batcher = open_batcher()
    assert batcher.wait_opened() == "ready"
    _, told = submit(batcher)
    assert told.kinds() == [Accepted, Receipt]


def test_no_job_is_taken_while_the_model_loads(open_batcher, submit, bench):
    may_load = threading.Event()

    def load():
        assert may_load.wait(GUARD_SECONDS)
        return bench.runner()

    batcher = open_batcher(load)
    assert batcher.state == "loading"
    with pytest.raises(NotReadyError, match="loading"):
        submit(batcher)
    may_load.set()
    assert batcher.wait_opened() == "ready"


def test_a_full_queue_refuses_and_says_when_to_come_back(open_batcher, submit, bench):
    batcher = open_batcher()
    batcher.wait_opened()
    bench.call_seconds = 1.0
    submit(batcher)[1].kinds()  # a job of 3 s: the mean goes from 10 to 8.6
    bench.may_step.clear()
    for _ in range(4):
        submit(batcher)
    with pytest.raises(BusyError) as refused:
        submit(batcher)
    assert refused.value.retry_after_seconds == pytest.approx(2 * 8.6)  # two share the device until both are done


def test_a_place_is_free_again_after_a_job(open_batcher, submit):
    batcher = open_batcher(max_jobs=1)
    batcher.wait_opened()
    for _ in range(3):
        assert submit(batcher)[1].kinds() == [Accepted, Receipt]


def test_a_cancelled_job_ends_at_its_next_step(open_batcher, submit, bench):
    bench.may_step.clear()
    batcher = open_batcher()
    batcher.wait_opened()
    job_id, told = submit(batcher)
    assert isinstance(told.next(), Accepted)
    batcher.cancel(job_id)
    bench.may_step.set()
    assert told.kinds() == [Cancelled]
    assert bench.closed == ["a"]
    assert len(bench.steps) <= 1


def test_cancelling_a_job_that_has_ended_does_nothing(open_batcher, submit):
    batcher = open_batcher()
    batcher.wait_opened()
    job_id, told = submit(batcher)
    told.kinds()
    batcher.cancel(job_id)
    assert submit(batcher)[1].kinds() == [Accepted, Receipt]


def test_a_listener_that_raises_loses_its_job_only(open_batcher, submit, caplog):
    def refuse(event):
        raise RuntimeError(type(event).__name__)

    batcher = open_batcher()
    batcher.wait_opened()
    batcher.submit([Order(GenerateJob("deaf"), refuse)])
    assert submit(batcher)[1].kinds() == [Accepted, Receipt]
    assert "could not deliver" in caplog.text


def test_closing_ends_jobs_at_their_next_step_and_takes_no_more(open_batcher, submit, bench):
    bench.may_step.clear()
    batcher = open_batcher()
    batcher.wait_opened()
    _, told = submit(batcher)
    assert isinstance(told.next(), Accepted)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    assert batcher._desk.wait_while({"ready"}, GUARD_SECONDS) == "draining"
    with pytest.raises(NotReadyError, match="shutting down"):
        submit(batcher)
    bench.may_step.set()
    assert isinstance(told.next().error, NotReadyError)
    closing.join(GUARD_SECONDS)
    assert batcher.state == "dead"
    assert bench.closed == ["a"]


def test_a_chore_that_comes_later_wakes_a_device_that_sleeps(open_batcher, bench):
    runner, done = bench.runner(), queue.Queue()
    assert open_batcher(lambda: runner).wait_opened() == "ready"
    for number in range(3):
        runner.do_later(partial(done.put, number))
        assert done.get(timeout=GUARD_SECONDS) == number


def test_chores_are_done_while_nobody_asks(open_batcher, submit, bench):
    done = threading.Semaphore(0)
    batcher = open_batcher(lambda: bench.runner([done.release] * 2))
    for _ in range(2):
        assert done.acquire(timeout=GUARD_SECONDS)
    assert submit(batcher)[1].kinds() == [Accepted, Receipt]


def test_a_job_that_comes_during_a_chore_is_before_the_next_one(open_batcher, submit, bench):
    is_doing, may_do = threading.Event(), threading.Event()

    def chore():
        is_doing.set()
        assert may_do.wait(GUARD_SECONDS)
        bench.steps.append(["chore"])

    batcher = open_batcher(lambda: bench.runner([chore] * 2))
    assert is_doing.wait(GUARD_SECONDS)
    assert batcher.state == "ready"
    _, told = submit(batcher)
    may_do.set()
    assert told.kinds() == [Accepted, Receipt]
    assert bench.steps[:4] == [["chore"]] + [["a"]] * 3


def test_closing_waits_for_one_chore_at_most(open_batcher, bench):
    is_doing, may_do = threading.Event(), threading.Event()

    def chore():
        is_doing.set()
        assert may_do.wait(GUARD_SECONDS)
        bench.steps.append(["chore"])

    batcher = open_batcher(lambda: bench.runner([chore] * 2))
    assert is_doing.wait(GUARD_SECONDS)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    assert batcher._desk.wait_while({"ready"}, GUARD_SECONDS) == "draining"
    may_do.set()
    closing.join(GUARD_SECONDS)
    assert batcher.state == "dead"
    assert bench.steps == [["chore"]]


def test_closing_does_not_wait_for_a_device_that_hangs(open_batcher, submit, bench, caplog):
    bench.may_step.clear()
    batcher = open_batcher()
    batcher.wait_opened()
    _, told = submit(batcher)
    assert bench.has_begun.wait(GUARD_SECONDS)
    batcher.close(deadline_seconds=0.01)
    assert batcher.state == "dead"
    assert isinstance(told.last().error, NotReadyError)
    assert "has not ended its step" in caplog.text


def test_closing_twice_is_fine(open_batcher):
    batcher = open_batcher()
    batcher.close()
    batcher.close()


def test_however_jobs_come_and_go_each_ends_once(open_batcher, submit, bench):
    bench.scripts["bad"] = lambda name: (_ for _ in [Accepted(name, None, 1), 1 / 0])
    batcher = open_batcher(max_jobs=1000)
    batcher.wait_opened()
    told = []

    def client(seed):
        rng = random.Random(seed)
        for _ in range(20):
            job_id, events = submit(batcher, rng.choice(["a", "b", "bad"]))
            told.append(events)
            if rng.random() < 0.4:
                batcher.cancel(job_id)

    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(6)]
    for one in clients:
        one.start()
    for one in clients:
        one.join(GUARD_SECONDS)
    endings = [events.kinds()[-1] for events in told]
    batcher.close()
    assert len(endings) == 120
    assert {Receipt, Failed, Cancelled} >= set(endings) >= {Receipt, Failed}
    assert all(events.empty() for events in told)
    assert (batcher.numbers().queued_jobs, batcher.numbers().running_jobs) == (0, 0)


def test_numbers_count_what_was_done(open_batcher, submit, bench):
    bench.scripts["bad"] = lambda name: (_ for _ in [Accepted(name, None, 1), 1 / 0])
    batcher = open_batcher()
    batcher.wait_opened()
    assert batcher.numbers().ended_jobs == {}
    for name in ("a", "bad"):
        submit(batcher, name)[1].kinds()
    numbers = batcher.numbers()
    assert numbers.ended_jobs == {"done": 1, "failed": 1}
    assert numbers.steps_by_images == {2: 3}
    assert (numbers.queued_jobs, numbers.running_jobs, numbers.queue_seconds) == (0, 0, 0)
