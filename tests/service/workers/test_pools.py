from __future__ import annotations

import asyncio
import threading

import pytest

from service.workers.pools import Pool

GUARD_SECONDS = 30  # a test that hangs fails


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
    begun, may_end = threading.Semaphore(0), threading.Event()

    def call():
        begun.release()
        assert may_end.wait(GUARD_SECONDS)

    async def work():
        calls = [asyncio.create_task(pool.run(call)) for _ in range(3)]
        for _ in range(2):
            assert await asyncio.to_thread(begun.acquire, timeout=GUARD_SECONDS)
        assert not begun.acquire(blocking=False)
        may_end.set()
        await asyncio.gather(*calls)
        assert begun.acquire(blocking=False)

    asyncio.run(work())


def test_closing_cancels_what_waits_and_waits_for_nothing(pool):
    begun, may_end, ran = threading.Semaphore(0), threading.Event(), []

    def call():
        begun.release()
        assert may_end.wait(GUARD_SECONDS)
        return "done"

    async def work():
        running = [asyncio.create_task(pool.run(call)) for _ in range(2)]
        for _ in range(2):
            assert await asyncio.to_thread(begun.acquire, timeout=GUARD_SECONDS)
        waiting = asyncio.create_task(pool.run(ran.append, 1))
        await asyncio.sleep(0)
        pool.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        may_end.set()
        assert await asyncio.gather(*running) == ["done", "done"]

    asyncio.run(work())
    assert ran == []
