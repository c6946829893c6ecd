"""The index of all workers that share a Redis 8."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf
from typing import Self, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from cache_store.index import Array, Counts, Entry, Hit, Space
from cache_store.index.announcer import Announcer
from cache_store.index.breaker import Breaker
from cache_store.index.ledger import Ledger, Lifetimes
from cache_store.index.shelf import Key, Shelf, unit
from cache_store.index.tally import Tally

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

WRITE_SECONDS = 5.0  # that a write may take, in the thread that does nothing else


def connect(url: str, timeout_seconds: float) -> redis.Redis:
    """A client that tries once. It connects when it is first used."""
    return redis.Redis.from_url(
        url,
        protocol=3,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )


class RedisIndex:
    """An `Index` of what this worker has, exact and in memory, and of what others have announced in Redis.

    No call waits for Redis longer than `bound_seconds`. Own entries are admitted to memory and announced by a thread;
    others' are asked for while Redis answers, and are left out while it does not (`up` is False then). `fault` is what
    went wrong last. The thread tries again by itself, and announces everything anew where Redis has lost something.
    """

    def __init__(
        self,
        lookups: redis.Redis,
        writes: redis.Redis,
        worker: str,
        epoch: int,
        *,
        max_entries: int = 1 << 16,
        bound_seconds: float = 0.05,
        lifetimes: Lifetimes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Clients as `connect` makes them, one for calls, one for the thread; of a worker's epochs the latest counts.

        ValueError where the worker's name is empty or has a slash.
        """
        if not worker or "/" in worker:
            raise ValueError(f"worker must be a name without a slash, got {worker!r}")
        lifetimes = lifetimes or Lifetimes()
        self.worker, self.epoch, self.bound_seconds = worker, epoch, bound_seconds
        self._shelf, self._tally = Shelf(max_entries), Tally()
        self._asked, self._written = Ledger(lookups, lifetimes), Ledger(writes, lifetimes)
        self._announcer = Announcer(self._shelf, self._written, worker, epoch, lifetimes, clock)
        self._breaker = Breaker(clock, closed=False)
        self._fault: Exception | None = None
        self._told_up = True  # what the log was told last
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="retouch-index")
        self._thread: threading.Thread | None = None
        self._woken, self._closed = threading.Event(), threading.Event()

    @classmethod
    def open(
        cls, url: str, worker: str, epoch: int, *, max_entries: int = 1 << 16, bound_seconds: float = 0.05
    ) -> Self:
        """Of a Redis at `url`, which need not be there yet; its thread is started. ValueError as the constructor."""
        clients = connect(url, bound_seconds), connect(url, WRITE_SECONDS)
        return cls(*clients, worker, epoch, max_entries=max_entries, bound_seconds=bound_seconds).start()

    @property
    def up(self) -> bool:
        """Whether Redis answered in time when it was last asked."""
        return self._breaker.closed

    @property
    def fault(self) -> Exception | None:
        """What went wrong last, for a log line."""
        return self._fault or self._announcer.fault

    @property
    def num_pending(self) -> int:
        """Changes that Redis does not know yet."""
        return self._announcer.num_pending

    def counts(self) -> Counts:
        """As `Index.counts`."""
        return self._tally.counts()

    def admit(self, space: Space, embedding: Array, entry: Entry) -> None:
        """As `Index.admit`: known here at once, to others soon. ValueError also for another worker or epoch."""
        if (entry.worker, entry.epoch) != (self.worker, self.epoch):
            raise ValueError(f"entry must be of {self.worker!r}, epoch {self.epoch}, got {entry}")
        for key in self._shelf.put(space, embedding, entry):
            self._announcer.mark(key)
        self._announcer.mark(Key(space, entry.recording_id, entry.worker))
        self._woken.set()

    def evict(self, recording_id: str, worker: str) -> None:
        """As `Index.evict`, of this worker; others may be pointed to it a little longer, and verify."""
        for key in self._shelf.drop(recording_id, worker):
            self._announcer.mark(key)
        self._woken.set()

    def nearest(
        self, space: Space, embedding: Array, count: int, min_similarity: float, worker: str | None = None
    ) -> list[Hit]:
        """As `Index.nearest`. What this worker has itself is found exactly, others' by an approximate search."""
        own = self._shelf.nearest(space, embedding, count, min_similarity, worker)
        if worker == self.worker:
            self._tally.lookup("hit" if own else "miss")
            return own
        direction = unit(embedding)
        answer = self._ask(lambda: self._asked.nearest(space, direction, count, min_similarity, self.worker, worker))
        found, stale = answer or ([], [])
        for one in stale:
            self._announcer.mark(*one)
            self._woken.set()
        others = [hit for hit in found if not self._announcer.is_pending(_key(hit))]
        hits = _merge(own, others)[:count]
        self._tally.lookup("hit" if hits else "down" if answer is None else "miss")
        return hits

    def holders(self, tenant: str, recording_id: str) -> list[Entry]:
        """As `Index.holders`."""
        others = self._ask(lambda: self._asked.holders(tenant, recording_id)) or []
        return self._shelf.holders(tenant, recording_id) + [one for one in others if one.worker != self.worker]

    def reject(self, hit: Hit) -> None:
        """As `Index.reject`: gone from here at once."""
        self._tally.stale_hit()
        if hit.entry.worker != self.worker:
            self._announcer.mark(_key(hit), hit.entry)
        for key in self._shelf.discard(hit):
            self._announcer.mark(key)
        self._woken.set()

    def start(self) -> Self:
        """Begins to announce, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="retouch-index", daemon=True)
        self._thread.start()
        return self

    def turn(self) -> float:
        """What the thread does again and again: a little of what is due; seconds until the next turn is."""
        seconds = min(self._probe(), self._announcer.turn())
        self._tell()
        return seconds

    def flush(self, timeout_seconds: float) -> bool:
        """Waits until Redis knows all that was admitted and evicted; whether it does."""
        return self._announcer.wait(timeout_seconds)

    def close(self) -> None:
        """Ends the thread, and tells the others that this worker has ended: they find nothing of it any more."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join(self.bound_seconds)
        self._ask(self._announcer.leave)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._asked.close()
        self._written.close()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._woken.wait(self.turn())
            self._woken.clear()

    def _probe(self) -> float:
        """Where Redis failed and a try is due: whether it answers again. Seconds until the next try."""
        if self._breaker.closed:
            return inf
        if self._breaker.wait_seconds:
            return self._breaker.wait_seconds
        try:
            self._asked.ping()
        except Exception as fault:  # noqa: BLE001  # whatever it is, the next turn tries again
            self._fault = fault
            self._breaker.trip()
            return self._breaker.wait_seconds
        self._breaker.reset()
        self._announcer.look()
        return inf

    def _tell(self) -> None:
        """The log hears once that Redis is gone, and once that it is back. An error's text may hold its password."""
        is_up = self.up and self._announcer.up
        if is_up and not self._told_up:
            log.info("Redis answers again: the index is shared")
        elif self._told_up and not is_up:
            fault = type(self.fault).__name__
            log.warning("Redis does not answer (%s): the index has this worker's recordings alone", fault)
        self._told_up = is_up

    def _ask(self, question: Callable[[], Answer]) -> Answer | None:
        """Redis's answer within the bound, or None. Asked in a thread: resolving a name obeys no time-out."""
        if not self._breaker.closed:
            return None
        try:
            return self._pool.submit(question).result(self.bound_seconds)
        except Exception as fault:  # noqa: BLE001  # the index is advisory: whatever it is, callers go on without
            self._fault = fault
            self._breaker.trip()
            self._woken.set()
            return None


def _key(hit: Hit) -> Key:
    return Key(hit.space, hit.entry.recording_id, hit.entry.worker)


def _merge(own: list[Hit], others: list[Hit]) -> list[Hit]:
    """Each recording once, best first: the own entry, or else the newest."""
    hits = {hit.entry.recording_id: hit for hit in own}
    for hit in sorted(others, key=lambda hit: hit.entry.created, reverse=True):
        hits.setdefault(hit.entry.recording_id, hit)
    return sorted(hits.values(), key=lambda hit: hit.similarity, reverse=True)
