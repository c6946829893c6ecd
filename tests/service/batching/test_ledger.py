"""What is promised to whom, and what is learned from it. Of these jobs nothing is known: each takes 10 s."""

from __future__ import annotations

import pytest

from service.batching.admission import FIRST_CAUTION
from service.batching.costs import Outlook
from service.batching.ledger import PROMISED, Ledger, Ticket
from service.batching.usage import Usage
from service.errors import BusyError, DeadlineError, InputError
from service.jobs import Cancelled, Failed, GenerateJob, MaskFound, Receipt

LAX = 1000.0


@pytest.fixture
def ledger():
    return Ledger(max_jobs=5, running_jobs=4)


def take(ledger, *names, seconds=None, tenant="", now=0.0):
    """Jobs of one request; `seconds` are what the device has for them."""
    job = GenerateJob("a", tenant=tenant, deadline_seconds=None if seconds is None else seconds / PROMISED)
    tickets = {name: Ticket(job, [].append, now, None) for name in names}
    ledger.take(tickets, now)
    return tickets


def test_a_tenant_that_has_promised_itself_everything_shuts_out_nobody_else(ledger):
    greedy = take(ledger, "a", seconds=27, tenant="ann") | take(ledger, "b", seconds=27, tenant="ann")
    with pytest.raises(BusyError, match="late"):
        take(ledger, "c", seconds=LAX, tenant="ann")
    assert all(ticket.is_promised for ticket in greedy.values())
    take(ledger, "c", seconds=LAX, tenant="bob")
    assert list(ledger.tickets) == ["a", "b", "c"]
    assert all(ticket.caution is None for ticket in greedy.values())


def test_a_job_that_asks_for_more_than_half_of_the_device_is_promised_nothing(ledger):
    assert not take(ledger, "a", seconds=19)["a"].is_promised
    assert take(ledger, "b", seconds=LAX)["b"].is_promised


def test_of_a_request_all_jobs_are_taken_or_none(ledger):
    take(ledger, "a", "b")
    with pytest.raises(BusyError, match="queue is full"):
        take(ledger, "c", "d", "e", "f")
    with pytest.raises(BusyError, match="late"):
        take(ledger, "c", "d", "e", seconds=60)  # the five end after 50 s, with caution 62.5
    assert ledger.numbers().num_refused == 7
    assert list(ledger.tickets) == ["a", "b"]
    take(ledger, "c", "d", "e", seconds=63)


def test_more_jobs_than_are_ever_taken_are_the_requests_own_fault(ledger):
    with pytest.raises(InputError, match=r"n: must be at most 5, .* got 6"):
        take(ledger, *"abcdef")


def test_a_request_that_will_be_late_by_itself_is_promised_nothing(ledger):
    tickets = take(ledger, "a", "b", "c", seconds=21)
    assert [ticket.is_promised for ticket in tickets.values()] == [False] * 3


def test_a_burst_of_late_jobs_is_one_lesson(ledger):
    for name in "abcd":
        take(ledger, name, seconds=100)
    for name in "abcd":
        ledger.tell(name, Receipt(name), now=101.0)
    (ticket,) = take(ledger, "e", seconds=100).values()
    assert ticket.caution == pytest.approx(1.2 * FIRST_CAUTION)


def test_jobs_that_are_stopped_are_learned_from(ledger):
    """Each has had 40 s of the device when its client leaves; the next is predicted by that."""
    before = ledger.costs.job_seconds
    for name in "abcdefgh":
        take(ledger, name)[name].usage = Usage(40.0, 3)
        ledger.tell(name, Cancelled(), now=1.0)
        ledger.let_go(name)
    assert before < 34 < ledger.costs.job_seconds < 40


def test_of_a_job_that_has_ended_nothing_is_told(ledger):
    take(ledger, "a")
    assert ledger.tell("a", Cancelled(), now=1.0) is not None
    for event in (MaskFound(None, 0.5), Receipt("a"), Cancelled()):
        assert ledger.tell("a", event, now=2.0) is None
    assert ledger.numbers().ended_jobs == {"cancelled": 1}


def test_what_a_stopped_job_has_had_is_learned_when_the_device_lets_it_go(ledger):
    """Its deadline is told while its step lasts, and that step is charged when it ends."""
    ticket = take(ledger, "a", seconds=5)["a"]
    ledger.tell("a", Failed(DeadlineError(5.0)), now=6.0)
    ticket.usage.seconds, ticket.usage.num_calls = 40.0, 1
    ledger.let_go("a")
    assert ledger.costs.job_seconds == pytest.approx(16)
    ledger.let_go("a")
    assert ledger.costs.job_seconds == pytest.approx(16)


def test_after_any_number_of_late_jobs_punctual_ones_bring_caution_back(ledger):
    """They ask for almost half of the device, the most that is promised; those were late whatever was foreseen."""

    def run(seconds):
        for _ in range(500):
            (ticket,) = take(ledger, "a", seconds=21.0).values()
            ledger.tell("a", Receipt("a"), now=seconds)
        return ticket.caution

    assert run(30.0) == pytest.approx(2, rel=0.02)
    assert run(10.0) == pytest.approx(1, rel=0.02)


def test_what_asks_nothing_of_the_device_moves_no_caution(ledger):
    for _ in range(100):
        job = GenerateJob("known", deadline_seconds=100.0)
        ledger.take({"a": Ticket(job, [].append, 0.0, Outlook())}, 0.0)
        ledger.tell("a", Receipt("a"), now=0.1)
    assert take(ledger, "b", seconds=100)["b"].caution == FIRST_CAUTION
