"""What moves beside the requests: to the disk soon after a commit, back when it is read, away when nobody has it."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from functools import partial
from weakref import ref

from cache_store.activations import Activations
from cache_store.counts import Counts
from cache_store.layout import aligned
from cache_store.placement import Placement
from cache_store.recording import Entry, Recording
from cache_store.restart import Finder
from cache_store.rows import Rows, Tier
from cache_store.tiers.disk import Disk
from cache_store.tiers.files import PAGE, DamagedError
from cache_store.tiers.mover import Mover
from cache_store.tiers.stored import core_as_parts, core_name

log = logging.getLogger(__name__)

HOT_HITS = 2  # of a recording whose rows are copied to a device


class Movement:
    """Keeps files as the entries are, a little later. A task may be repeated: it looks what is still to be done."""

    def __init__(
        self,
        entries: OrderedDict[str, Entry],  # least recently used first
        opened: AbstractSet[Recording],
        placement: Placement,
        lock: threading.RLock,  # of the entries
        counts: Counts,
        on_lost: Callable[[str], None],
    ) -> None:
        self.on_lost = on_lost
        self._entries = entries
        self._opened = opened
        self._found: deque[str] = deque()  # of whom nobody was told yet
        self._watcher: Callable[[str], None] | None = None
        self._placement = placement
        self._disk = placement.disk
        self._lock = lock
        self._counts = counts
        self.mover = Mover()

    def start(self) -> None:
        """What is whole on the disk is there again, the rest is removed. Where that fails it is tried again."""
        if self._disk is None:
            return
        if not self._disk.start():
            self._try_later(self._disk)
            return
        found = dict(Finder(self._disk, self._counts).recordings())
        with self._lock:
            meanwhile = list(self._entries)
            for recording_id, entry in found.items():
                if self._entries.setdefault(recording_id, entry) is entry and entry.activations:
                    self._placement.add(entry.activations)
            for recording_id in meanwhile:  # is newer than what was found
                self._entries.move_to_end(recording_id)
            self._found.extend(one for one, entry in reversed(found.items()) if self._entries[one] is entry)
        self._tell_soon()
        self._counts.add("reclaimed_bytes", count=self._disk.reclaimed_bytes + self._sweep())
        self._placement.fit_disk()

    def watch(self, watcher: Callable[[str], None]) -> None:
        """From now on it is told of all recordings that are there, and then of those that a late disk brings."""
        with self._lock:
            self._found, self._watcher = deque(reversed(self._entries)), watcher
        self._tell_soon()

    def close(self, deadline_seconds: float) -> bool:
        """Writes what waits, as far as the deadline allows, and tells nobody of anything; whether all was written."""
        with self._lock:
            self._found, self._watcher = deque(), None
        return self.mover.close(deadline_seconds)

    def committed(self, recording_id: str) -> None:
        """It is written soon."""
        if self._disk is not None and self._disk.is_on:
            self.mover.put(("write", recording_id), partial(self._write, recording_id))

    def knows(self, recording_id: str) -> bool:
        """Whether there is such a recording, or its file still is."""
        return recording_id in self._entries or (self._disk is not None and core_name(recording_id) in self._disk)

    def forget(self, recording_id: str) -> bool:
        """Nobody finds it any more; whether there was one. Its files are removed soon. Under the lock."""
        if recording_id not in self._entries:
            return False
        self.on_lost(recording_id)
        del self._entries[recording_id]
        self.sweep()
        return True

    @contextmanager
    def forgetting(self, recording_id: str) -> Iterator[None]:
        """Its name is gone from the disk, too, when this ends: also a process that is killed then has forgotten it.

        Not under the lock: it waits for the disk. Its rows' file is removed soon, if nobody reads from it.
        """
        if self._disk is None:
            yield
            return
        with self._disk.naming:
            yield
            self._disk.remove(core_name(recording_id))

    def sweep(self) -> None:
        """Files that nobody needs are removed soon."""
        if self._disk is not None and self._disk.is_started:
            self.mover.put("sweep", self._sweep)

    def read(self, activations: Activations, hits: int) -> None:
        """They are copied to the host, or where they are hot to the device, if they are not there."""
        for rows in activations.read:
            if "host" not in rows.copies:
                self.mover.put(("host", rows.name), partial(self._promote, ref(rows), "host"))
            elif hits >= HOT_HITS and "device" in self._placement.arenas and "device" not in rows.copies:
                self.mover.put(("device", rows.name), partial(self._promote, ref(rows), "device"))

    def damaged(self, rows: Rows, error: DamagedError) -> None:
        """Nobody gets them any more, nor what reads from them."""
        log.warning("rows are dropped: %s", str(error))  # the error would keep its frames, and the rows in them
        self._counts.add("damaged", error.reason)
        with self._lock:
            self._placement.lose(rows, "damaged")
        self.sweep()

    def _tell_soon(self) -> None:
        """Of one after another, between which others have their turn: a watcher reads from the disk."""
        if self._watcher and self._found:
            self.mover.put("tell", self._tell)

    def _tell(self) -> None:
        with self._lock:
            watcher, recording_id = self._watcher, self._found.popleft() if self._found else None
        if watcher and recording_id:
            try:
                watcher(recording_id)
            finally:
                self._tell_soon()

    def _promote(self, still_there: ref[Rows], tier: Tier) -> None:
        """Unless they were forgotten while they waited, which waiting must not hinder."""
        rows = still_there()
        if rows is None:
            return
        try:
            with self._placement.hold((rows,)):
                self._placement.promote(rows, tier)
        except DamagedError as error:
            self.damaged(rows, error)

    def _write(self, recording_id: str) -> bool:
        """A core, and the rows that it reads, owners first; False where the disk failed.

        Before, what nobody needs any more makes room: rows die wherever their last reader lets go of them.
        """
        disk = self._disk
        if disk is None:
            return True
        self._sweep()
        entry = self._entries.get(recording_id)
        is_written = entry is None or (self._write_core(disk, recording_id, entry) and self._write_rows(entry))
        if not is_written:
            self._try_later(disk)
        return is_written

    def _write_core(self, disk: Disk, recording_id: str, entry: Entry) -> bool:
        if entry.is_stored:
            return True
        name = core_name(recording_id)
        meta, sections = core_as_parts(recording_id, entry.blobs, entry.activations, entry.parent_id)
        if not self._make_room(disk, PAGE + sum(aligned(len(data), PAGE) for data in sections.values()), entry):
            self._counts.add("shed", "disk")
            return True
        if not disk.prepare(name, meta, sections):
            return False
        with disk.naming:  # nobody deletes it between the question and the answer
            if self._entries.get(recording_id) is not entry:
                disk.discard(name)
                return True
            entry.is_stored = disk.publish(name) is not None
        return entry.is_stored and disk.synchronise()

    def _make_room(self, disk: Disk, num_bytes: int, entry: Entry) -> bool:
        """For the core of an entry rows leave the disk, or who has nothing else there, the least recently used first.

        False, and nobody leaves, if in vain.
        """
        if self._placement.make_room_on_disk(num_bytes):
            return True
        missing_bytes = disk.used_bytes + num_bytes - disk.budget_bytes - self._placement.fleeting_bytes()
        leaving = []
        with self._lock:
            pinned = {recording.entry for recording in self._opened}
            for one, its in self._entries.items():
                is_bare = its.activations is None or "disk" not in its.activations.own.copies
                if missing_bytes > 0 and its.is_stored and is_bare and its is not entry and its not in pinned:
                    leaving.append(one)
                    missing_bytes -= disk.size(core_name(one))
            if missing_bytes > 0:
                return False
            for one in leaving:
                self.forget(one)
        self._sweep()
        return self._placement.make_room_on_disk(num_bytes)

    def _write_rows(self, entry: Entry) -> bool:
        """Nothing without its core or its owners: it could not be read."""
        activations = entry.activations if entry.is_stored else None
        in_order = (*activations.owners, activations.own) if activations else ()
        with self._placement.hold(in_order):
            for rows in in_order:
                if not self._placement.write(rows):
                    return False
                if "disk" not in rows.copies:
                    break
        return True

    def _sweep(self) -> int:
        """Bytes that are free now."""
        if self._disk is None:
            return 0
        with self._lock:
            cores = set(map(core_name, self._entries))  # also of who is made again: until then the old one is there
            wanted = cores | self._placement.file_names()
        num_bytes = self._disk.keep_only(wanted)
        if not self._disk.is_on:
            self._try_later(self._disk)
        return num_bytes

    def _try_later(self, disk: Disk) -> None:
        self.mover.put("retry", self._retry, disk.wait_seconds)

    def _retry(self) -> None:
        """Everything that was not written meanwhile, as far as it goes."""
        disk = self._disk
        if disk is None:
            return
        if not disk.is_started:
            self.start()
        if not disk.is_started or not all(self._write(one) for one in list(self._entries)):
            return
        if not disk.is_on:
            disk.probe()
        self._sweep()
