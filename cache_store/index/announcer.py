"""What a worker has, kept written in Redis, whatever happens to Redis.

The shelf is the truth. What changed there is *pending* until Redis agrees. Before each heartbeat and in each write the
worker looks whether its registration is the one that it wrote last. Where it is not, Redis was wiped, restarted or set
back, or forgot the worker: a new *term* begins, in which nothing counts but what is announced from then on, and
everything is pending.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from math import ceil

from cache_store.index import Entry
from cache_store.index.breaker import Breaker
from cache_store.index.ledger import Ledger, Lifetimes, News, Stale
from cache_store.index.records import Registration
from cache_store.index.shelf import Key, Shelf

BATCH = 64  # changes of one write
BATCH_PLACED = 4  # of these so many embeddings are put into a vector set: Redis serves nobody else meanwhile
NUM_SAMPLED = 16  # elements looked at with each heartbeat, for what dead workers left


@dataclass(eq=False)
class _Change:
    """One that is pending; a later one of the same key takes its place."""

    stale: Entry | None = None  # of another worker's key: what is removed


class Announcer:
    """Writes a worker's entries, one `turn` at a time; turns are taken by one thread, all else by any."""

    def __init__(
        self,
        shelf: Shelf,
        ledger: Ledger,
        worker: str,
        epoch: int,
        lifetimes: Lifetimes,
        clock: Callable[[], float],  # seconds
    ) -> None:
        self.worker, self.epoch = worker, epoch
        self.superseded = False  # a later epoch of this worker has registered: this one is silent
        self.fault: Exception | None = None  # what went wrong last
        self._shelf, self._ledger, self._lifetimes = shelf, ledger, lifetimes
        self._clock, self._breaker = clock, Breaker(clock)
        self._pending: dict[Key, _Change] = {}  # at most as many as fit on the shelf
        self._changed = threading.Condition(threading.Lock())
        self._term, self._revision = 0, 0
        self._written: set[Registration] = set()  # what may stand in Redis: of a failed write nobody knows
        self._heartbeat_due = clock()
        self._to_renew: deque[Key] = deque()

    @property
    def up(self) -> bool:
        """Whether Redis answered when it was last written to."""
        return self._breaker.closed

    @property
    def num_pending(self) -> int:
        """Changes that Redis does not know yet."""
        return len(self._pending)

    def is_pending(self, key: Key) -> bool:
        """Whether what Redis says of a key is out of date."""
        return key in self._pending

    def mark(self, key: Key, stale: Entry | None = None) -> None:
        """Of an own key: its entry has changed, or is gone. Of another's: remove it where it is still `stale`."""
        with self._changed:
            self._pending[key] = _Change(stale)
            if len(self._pending) > self._shelf.max_entries:
                self._begin_term()

    def look(self) -> None:
        """Makes the next turn one that looks whether Redis has lost something."""
        self._heartbeat_due = self._clock()

    def wait(self, timeout_seconds: float) -> bool:
        """Until nothing is pending; whether that came to pass."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, timeout_seconds)

    def turn(self) -> float:
        """Does a little of what is due; seconds until the next turn is. Raises nothing: `fault` is what went wrong."""
        if self._breaker.wait_seconds:
            return self._breaker.wait_seconds
        try:
            if self._clock() >= self._heartbeat_due:
                self._beat()
            if self._pending and not self.superseded:
                self._write()
        except Exception as fault:  # noqa: BLE001  # whatever it is, the next turn tries again
            self.fault = fault
            self.look()
            self._breaker.trip()
            return self._breaker.wait_seconds
        self._breaker.reset()
        if self._pending and not self.superseded:
            return 0.0
        return max(0.0, self._heartbeat_due - self._clock())

    def leave(self) -> None:
        """Tells the others that this worker has ended. Raises what the client raises."""
        registration = self._ledger.registration(self.worker)
        if registration is not None and registration.epoch == self.epoch:
            self._ledger.unregister(self.worker)

    def _beat(self) -> None:
        """Renews the registration and some entries, and looks for what was lost."""
        seen = self._ledger.registration(self.worker)
        self.superseded = seen is not None and seen.epoch > self.epoch
        if not self.superseded:
            if seen not in self._written:
                with self._changed:
                    self._begin_term()
            registration = self._next_registration()
            self._ledger.register(self.worker, registration)
            self._written = {registration}
            self._renew()
        self._heartbeat_due = self._clock() + self._lifetimes.worker_seconds / 3

    def _renew(self) -> None:
        """Marks a share of the own entries, each thrice in its lifetime, and what dead workers left beside one."""
        if not self._to_renew:
            self._to_renew.extend(self._shelf.keys())
        share = self._lifetimes.worker_seconds / self._lifetimes.entry_seconds
        due = [self._to_renew.popleft() for _ in range(min(len(self._to_renew), ceil(share * len(self._shelf))))]
        for key in due:
            self.mark(key)
        for stale in self._ledger.sample(due[0].space, NUM_SAMPLED) if due else ():
            self.mark(*stale)

    def _begin_term(self) -> None:
        """Under the lock. All own entries are pending, others' are left to others."""
        self._term += 1
        self._pending = {key: _Change() for key in self._shelf.keys()}  # noqa: SIM118  # a shelf is no mapping

    def _next_registration(self) -> Registration:
        """Remembered before it is written."""
        self._revision += 1
        registration = Registration(self.epoch, self._term, self._revision)
        self._written.add(registration)
        return registration

    def _write(self) -> None:
        """Writes the first pending changes."""
        with self._changed:
            changes = dict(islice(self._pending.items(), BATCH))
            registration = self._next_registration()
        for key, change in changes.items():
            if key.worker != self.worker:
                self._ledger.remove(Stale(key, change.stale))
        own = {key: self._shelf.get(key) for key in changes if key.worker == self.worker}
        news = [News(key, *kept) for key, kept in own.items() if kept is not None]
        placed, new, later = self._divide(news)
        gone = [key for key, kept in own.items() if kept is None]
        seen = self._ledger.write(self.worker, registration, placed, new, gone)
        with self._changed:
            if seen not in self._written:
                self._begin_term()
            for key in changes.keys() - later:
                if self._pending.get(key) is changes[key]:
                    del self._pending[key]
            self._changed.notify_all()
        self._written = {registration}

    def _divide(self, news: list[News]) -> tuple[list[News], list[News], set[Key]]:
        """Those whose embeddings are in Redis, a few of the others, and which have to wait for another turn."""
        are_placed = self._ledger.are_placed(news)
        placed = [one for one, is_placed in zip(news, are_placed, strict=True) if is_placed]
        new = [one for one, is_placed in zip(news, are_placed, strict=True) if not is_placed]
        return placed, new[:BATCH_PLACED], {one.key for one in new[BATCH_PLACED:]}
