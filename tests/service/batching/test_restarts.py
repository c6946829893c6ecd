"""A device thread that dies is replaced, and whoever waits for it is answered."""

from __future__ import annotations

import threading

import pytest

from cache_store.store import Store
from service.batching.policy import Limits
from service.batching.runner import Runner
from service.batching.states import check_ready
from service.errors import InputError, JobFailedError, NotReadyError
from service.jobs import Accepted, EditJob, Failed, GenerateJob, Receipt, SamplingRequest

GUARD_SECONDS = 30  # a test that hangs fails


class Pauses:
    """Stands in for waiting: notes how long, and goes on when it may."""

    def __init__(self):
        self.seconds = []
        self.has_begun = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()

    def __call__(self, _closing, seconds):
        self.seconds.append(seconds)
        self.has_begun.set()
        assert self.may_end.wait(GUARD_SECONDS)


@pytest.fixture
def pauses():
    return Pauses()


class Mortals:
    """Opens runners that die at a step while they are to die."""

    def __init__(self, new_runner, may_step):
        self.new_runner = new_runner
        self.may_step = may_step
        self.death = RuntimeError("defect")
        self.are_to_die = True
        self.threads = []

    def open(self):
        self.threads.append(threading.current_thread())
        runner = self.new_runner()
        works = runner.step

        def step():
            assert self.may_step.wait(GUARD_SECONDS)
            if self.are_to_die:
                raise self.death
            return works()

        runner.step = step
        return runner


@pytest.fixture
def mortals(bench):
    return Mortals(bench.runner, bench.may_step)


@pytest.mark.parametrize("death", [RuntimeError("defect"), SystemExit(1)])
def test_when_the_thread_dies_every_job_fails_and_another_thread_serves(
    open_batcher, submit, bench, mortals, pauses, death
):
    mortals.death = death
    bench.may_step.clear()
    pauses.may_end.clear()
    batcher = open_batcher(mortals.open, pause=pauses)
    batcher.wait_opened()
    waiting = [submit(batcher)[1] for _ in range(3)]
    bench.may_step.set()
    for told in waiting:
        assert isinstance(told.next().error, JobFailedError)
    assert pauses.has_begun.wait(GUARD_SECONDS)
    assert batcher.state == "restarting"
    with pytest.raises(NotReadyError, match="started again"):
        submit(batcher)
    mortals.are_to_die = False
    pauses.may_end.set()
    assert batcher.wait_opened() == "ready"
    assert submit(batcher)[1].kinds() == [Accepted, Receipt]
    assert batcher.numbers().num_restarts == 1
    assert len(set(mortals.threads)) == 2


def test_pauses_grow_until_a_job_is_done(open_batcher, submit, mortals, pauses):
    batcher = open_batcher(mortals.open, pause=pauses)

    def die():
        mortals.are_to_die = True
        assert submit(batcher)[1].kinds() == [Failed]
        mortals.are_to_die = False
        batcher.wait_opened()

    batcher.wait_opened()
    for _ in range(8):
        die()
    assert submit(batcher)[1].kinds() == [Accepted, Receipt]
    die()
    assert pauses.seconds == [1, 2, 4, 8, 16, 32, 60, 60, 1]


def test_a_model_that_does_not_load_is_tried_again(open_batcher, submit, bench, pauses):
    errors = [OSError("no such file")] * 4

    def load():
        if errors:
            raise errors.pop()
        return bench.runner()

    batcher = open_batcher(load, pause=pauses)
    assert batcher.wait_opened() == "ready"
    assert pauses.seconds == [1, 2, 4, 8]
    assert submit(batcher)[1].kinds() == [Accepted, Receipt]


def test_a_model_that_never_loads_ends_the_batcher(open_batcher, submit, pauses, caplog):
    def load():
        raise OSError("no such file")

    batcher = open_batcher(load, pause=pauses)
    assert batcher.wait_opened() == "dead"
    assert len(pauses.seconds) == 4
    assert "no such file" in caplog.text
    with pytest.raises(NotReadyError, match="ended"):
        submit(batcher)


def test_what_was_asked_wrongly_is_not_tried_again(open_batcher, pauses):
    def load():
        raise InputError("model", "there is no such directory")

    batcher = open_batcher(load, pause=pauses)
    assert batcher.wait_opened() == "dead"
    assert pauses.seconds == []


def test_closing_ends_a_pause(open_batcher, submit, mortals):
    begun = threading.Event()

    def pause(closing, _seconds):
        begun.set()
        assert closing.wait(GUARD_SECONDS)

    batcher = open_batcher(mortals.open, pause=pause)
    batcher.wait_opened()
    submit(batcher)
    assert begun.wait(GUARD_SECONDS)
    batcher.close()
    assert batcher.state == "dead"


def test_without_a_thread_to_begin_the_batcher_is_dead(open_batcher, submit, bench, mortals, monkeypatch):
    bench.may_step.clear()
    batcher = open_batcher(mortals.open)
    batcher.wait_opened()
    _, told = submit(batcher)

    def start(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    bench.may_step.set()
    assert told.kinds() == [Failed]
    assert batcher._desk.wait_while({"ready", "restarting"}, GUARD_SECONDS) == "dead"


@pytest.mark.parametrize("state", ["loading", "restarting", "hung", "draining", "dead"])
def test_every_other_state_is_not_ready_and_says_why(state):
    with pytest.raises(NotReadyError):
        check_ready(state)
    check_ready("ready")


def test_what_was_drawn_before_a_death_is_edited_after_it(open_batcher, submit, bench, postcard, pauses):
    """The store is not the thread's: the picture is still there, and its rows are read."""
    store, sampling = Store(1 << 30), SamplingRequest(num_inference_steps=3, width=64, height=64)
    mortals = Mortals(lambda: Runner(postcard, store, Limits()), bench.may_step)
    mortals.are_to_die = False
    batcher = open_batcher(mortals.open, pause=pauses)
    batcher.wait_opened()
    drawn = submit(batcher, GenerateJob("a red house", sampling))[1].last()
    mortals.are_to_die = True
    assert submit(batcher, GenerateJob("a blue house", sampling))[1].kinds() == [Failed]
    mortals.are_to_die = False
    batcher.wait_opened()
    edited = submit(batcher, EditJob("a red tent", drawn.image_id))[1].last()
    assert (edited.source_id, edited.tier) == (drawn.image_id, "host")


def test_who_asks_meanwhile_is_told_when_the_thread_will_be_there(open_batcher, submit, bench, mortals, pauses):
    pauses.may_end.clear()
    batcher = open_batcher(mortals.open, pause=pauses)
    batcher.wait_opened()
    submit(batcher)[1].kinds()
    assert pauses.has_begun.wait(GUARD_SECONDS)
    bench.now += 0.25
    with pytest.raises(NotReadyError) as refused:
        submit(batcher)
    assert refused.value.retry_after_seconds == 1  # of which .75 are left; but nobody is asked to come at once
    mortals.are_to_die = False
    pauses.may_end.set()
    batcher.wait_opened()
    for _ in range(3):
        mortals.are_to_die = True
        submit(batcher)[1].kinds()
        mortals.are_to_die = False
        batcher.wait_opened()
    pauses.may_end.clear()
    mortals.are_to_die = True
    submit(batcher)[1].kinds()
    with pytest.raises(NotReadyError) as refused:
        submit(batcher)
    assert refused.value.retry_after_seconds == 16
    bench.now += 17.0  # it takes longer than it did
    with pytest.raises(NotReadyError) as refused:
        submit(batcher)
    assert refused.value.retry_after_seconds == 5
    mortals.are_to_die = False
    pauses.may_end.set()


@pytest.mark.parametrize("name", ["become", "end_all", "restarted"])
def test_a_defect_while_a_death_is_dealt_with_leaves_nobody_waiting(
    open_batcher, submit, mortals, pauses, monkeypatch, name
):
    batcher = open_batcher(mortals.open, pause=pauses)
    batcher.wait_opened()
    works, are_left = getattr(batcher._desk, name), [RuntimeError("defect")]

    def fail(*given, **named):
        if are_left:
            raise are_left.pop()
        return works(*given, **named)

    monkeypatch.setattr(batcher._desk, name, fail)
    told = submit(batcher)[1]
    assert told.kinds() == [Failed]
    assert batcher._desk.wait_while({"ready", "restarting"}, GUARD_SECONDS) == "dead"


def test_a_device_that_nobody_knows_is_guessed_like_a_cpu(open_batcher, submit, bench):
    bench.foresight = lambda _job: None
    bench.foresight.device = "mps"
    batcher = open_batcher()
    assert batcher.wait_opened() == "ready"
    assert submit(batcher)[1].kinds() == [Accepted, Receipt]
