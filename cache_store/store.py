"""Recordings: the store's interface.

A recording is a *core* (named blobs: what identifies an image and can draw it again) and its *activations* (planes of
rows for every step). The core stays until it is deleted; activations leave when bytes are needed for others.

A child keeps the rows that it computed and refers to its ancestors for the others (copy on write). Activations that a
child refers to stay as long as the child does, also when their own recording is deleted.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable

from cache_store.activations import Activations, Positions
from cache_store.counts import Counts, Labels
from cache_store.inspection import Description, describe, numbers
from cache_store.layout import Layout
from cache_store.movement import Movement
from cache_store.placement import Placement
from cache_store.recording import Draft, Entry, Recording
from cache_store.rows import Tier
from cache_store.tiers.arena import Arena
from cache_store.tiers.disk import Disk
from cache_store.tiers.files import DamagedError
from cache_store.tiers.stored import Blob

__all__ = ["CORE_BYTES", "Blob", "Draft", "Recording", "Store"]

CORE_BYTES = 1 << 30  # of all cores, where nobody says


def ignore(recording_id: str) -> None:
    """Nobody has to know that it is lost."""


class Store:
    """All recordings of this process, in tiers with a budget of bytes each. Thread-safe.

    Rows are written to the host's memory. With a disk they are also there soon, and come back from there when they are
    read; with a device's arena those that are read often are there, too. Which rows leave a full tier says
    `cache_store.eviction`; never those of an open recording.

    Cores are small (some MB), bounded by number and by bytes of their own: past either the least recently used
    recording is forgotten whole. So it is on a disk that has no room for a new one, if nothing else of it is there.
    """

    def __init__(
        self,
        budget_bytes: int,
        max_recordings: int = 1024,
        core_bytes: int = CORE_BYTES,
        *,
        pinned: bool = False,
        device: Arena | None = None,
        disk: Disk | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_lost: Callable[[str], None] = ignore,
    ) -> None:
        """`budget_bytes` of the host's memory are for rows. `pinned`: page-locked, so that a GPU reads it directly.

        `on_lost` is told the id of a recording whose rows can no longer be read, and of one that is forgotten, before
        their bytes are another's. It is called in any thread, under the store's lock: it must not wait, raise or ask
        the store. What is on the disk is there again. ValueError for a limit that cannot be.
        """
        if max_recordings < 1:
            raise ValueError(f"max_recordings must be at least 1, got {max_recordings}")
        self.max_recordings = max_recordings
        self.core_bytes = core_bytes
        self._host = Arena(budget_bytes, pinned=pinned)
        self._entries: OrderedDict[str, Entry] = OrderedDict()  # least recently used first
        self._open: weakref.WeakSet[Recording] = weakref.WeakSet()
        self._lock = threading.RLock()
        self._counts = Counts()
        arenas: dict[Tier, Arena] = {"host": self._host}
        self._placement = Placement(arenas, disk, self._entries, self._lock, self._counts, clock, on_lost)
        if device is not None:
            self.add_device(device)
        self._movement = Movement(self._entries, self._open, self._placement, self._lock, self._counts, on_lost)
        weakref.finalize(self, self._movement.mover.stop).atexit = False
        self._movement.start()
        self._forget_oldest()

    @property
    def budget_bytes(self) -> int:
        """Of the host's memory."""
        return self._host.budget_bytes

    @property
    def num_bytes(self) -> int:
        """Of the host's memory that rows have, those of drafts and of deleted ancestors included."""
        return self._host.used_bytes

    def add_device(self, arena: Arena) -> None:
        """From now on what is read often is there, too: how large it can be is known when all else is on the device."""
        with self._lock:
            self._placement.arenas["device"] = arena

    def watch(self, watcher: Callable[[str], None]) -> None:
        """From now on it is told of all recordings that are there, the last used first, and of those of a late disk.

        In the thread that moves bytes, between what that has to do: it may wait for the disk. Until another watches, or
        the store is closed.
        """
        self._movement.watch(watcher)

    def ids(self) -> list[str]:
        """All recordings, least recently used first."""
        with self._lock:
            return list(self._entries)

    def is_at_hand(self, recording_id: str) -> bool:
        """Whether nobody who asks it for its rows waits for the disk: they are in memory, or checked, or not there.

        Waits for nothing, the lock included.
        """
        entry = self._entries.get(recording_id)
        activations = entry.activations if entry else None
        return activations is None or all(rows.is_checked for rows in activations.read)

    def create(
        self,
        recording_id: str,
        layout: Layout,
        parent: Recording | None = None,
        positions: Positions | None = None,
        *,
        seconds_saved: float = 1.0,
    ) -> Draft:
        """A draft that keeps all rows, or of a parent's child those at `positions`.

        Where the layout is empty, or the bytes cannot be had, it keeps the core only: a full store sheds, it does not
        fail. `seconds_saved` is what reading the recording saves, over computing densely; any unit, one for all.
        KeyError or ValueError where the positions do not fit the layout, or have no parent to fill the others.
        """
        activations = Activations.of(layout, positions, parent.activations if parent else None)
        activations.own.seconds_saved = seconds_saved
        parent_id = parent.id if parent else None
        with self._lock:
            has_rows = bool(layout) and self._placement.allocate(activations)
            draft = Draft(self, recording_id, activations if has_rows else None, parent_id)
            self._placement.holders.add(draft)
            return draft

    def open(self, recording_id: str, *, uses: bool = True) -> Recording | None:
        """The recording, pinned until it is closed; None where there is none.

        `uses` False: who only looks through all of them makes none more recent, and moves nothing.
        """
        with self._lock:
            entry = self._entries.get(recording_id)
            if entry is None:
                self._counts.add("reads", "none", "miss")
                return None
            if uses:
                self._entries.move_to_end(recording_id)
            recording = Recording(self, recording_id, entry, uses=uses)
            self._open.add(recording)
            self._placement.holders.add(recording)
            return recording

    def delete(self, recording_id: str) -> bool:
        """Forgets a recording, and waits for the disk to do so; whether there was one.

        Who has it open, and its children, keep what they need.
        """
        if not self._movement.knows(recording_id):
            return False
        with self._movement.forgetting(recording_id), self._lock:
            return self._movement.forget(recording_id)

    def evict(self, recording_id: str) -> bool:
        """Drops the activations of a recording, its core stays; whether there were any that nobody needs."""
        with self._lock:
            entry = self._entries.get(recording_id)
            if entry is None or entry.activations is None or self._placement.is_held(entry.activations.own):
                return False
            self._placement.lose(entry.activations.own, "asked")
            self._movement.sweep()
            return True

    def add(self, recording_id: str, entry: Entry) -> None:
        """For a draft: makes its entry visible, unless there is one already that has as much."""
        with self._lock:
            present = self._entries.get(recording_id)
            if present is None or (present.activations is None and entry.activations is not None):
                self._entries[recording_id] = entry  # who has the present one open keeps it, whole
                self._movement.committed(recording_id)
            self._entries.move_to_end(recording_id)
            self._forget_oldest()

    def check(self, entry: Entry, *, uses: bool) -> None:
        """For a recording: its rows are about to be read. Those of a file are checked, or the recording has none.

        `uses` False: they are looked at only, which counts as no read.
        """
        activations = entry.activations
        if activations is None:
            if uses:
                self._counts.add("reads", "none", "core")
            return
        for rows in activations.read:
            try:
                rows.check()
            except DamagedError as error:
                self._counts.add("reads", "disk", "damaged")
                self._movement.damaged(rows, error)
                with self._lock:
                    entry.activations = None  # also of an entry that was deleted since it was opened
                return
        with self._lock:
            if (tier := activations.tier) is None:  # lost just before it was opened
                entry.activations = None
                return
            if uses:
                self._counts.add("reads", tier, "hit")
                self._placement.use(activations)
                entry.hits += 1
                self._movement.read(activations, entry.hits)

    def release(self, recording: Recording, entry: Entry) -> None:
        """For a recording: it is closed, and may have been the last to read what was deleted."""
        with self._lock:
            self._open.discard(recording)
            self._placement.holders.discard(recording)
            self._forget_oldest()
            if (present := self._entries.get(recording.id)) is not entry:
                self._movement.sweep()
                if (
                    present is None or present.activations is None
                ):  # who had it open may have announced it since it was forgotten
                    self._movement.on_lost(recording.id)

    def describe(self) -> list[Description]:
        """All recordings, least recently used first."""
        with self._lock:
            return describe(self._entries, self._placement)

    def counts(self) -> dict[str, dict[Labels, int]]:
        """By name and labels. They only rise, but for `recordings`, `used_bytes`, `budget_bytes` and `disk_on`.

        reads           tier, hit | damaged; none, core | miss
        evictions       tier, demoted (another tier has it) | room | asked | damaged
        shed            tier: what found no room there
        transfer_bytes  from tier, to tier
        damaged         what was wrong
        """
        with self._lock:
            return numbers(self._counts, self._entries, self._placement)

    def settle(self, timeout_seconds: float = 60.0) -> bool:
        """Waits until nothing moves that could move now; whether that came."""
        return self._movement.mover.settle(timeout_seconds)

    def close(self, deadline_seconds: float = 10.0) -> bool:
        """Writes what is not on the disk, as far as the deadline allows; whether all that can be written is."""
        is_done = self._movement.close(deadline_seconds)
        if self._placement.disk is not None:
            self._placement.disk.close()
        return is_done

    def _forget_oldest(self) -> None:
        """Bounds the cores; the pinned stay, and the newest, which its maker may be about to open."""
        num_excess = len(self._entries) - self.max_recordings
        excess_bytes = sum(its.core_bytes for its in self._entries.values()) - self.core_bytes
        if num_excess <= 0 and excess_bytes <= 0:
            return
        pinned = {recording.entry for recording in self._open}
        for one, its in list(self._entries.items())[:-1]:
            if num_excess <= 0 and excess_bytes <= 0:
                return
            if its not in pinned:
                self._movement.forget(one)
                num_excess, excess_bytes = num_excess - 1, excess_bytes - its.core_bytes
