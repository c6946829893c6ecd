from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import weakref

import pytest

from service.errors import NotReadyError
from service.workers.pools import Pool

GUARD_SECONDS = 30  # a test that hangs fails
BLOCKED = """
import asyncio, threading
from service.workers.pools import Pool

async def work():
    pool, begun = Pool("its", 1), threading.Event()
    call = asyncio.create_task(pool.run(lambda: begun.set() or threading.Event().wait()))
    await asyncio.to_thread(begun.wait)
    pool.close()
    print("closed")

asyncio.run(work())
"""


class Blocking:
    """A call that goes on until it may end."""

    def __init__(self):
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Event()

    def __call__(self):
        self.begun.release()
        assert self.may_end.wait(GUARD_SECONDS)
        return "done"

    async def wait_begun(self, num_calls):
        for _ in range(num_calls):
            assert await asyncio.to_thread(self.begun.acquire, timeout=GUARD_SECONDS)


@pytest.fixture
def pool():
    made = Pool("its", 2)
    yield made
    made.close()


def test_a_call_runs_in_a_thread_of_its_name_and_returns_or_raises(pool):
    assert asyncio.run(pool.run(threading.current_thread)).name.startswith("its")
    assert asyncio.run(pool.run(divmod, 7, 2)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(pool.run(divmod, 7, 0))


def test_so_many_run_at_a_time(pool):
    call = Blocking()

    async def work():
        calls = [asyncio.create_task(pool.run(call)) for _ in range(3)]
        await call.wait_begun(2)
        assert not call.begun.acquire(blocking=False)
        call.may_end.set()
        await asyncio.gather(*calls)
        assert call.begun.acquire(blocking=False)

    asyncio.run(work())


def test_closing_cancels_what_waits_and_waits_for_nothing(pool):
    call, ran = Blocking(), []

    async def work():
        running = [asyncio.create_task(pool.run(call)) for _ in range(2)]
        await call.wait_begun(2)
        waiting = asyncio.create_task(pool.run(ran.append, 1))
        await asyncio.sleep(0)
        pool.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        call.may_end.set()
        assert await asyncio.gather(*running) == ["done", "done"]

    asyncio.run(work())
    assert ran == []


def test_a_pool_that_is_closed_takes_nothing_and_says_so(pool):
    assert asyncio.run(pool.run(divmod, 7, 2)) == (3, 1)
    pool.close()
    with pytest.raises(NotReadyError):
        asyncio.run(pool.run(divmod, 7, 2))


def test_a_call_that_never_returns_keeps_no_process_from_its_end():
    ended = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, check=True, timeout=GUARD_SECONDS)  # noqa: S603  # this file's own
    assert (ended.stdout, ended.stderr) == (b"closed\n", b"")


def test_who_is_cancelled_while_it_waits_is_not_run(pool):
    call, ran = Blocking(), []

    async def work():
        running = [asyncio.create_task(pool.run(call)) for _ in range(2)]
        await call.wait_begun(2)
        waiting = asyncio.create_task(pool.run(ran.append, 1))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        call.may_end.set()
        await asyncio.gather(*running, *(pool.run(int) for _ in range(2)))

    asyncio.run(work())
    assert ran == []


def test_a_thread_that_waits_holds_nothing_of_its_last_call(pool):
    class Large:
        """What a call is given, and returns."""

    gone = threading.Event()

    async def work():
        given = Large()
        weakref.finalize(given, gone.set)
        assert await pool.run(lambda: given) is given

    asyncio.run(work())
    assert gone.wait(GUARD_SECONDS)
