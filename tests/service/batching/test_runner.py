from __future__ import annotations

from functools import partial

import pytest

from service.batching.policy import Limits
from service.errors import InputError, JobFailedError, UnknownImageError
from service.jobs import Accepted, Cancelled, Failed, GenerateJob, Outcome, Receipt


def drain(runner):
    """All events until the runner is idle, by job."""
    told = {}
    while not runner.idle:
        for job_id, event in runner.step():
            told.setdefault(job_id, []).append(event)
    return told


def add(runner, *names):
    for name in names:
        runner.add(name, GenerateJob(name))


def kinds(events):
    return [type(event) for event in events]


def test_one_job_runs_from_accepted_to_receipt(bench):
    runner = bench.runner()
    add(runner, "a")
    assert kinds(drain(runner)["a"]) == [Accepted, Receipt]
    assert bench.steps == [["a"]] * 3


def test_jobs_of_one_shape_share_each_network_call(bench):
    runner = bench.runner()
    add(runner, "a", "b")
    told = drain(runner)
    assert bench.steps == [["a", "b"]] * 3
    assert [kinds(events) for events in told.values()] == [[Accepted, Receipt]] * 2


def test_jobs_of_other_shapes_take_turns(bench):
    bench.scripts["b"] = lambda name: bench.plain(name, shape_key="large")
    runner = bench.runner()
    add(runner, "a", "b")
    drain(runner)
    assert bench.steps == [["a"], ["b"]] * 3


def test_events_of_new_jobs_come_before_the_next_network_call(bench):
    runner = bench.runner()
    add(runner, "a")
    assert kinds(event for _, event in runner.step()) == [Accepted]
    assert bench.steps == []
    assert [call.name for call in runner.calls] == ["a"]


def test_a_job_waits_while_all_places_are_taken(bench):
    bench.limits = Limits(running_jobs=1)
    runner = bench.runner()
    add(runner, "a", "b")
    drain(runner)
    assert bench.steps == [["a"]] * 3 + [["b"]] * 3


def test_the_receipt_says_how_long_the_job_waited(bench):
    runner = bench.runner()
    runner.add("a", GenerateJob("a"), waited_seconds=100.0)
    seconds = drain(runner)["a"][-1].seconds
    assert seconds["queue"] >= 100
    assert seconds["total"] == seconds["queue"] + 4.0


def failing(error, num_calls=0):
    def script(name):
        yield Accepted(name, None, 3)
        for _ in range(num_calls):
            yield bench_call(name)
        raise error

    return script


def bench_call(name):
    from types import SimpleNamespace  # noqa: PLC0415

    return SimpleNamespace(name=name, shape_key="small", num_images=2, num_rows=10)


@pytest.mark.parametrize("num_calls", [0, 1])
def test_a_named_error_ends_its_job_only(bench, num_calls):
    error = UnknownImageError("x")
    bench.scripts["bad"] = failing(error, num_calls)
    runner = bench.runner()
    add(runner, "bad", "good")
    told = drain(runner)
    assert told["bad"][1:] == [Failed(error)]
    assert kinds(told["good"]) == [Accepted, Receipt]


def test_a_defect_is_logged_and_named(bench, caplog):
    bench.scripts["bad"] = failing(ZeroDivisionError("secret prompt"))
    runner = bench.runner()
    add(runner, "bad", "good")
    told = drain(runner)
    error = told["bad"][-1].error
    assert isinstance(error, JobFailedError)
    assert "secret" not in str(error)
    assert "ZeroDivisionError" in caplog.text
    assert kinds(told["good"]) == [Accepted, Receipt]


def test_an_engine_that_refuses_to_start_fails_the_job(bench):
    def refuse(name):
        raise InputError("prompt", name)

    bench.scripts["bad"] = refuse
    runner = bench.runner()
    add(runner, "bad")
    assert kinds(drain(runner)["bad"]) == [Failed]


def test_a_failing_network_call_fails_each_of_its_jobs_and_no_other(bench):
    bench.scripts["c"] = lambda name: bench.plain(name, shape_key="large")
    works = bench.predict
    bench.predict = lambda unet, calls: works(unet, calls) if calls[0].name == "c" else 1 / 0
    runner = bench.runner()
    add(runner, "a", "b", "c")
    told = drain(runner)
    assert [kinds(told[name])[-1] for name in "abc"] == [Failed, Failed, Receipt]
    assert bench.closed == ["a", "b"]


def test_a_missing_prediction_fails_the_jobs(bench):
    bench.predict = lambda unet, calls: []  # noqa: ARG005  # the names are part of the signature
    runner = bench.runner()
    add(runner, "a")
    assert kinds(drain(runner)["a"]) == [Accepted, Failed]


def test_a_script_without_a_receipt_fails(bench):
    bench.scripts["a"] = lambda name: iter_events(Accepted(name, None, 1))
    runner = bench.runner()
    add(runner, "a")
    assert kinds(drain(runner)["a"]) == [Accepted, Failed]


def test_the_receipt_comes_only_if_the_script_ends_well(bench):
    def script(name):
        yield Receipt(name)
        raise OSError("the recording could not be kept")

    bench.scripts["a"] = script
    runner = bench.runner()
    add(runner, "a")
    assert kinds(drain(runner)["a"]) == [Failed]


def iter_events(*events):
    yield from events


def test_a_cancelled_job_cleans_up_and_tells_nothing_more(bench):
    runner = bench.runner()
    add(runner, "a", "b")
    runner.step()
    assert runner.cancel("a")
    assert bench.closed == ["a"]
    assert set(drain(runner)) == {"b"}


def test_a_waiting_job_can_be_cancelled(bench):
    runner = bench.runner()
    add(runner, "a")
    assert runner.cancel("a")
    assert not runner.cancel("a")
    assert runner.idle


def test_a_script_that_fails_to_clean_up_is_logged(bench, caplog):
    def script(name):
        try:
            yield Accepted(name, None, 1)
            yield bench_call(name)
        finally:
            raise OSError("disk")

    bench.scripts["a"] = script
    runner = bench.runner()
    add(runner, "a")
    runner.step()
    assert runner.cancel("a")
    assert "did not clean up" in caplog.text


def test_chores_are_done_one_a_step_in_their_order(bench):
    runner = bench.runner([partial(bench.steps.append, [name]) for name in ("first", "second")])
    for done in ([["first"]], [["first"], ["second"]]):
        assert not runner.idle
        assert runner.step() == []
        assert bench.steps == done
    assert runner.idle


def test_no_chore_is_done_while_a_job_is_there(bench):
    runner = bench.runner([partial(bench.steps.append, ["chore"])])
    add(runner, "a")
    assert kinds(drain(runner)["a"]) == [Accepted, Receipt]
    assert bench.steps == [["a"]] * 3 + [["chore"]]


def test_a_chore_that_fails_is_logged_and_ends_alone(bench, caplog):
    runner = bench.runner([lambda: 1 / 0, partial(bench.steps.append, ["chore"])])
    drain(runner)
    assert bench.steps == [["chore"]]
    assert "ZeroDivisionError" in caplog.text


def test_a_runner_that_is_closed_does_no_more_chores(bench):
    runner = bench.runner([partial(bench.steps.append, ["chore"])])
    runner.close()
    assert runner.idle
    assert bench.steps == []


def test_an_outcome_needs_a_receipt():
    with pytest.raises(JobFailedError, match="stopped"):
        Outcome.of([Accepted("a", None, 1), Cancelled()])
