"""Overload: arrivals wait for nobody, sums are right, and the program runs before a service of its own."""

from __future__ import annotations

import asyncio
import json
import random

import pytest

from loadtests import overload
from loadtests.arrivals import Sent, poisson, send_at, send_in_turn
from loadtests.overload import Ended, Plan, as_text, server, summary
from loadtests.served import served

GUARD_SECONDS = 60  # a test that hangs fails


def test_arrivals_are_the_same_with_the_same_seed_and_as_many_as_was_said():
    times, again = (list(poisson(50, 100, random.Random(0))) for _ in range(2))
    assert times == again == sorted(times)
    assert 0 < times[0] < times[-1] < 100
    assert len(times) == pytest.approx(5000, abs=3 * 5000**0.5)  # three standard deviations


def test_requests_are_sent_whether_or_not_earlier_ones_are_answered():
    async def send():
        last = asyncio.Event()

        async def ask(number):
            if number == 2:
                last.set()
            await last.wait()
            return number

        return await asyncio.wait_for(send_at([0.0, 0.0, 0.001], ask), GUARD_SECONDS)

    sent = asyncio.run(send())
    assert sent.answers == [0, 1, 2]
    assert len(sent.lag_seconds) == 3


def test_in_a_closed_loop_each_client_waits_for_its_answer():
    running, most = set(), []

    async def ask(number):
        running.add(number)
        most.append(len(running))
        await asyncio.sleep(0)
        running.remove(number)
        return number

    answers, seconds = asyncio.run(send_in_turn(3, 0.01, ask))
    assert sorted(answers) == list(range(len(answers)))
    assert max(most) == 3
    assert seconds >= 0.01


def test_what_was_taken_is_in_time_when_its_answer_is_there_by_the_deadline():
    ends = [("done", 4.0), ("done", 11.0), ("late", 10.1), ("refused", 0.01), ("refused", 0.07), ("not_ready", 0.02)]
    told = summary(Sent([Ended(*one) for one in ends], [0.0] * 6), Plan(seconds=2, deadline_seconds=10))
    assert told["sent"] == 6
    assert told["ended"] == {"done": 2, "late": 1, "refused": 2, "not_ready": 1, "failed": 0}
    assert told["accepted"]["seconds"] == {"p50": 10.1, "p95": 10.91, "max": 11.0}
    assert told["accepted"]["in_time"] == pytest.approx(1 / 3, abs=1e-4)
    assert told["accepted"]["jobs_per_second"] == 0.5
    assert told["refusals"]["quick"] == pytest.approx(2 / 3, abs=1e-4)


def test_of_the_service_is_told_what_its_metrics_say():
    def metrics(memory, files, wrong, jobs):
        names = ("process_resident_memory_bytes", "process_open_fds")
        ours = ("retouch_prediction_error_seconds_total", "retouch_predictions_total")
        return dict(zip(names + ours, (memory * 2**20, files, wrong, jobs), strict=True))

    told = server(metrics(100, 9, 1.0, 10), [metrics(140, 30, 2.0, 20)], metrics(120, 9, 4.0, 40))
    assert told == {
        "memory_mib": {"before": 100, "max": 140, "after": 120, "each_10_s": [100]},
        "open_files": {"before": 9, "max": 30, "after": 9},
        "prediction_error_seconds": 0.1,
    }
    assert server({}, [], {}) is None


def test_a_service_that_does_not_come_up_is_told_with_its_log():
    with pytest.raises(RuntimeError, match="RETOUCH_LOG_LEVEL"), served(log_level="loud"):
        pass


def test_the_program_prints_and_keeps_one_object(monkeypatch, capsys, tmp_path):
    for name, value in (("THREADS", "1"), ("RUNNING_JOBS", "1"), ("QUEUE_JOBS", "1")):
        monkeypatch.setenv(f"RETOUCH_{name}", value)
    small = ["--size", "64", "--steps", "1", "--clients", "2", "--capacity-seconds", "1", "--seconds", "2"]
    monkeypatch.setattr("sys.argv", ["overload", *small, "--factor", "8", "--json", "--save", str(tmp_path)])
    overload.main()
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "overload.json").read_text())
    assert sum(result["ended"].values()) == result["sent"]
    assert result["ended"]["done"] > 0
    assert result["ended"]["refused"] > 0
    assert result["ended"]["failed"] == 0
    assert result["server"]["memory_mib"]["max"] > 0
    assert result["settings"]["RETOUCH_QUEUE_JOBS"] == "1"
    assert "times that" in as_text(result)
