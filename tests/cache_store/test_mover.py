import threading
import weakref

from cache_store.tiers.mover import Mover

GUARD_SECONDS = 20  # for what comes at once
LATER_SECONDS = 3600.0


class Work:
    """Notes what was done; may be held up."""

    def __init__(self):
        self.done = []
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def do(self, name):
        return lambda: self.done.append(name)

    def wait(self):
        self.begun.set()
        assert self.may_end.wait(GUARD_SECONDS)
        self.done.append("waited")


def test_tasks_run_in_their_order():
    mover, work = Mover(), Work()
    for name in "abc":
        mover.put(name, work.do(name))
    assert mover.settle(GUARD_SECONDS)
    assert work.done == ["a", "b", "c"]


def test_a_key_waits_once_and_may_come_again_while_it_runs():
    mover, work = Mover(), Work()
    mover.put("a", work.wait)
    assert work.begun.wait(GUARD_SECONDS)
    for name in ("first", "second"):
        mover.put("a", work.do(name))
    assert not mover.settle(0)
    work.may_end.set()
    assert mover.settle(GUARD_SECONDS)
    assert work.done == ["waited", "first"]


def test_a_task_for_later_waits_until_somebody_hurries():
    mover, work = Mover(), Work()
    mover.put("a", work.do("a"), after_seconds=LATER_SECONDS)
    mover.put("b", work.do("b"))
    assert mover.settle(GUARD_SECONDS)
    assert work.done == ["b"]
    mover.hurry()
    assert mover.settle(GUARD_SECONDS)
    assert work.done == ["b", "a"]


def test_a_task_for_soon_comes_by_itself():
    mover, begun = Mover(), threading.Event()
    mover.put("a", begun.set, after_seconds=0.001)
    assert begun.wait(GUARD_SECONDS)


def test_a_task_that_fails_is_logged_and_the_next_one_runs(caplog):
    mover, work = Mover(), Work()
    mover.put("a", lambda: 1 / 0)
    mover.put("b", work.do("b"))
    assert mover.settle(GUARD_SECONDS)
    assert work.done == ["b"]
    assert "ZeroDivisionError" in caplog.text


def test_closing_runs_what_waits():
    mover, work = Mover(), Work()
    mover.put("a", work.do("a"), after_seconds=LATER_SECONDS)
    assert mover.close(GUARD_SECONDS)
    mover.put("b", work.do("b"))
    assert mover.close(GUARD_SECONDS)
    assert work.done == ["a"]


def test_closing_does_not_wait_for_ever():
    mover, work = Mover(), Work()
    mover.put("a", work.wait)
    mover.put("b", work.do("b"))
    assert work.begun.wait(GUARD_SECONDS)
    assert not mover.close(0)
    work.may_end.set()
    mover._thread.join(GUARD_SECONDS)
    assert work.done == ["waited"]


def test_it_holds_nothing_that_was_done():
    mover, work = Mover(), Work()
    mover.put("a", work.do("a"))
    assert mover.settle(GUARD_SECONDS)
    forgotten = weakref.ref(work)
    del work
    assert forgotten() is None
