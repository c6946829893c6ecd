"""What a store finds on its disk at the start."""

from __future__ import annotations

from collections.abc import Iterator

from cache_store.activations import Activations
from cache_store.counts import Counts
from cache_store.recording import Entry
from cache_store.rows import Rows
from cache_store.tiers.disk import Disk
from cache_store.tiers.files import DamagedError, StoredFile
from cache_store.tiers.stored import CORE, StoredBlobs, StoredPlaces, rows_name, rows_of_file


class Finder:
    """Makes recordings of files, the oldest first.

    A core is read and checked at once, for it is announced: some MB each, 2 GB a second. Rows are only looked up, and
    checked when somebody wants to read them: most are not read before they leave.
    """

    def __init__(self, disk: Disk, counts: Counts) -> None:
        self._disk = disk
        self._counts = counts
        self._rows: dict[str, Rows | None] = {}

    def recordings(self) -> Iterator[tuple[str, Entry]]:
        """By id. What is damaged is removed and counted."""
        for name in self._disk.names():
            if name.endswith(CORE) and (file := self._whole(name)):
                yield file.meta["id"], Entry(StoredBlobs(file), self._activations(file), file.meta["parent"], 0, True)

    def _activations(self, file: StoredFile) -> Activations | None:
        """None where some rows that it reads are not there."""
        if file.meta["rows"] is None:
            return None
        own, *owners = (self._find(name) for name in (file.meta["rows"], *file.meta["owners"]))
        present = tuple(rows for rows in owners if rows is not None)
        if own is None or len(present) < len(owners):
            return None
        return Activations(own, StoredPlaces(file, present), present, file.meta["depth"])

    def _find(self, name: str) -> Rows | None:
        """One object for all who read from it."""
        if name not in self._rows:
            file = self._whole(rows_name(name), check=False)
            self._rows[name] = rows_of_file(file, name) if file else None
        return self._rows[name]

    def _whole(self, name: str, *, check: bool = True) -> StoredFile | None:
        try:
            file = self._disk.find(name)
            if file is not None and check:
                file.check()
        except DamagedError as error:
            self._counts.add("damaged", error.reason)
            self._disk.remove(name)
            return None
        return file
