"""Which rows are in which tier, and who leaves one for whom.

    device   copies of what is read often              leave at any time
    host     where rows are written                    leave when they are on the disk, too; else they are lost
    disk     copies of all, written behind             leave readers first, so that nobody there reads from nowhere

Rows without a copy are lost, and so is what reads from them.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Protocol
from weakref import WeakSet, WeakValueDictionary

from torch import Tensor

from cache_store.activations import Activations
from cache_store.counts import Counts
from cache_store.eviction import Candidate, HitRates, Uses, choose
from cache_store.layout import aligned
from cache_store.recording import Entry
from cache_store.rows import InMemory, Rows, Tier
from cache_store.tiers.arena import Arena
from cache_store.tiers.disk import Disk
from cache_store.tiers.files import PAGE
from cache_store.tiers.stored import InFile, rows_as_parts, rows_name


class Holder(Protocol):
    """Who needs rows to stay where they are, as long as it lives and says so."""

    @property
    def holds(self) -> Sequence[Rows]:
        """Which rows."""


class Placement:
    """Rows in tiers. All is done under the lock of the store, which `write` and `promote` let go while bytes move."""

    def __init__(
        self,
        arenas: MutableMapping[Tier, Arena],  # the host's, and perhaps a device's
        disk: Disk | None,
        entries: Mapping[str, Entry],  # which lose their activations with the rows that they read
        lock: threading.RLock,
        counts: Counts,
        clock: Callable[[], float],
        on_lost: Callable[[str], None],  # which of the entries, under the lock and before bytes are free
    ) -> None:
        self.arenas = arenas
        self.disk = disk
        self.holders: WeakSet[Holder] = WeakSet()  # who reads or writes
        self._moving: Counter[Rows] = Counter()
        self._living: WeakValueDictionary[str, Rows] = WeakValueDictionary()
        self._rates = HitRates()
        self._entries = entries
        self._lock = lock
        self._counts = counts
        self._clock = clock
        self._on_lost = on_lost

    def allocate(self, activations: Activations) -> bool:
        """Memory of the host for rows to be written, others leaving for them; False, and nobody leaves, if in vain."""
        own = activations.own
        slabs = self._take("host", own.lie.sizes, may_lose=True)
        if slabs is None:
            self._counts.add("shed", "host")
            return False
        own.keep("host", InMemory(slabs, self.arenas["host"].in_reach))
        self.add(activations)
        return True

    def add(self, activations: Activations) -> None:
        """From now on it is known which rows it has, and whose it reads."""
        for rows in activations.read:
            if rows.name not in self._living:
                rows.uses = Uses(1, self._clock())
                self._living[rows.name] = rows
        for owner in activations.owners:
            owner.readers.add(activations)

    def use(self, activations: Activations) -> None:
        """Somebody is about to read."""
        now = self._clock()
        self._rates.learn(activations.own.uses, now, hit=True)
        for rows in activations.read:
            rows.uses = rows.uses.again(now)

    def held(self) -> set[Rows]:
        """All that somebody reads or writes."""
        return {rows for holder in self.holders for rows in holder.holds}

    @contextmanager
    def hold(self, rows: Sequence[Rows]) -> Iterator[None]:
        """Nobody gets their room while they are copied; they may still be lost."""
        with self._lock:
            self._moving.update(rows)
        try:
            yield
        finally:
            with self._lock:
                self._moving -= Counter(rows)

    def is_held(self, rows: Rows) -> bool:
        """Whether somebody reads or writes them, or reads from them."""
        return rows in self.held() or any(reader.own.copies for reader in rows.readers)

    def lose(self, rows: Rows, reason: str) -> None:
        """From all tiers. Who reads from them has no activations any more, and that is said first."""
        for tier in rows.copies:
            self._counts.add("evictions", tier, reason)
        self._rates.learn(rows.uses, self._clock(), hit=False)
        readers = {one: its for one, its in self._entries.items() if its.activations and rows in its.activations.read}
        for one in readers:
            self._on_lost(one)
        for entry in readers.values():
            entry.activations = None
        rows.copies = {}

    def file_names(self) -> set[str]:
        """Of all rows that somebody has or reads from, and that are on the disk."""
        return {rows_name(rows) for rows in self._living.values() if "disk" in rows.copies}

    def make_room_on_disk(self, num_bytes: int) -> bool:
        """Removes files until there is room for so many bytes more; False, and nothing is removed, if in vain."""
        if self.disk is None:
            return False
        with self._lock:
            missing_bytes = self.disk.used_bytes + num_bytes - self.disk.budget_bytes
            leaving = self._who_leaves("disk", missing_bytes, may_lose=True)
            for rows in leaving:
                self._leave(rows, "disk")
        for rows in leaving:
            self.disk.remove(rows_name(rows))
        return missing_bytes <= 0 or bool(leaving)

    def fit_disk(self) -> None:
        """Removes what is more than the budget, which may be less than it was; of cores alone nothing."""
        missing_bytes = self.disk.used_bytes - self.disk.budget_bytes if self.disk else 0
        self.make_room_on_disk(min(0, self.fleeting_bytes() - missing_bytes))

    def fleeting_bytes(self) -> int:
        """On the disk, of rows that may leave it."""
        with self._lock:
            held = self.held()
            can_leave = (rows for rows in self._living.values() if "disk" in rows.copies and rows not in held)
            return sum(rows.copies["disk"].num_bytes for rows in can_leave)

    def write(self, rows: Rows) -> bool:
        """Copies rows that are held to the disk, if there is room; False where the disk failed."""
        disk = self.disk
        with self._lock:
            if disk is None or "disk" in rows.copies or not rows.copies:
                return True
            slabs = rows.copies["host" if "host" in rows.copies else "device"].slabs
        if not self.make_room_on_disk(sum(aligned(size, PAGE) for size in rows.lie.sizes) + PAGE):
            self._counts.add("shed", "disk")
            return True
        name = rows_name(rows)
        if not disk.prepare(name, *rows_as_parts(rows, slabs)) or (file := disk.publish(name)) is None:
            return False
        with self._lock:
            if rows.copies:  # else they were lost meanwhile, and the next sweep finds the file
                rows.keep("disk", InFile(file, len(slabs)))
        self._counts.add("transfer_bytes", "host", "disk", count=rows.lie.num_bytes)
        return disk.synchronise()

    def promote(self, rows: Rows, tier: Tier) -> None:
        """Copies rows that are held to a faster tier, if there is room. DamagedError where they are not as written."""
        arena = self.arenas[tier]
        with self._lock:
            origin = rows.tier
            if origin is None or tier in rows.copies:
                return
            source, slabs = rows.copies[origin], self._take(tier, rows.lie.sizes, may_lose=False)
        if slabs is None:
            self._counts.add("shed", tier)
            return
        source.check()
        arena.fill(slabs, source.slabs)
        with self._lock:
            if rows.copies:
                rows.keep(tier, InMemory(slabs, arena.in_reach))
        self._counts.add("transfer_bytes", origin, tier, count=rows.lie.num_bytes)

    def _take(self, tier: Tier, sizes: Sequence[int], *, may_lose: bool) -> tuple[Tensor, ...] | None:
        """Blocks of an arena. Where enough bytes are free, but scattered, more leave, twice as many each time."""
        arena = self.arenas[tier]
        slabs, missing_bytes = arena.take(sizes), sum(map(aligned, sizes)) - arena.free_bytes
        if slabs is None and missing_bytes > 0:
            if not self._make_room(tier, missing_bytes, may_lose=may_lose):
                return None
            slabs = arena.take(sizes)
        scattered_bytes = max(map(aligned, sizes), default=0)
        while slabs is None:
            if not any(self._make_room(tier, least, may_lose=may_lose) for least in (scattered_bytes, 1)):
                return None
            slabs, scattered_bytes = arena.take(sizes), 2 * scattered_bytes
        return slabs

    def _make_room(self, tier: Tier, missing_bytes: int, *, may_lose: bool) -> bool:
        """Others leave a tier for so many bytes; False, and nobody leaves, if in vain."""
        leaving = self._who_leaves(tier, missing_bytes, may_lose=may_lose)
        for rows in leaving:
            self._leave(rows, tier)
        return bool(leaving)

    def _leave(self, rows: Rows, tier: Tier) -> None:
        if _is_last(rows, tier):
            self.lose(rows, "room")
        else:
            rows.drop(tier)
            self._counts.add("evictions", tier, "demoted")

    def _who_leaves(self, tier: Tier, missing_bytes: int, *, may_lose: bool) -> list[Rows]:
        """For so many bytes, in their order; of the host rather those that are on the disk, too."""
        there = [rows for rows in self._living.values() if tier in rows.copies]
        held = self.held().union(self._moving)
        chosen: list[str] = []
        if tier != "disk":
            safe = [_candidate(rows, tier, held) for rows in there if not _is_last(rows, tier)]
            chosen = choose(safe, missing_bytes, self._rates, self._clock())
        if not chosen and may_lose:
            chosen = choose([_candidate(rows, tier, held) for rows in there], missing_bytes, self._rates, self._clock())
        return [self._living[name] for name in chosen]


def _is_last(rows: Rows, tier: Tier) -> bool:
    """Whether rows that leave this tier are lost."""
    return tier != "device" and not rows.copies.keys() - {tier, "device"}


def _candidate(rows: Rows, tier: Tier, held: set[Rows]) -> Candidate:
    """Whom rows cannot leave before: who would read from nowhere, now or after a restart."""
    readers = {reader.own for reader in rows.readers if reader.own.copies}
    if tier == "disk" and not _is_last(rows, tier):
        readers = {reader for reader in readers if "disk" in reader.copies}
    elif not _is_last(rows, tier):
        readers = set()
    return Candidate(
        recording_id=rows.name,
        num_bytes=rows.copies[tier].num_bytes,
        seconds_saved=rows.seconds_saved,
        uses=rows.uses,
        pinned=rows in held,
        readers=frozenset(reader.name for reader in readers),
    )
