"""A directory of files, each whole or not there, within a budget of bytes.

A file is written to a temporary name, synchronised and renamed; then the directory is synchronised. So whatever kills
the process, under a name there is a whole file or none, and what is left over is called `.part` and removed at the next
start. Two processes never share a directory: the first one locks it. One that holds anything else is left alone.

Errors of the system turn the disk off. What is there can be read, but nothing is written until a later attempt works.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from cache_store.tiers.files import DamagedError, StoredFile, encode

log = logging.getLogger(__name__)

SUFFIXES = (".core", ".rows")
PART = ".part"
LOCK = "retouch.lock"


class System(Protocol):
    """What writing asks of the operating system, as the module `os` has it."""

    def open(self, path: str, flags: int, mode: int = 0o777) -> int: ...  # noqa: D102  # as os.open, and so on
    def write(self, fd: int, data: memoryview, /) -> int: ...  # noqa: D102
    def fsync(self, fd: int) -> None: ...  # noqa: D102
    def close(self, fd: int) -> None: ...  # noqa: D102
    def rename(self, src: str, dst: str) -> None: ...  # noqa: D102
    def unlink(self, path: str) -> None: ...  # noqa: D102


class Disk:
    """Files by name. Written and removed by one thread at a time, found by any."""

    def __init__(
        self,
        directory: Path,
        budget_bytes: int,
        *,
        system: System = os,
        retry_seconds: float = 5.0,
        max_retry_seconds: float = 300.0,
    ) -> None:
        """Touches nothing before `start`. ValueError for a negative budget."""
        if budget_bytes < 0:
            raise ValueError(f"budget_bytes must not be negative, got {budget_bytes}")
        self.directory = directory
        self.budget_bytes = budget_bytes
        self.is_on = False
        self.is_started = False
        self.num_failures = 0  # times that it was turned off
        self.reclaimed_bytes = 0  # of what nobody refers to, removed at a start
        self.wait_seconds = retry_seconds  # until the next attempt, longer after each
        self._retry_seconds = retry_seconds
        self._max_retry_seconds = max_retry_seconds
        self._system = system
        self.naming = threading.RLock()  # who publishes, or must know that nobody does now; waits for the system
        self._sizes: dict[str, int] = {}  # bytes, by name
        self._lock = threading.Lock()  # of these; never held while the system is asked
        self._unlock: weakref.finalize[Any, Any] | None = None

    @property
    def used_bytes(self) -> int:
        """Of all files."""
        with self._lock:
            return sum(self._sizes.values())

    def names(self) -> list[str]:
        """Of all files."""
        with self._lock:
            return list(self._sizes)

    def __contains__(self, name: str) -> bool:
        return name in self._sizes

    def size(self, name: str) -> int:
        """Bytes of a file; 0 where there is none."""
        return self._sizes.get(name, 0)

    def path(self, name: str) -> Path:
        """Where a file lies."""
        return self.directory / name

    def start(self) -> bool:
        """Locks the directory, removes what is half-written and finds the rest; whether that worked."""
        with self._guarded():
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock_directory()
            for path in sorted(self.directory.iterdir(), key=lambda path: (path.stat().st_mtime_ns, path.name)):
                if path.name.removesuffix(PART).endswith(SUFFIXES) and path.is_file():
                    self._find(path)
            self.is_started = True
            self._turn_on()
            return True
        return False

    def prepare(self, name: str, meta: Mapping[str, Any], sections: Mapping[str, Tensor]) -> bool:
        """Writes a file that nobody sees before `publish`; whether that worked."""
        part = str(self.path(name + PART))
        if not self.is_started:
            return False
        with self._guarded():
            fd = self._system.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                for chunk in encode(meta, sections):
                    self._write(fd, chunk)
                self._system.fsync(fd)
            finally:
                self._system.close(fd)
            return True
        self.discard(name)
        return False

    def publish(self, name: str) -> StoredFile | None:
        """What was prepared is there, and replaces what was there; None where that did not work."""
        with self._guarded(), contextlib.suppress(DamagedError), self.naming:
            if self.is_started:  # else the directory may be another's by now
                self._system.rename(str(self.path(name + PART)), str(self.path(name)))
                file = StoredFile(self.path(name))
                with self._lock:
                    self._sizes[name] = file.num_bytes
                return file
        self.discard(name)
        return None

    def synchronise(self) -> bool:
        """Renamed files keep their names whatever happens now; whether that worked."""
        with self._guarded():
            fd = self._system.open(str(self.directory), os.O_RDONLY)
            try:
                self._system.fsync(fd)
            finally:
                self._system.close(fd)
            self._turn_on()
            return True
        return False

    def probe(self) -> None:
        """Turns the disk on where a small file can be written."""
        if self.prepare("probe", {}, {}):
            self.discard("probe")
            self.synchronise()

    def discard(self, name: str) -> None:
        """Removes what was prepared."""
        with contextlib.suppress(OSError):
            self._system.unlink(str(self.path(name + PART)))

    def find(self, name: str) -> StoredFile | None:
        """A file, mapped; None where there is none. DamagedError where it is not as it was written."""
        return StoredFile(self.path(name)) if name in self else None

    def remove(self, name: str) -> int:
        """Its bytes, which are free now; 0 where there is no such file, or it cannot be removed."""
        if name not in self:
            return 0
        with self._guarded():
            with contextlib.suppress(FileNotFoundError):
                self._system.unlink(str(self.path(name)))
            with self._lock:
                return self._sizes.pop(name, 0)
        return 0

    def keep_only(self, wanted: Iterable[str]) -> int:
        """Removes all others; bytes that are free now."""
        return sum(self.remove(name) for name in set(self.names()).difference(wanted))

    def close(self) -> None:
        """Another process may have the directory."""
        with self.naming, self._lock:
            self.is_on = self.is_started = False
            self._sizes.clear()
            if self._unlock is not None:
                self._unlock()

    def _find(self, path: Path) -> None:
        if path.name.endswith(PART):
            self.reclaimed_bytes += path.stat().st_size
            self._system.unlink(str(path))
        else:
            self._sizes[path.name] = path.stat().st_size

    def _write(self, fd: int, chunk: memoryview) -> None:
        while chunk:
            chunk = chunk[self._system.write(fd, chunk) :]

    def _lock_directory(self) -> None:
        if self._unlock is None:
            if not self.path(LOCK).exists() and any(self.directory.iterdir()):
                raise OSError(errno.ENOTEMPTY, "it holds something else", str(self.directory))
            fd = os.open(self.path(LOCK), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(fd)
                raise OSError(errno.EBUSY, "another process has it", str(self.directory)) from None
            self._unlock = weakref.finalize(self, os.close, fd)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """An error of the system turns the disk off."""
        try:
            yield
        except OSError as error:
            self._turn_off(error)

    def _turn_off(self, error: OSError) -> None:
        """One line in the log, not one for each attempt."""
        if self.is_on or not self.num_failures:
            self.num_failures += 1
            self.wait_seconds = self._retry_seconds
            reason = str(error)  # whoever keeps the record would keep the error, its frames and the rows in them
            log.warning("the disk tier is off, nothing is written to %s for now: %s", self.directory, reason)
        else:
            self.wait_seconds = min(2 * self.wait_seconds, self._max_retry_seconds)
        self.is_on = False

    def _turn_on(self) -> None:
        if not self.is_on and self.num_failures:
            log.warning("the disk tier is on again: %s", self.directory)
        self.is_on = True
