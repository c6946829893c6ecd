"""One file of the disk tier: named sections after a header, all of it under checksums.

    magic, version, bytes of the header, checksum    20 bytes
    JSON: {"meta": ..., "sections": {name: [begin, bytes, checksum]}}
    zeros up to a multiple of 4096
    section, zeros up to a multiple of 4096
    section ...

A checksum is zlib's CRC-32; the header's is of all else in the header, a section's includes the zeros after it: no bit
of a file can change unnoticed. A file is mapped, not read: its pages come when they are used.
"""

from __future__ import annotations

import json
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache_store.layout import aligned

MAGIC = b"RETOUCH\n"
VERSION = 1
PAGE = 4096
CHUNK_BYTES = 8 << 20  # of one write
_BEGIN = struct.Struct("<8sII")
_CHECKSUM = struct.Struct("<I")
_ZEROS = bytes(PAGE)


class DamagedError(Exception):
    """A file that is not as it was written. `reason` is one of few words, for counting."""

    def __init__(self, path: Path, reason: str, detail: str = "") -> None:
        super().__init__(f"{path}: {detail or reason}")
        self.reason = reason


@dataclass(frozen=True)
class Section:
    """Where some bytes lie."""

    begin: int
    num_bytes: int
    checksum: int  # of the bytes and the zeros after them


def encode(
    meta: Mapping[str, Any], sections: Mapping[str, Tensor]
) -> Iterator[memoryview]:  # uint8 [bytes], on the host
    """The whole file, in chunks to be written one after another; `meta` must be JSON."""
    checksums = {
        name: zlib.crc32(_padding(len(data)), zlib.crc32(data.numpy().data)) for name, data in sections.items()
    }
    yield memoryview(_header(meta, {name: len(data) for name, data in sections.items()}, checksums))
    for data in sections.values():
        view = data.numpy().data
        for begin in range(0, len(view), CHUNK_BYTES):
            yield view[begin : begin + CHUNK_BYTES]
        if len(data) % PAGE:
            yield memoryview(_padding(len(data)))


def _header(meta: Mapping[str, Any], sizes: Mapping[str, int], checksums: Mapping[str, int]) -> bytes:
    """Sections begin behind it, so its own length is found by trying."""
    length = PAGE
    while True:
        begin, table = length, {}
        for name, size in sizes.items():
            table[name] = (begin, size, checksums[name])
            begin += aligned(size, PAGE)
        told = json.dumps({"meta": meta, "sections": table}, separators=(",", ":")).encode()
        needed = aligned(_BEGIN.size + _CHECKSUM.size + len(told), PAGE)
        if needed <= length:
            break
        length = needed
    first = _BEGIN.pack(MAGIC, VERSION, length)
    rest = told.ljust(length - _BEGIN.size - _CHECKSUM.size, b"\0")
    return first + _CHECKSUM.pack(zlib.crc32(rest, zlib.crc32(first))) + rest


def _padding(num_bytes: int) -> bytes:
    return _ZEROS[: -num_bytes % PAGE]


class StoredFile:
    """A written file, mapped. What it gives is not to be written to."""

    def __init__(self, path: Path) -> None:
        """Reads the header. DamagedError where it is not one, or the file has another length than it says."""
        self.path = path
        self._lock = threading.Lock()
        self.is_checked = False
        self._mapped = _mapped(path)
        self.num_bytes = len(self._mapped)
        self.meta, self.sections = self._read_header()

    def section(self, name: str) -> Tensor:
        """uint8 [bytes], a view of the file. KeyError where there is none."""
        its = self.sections[name]
        return self._mapped[its.begin : its.begin + its.num_bytes]

    def check(self) -> None:
        """DamagedError where a section is not as it was written. Once: what was found whole is not read again."""
        with self._lock:
            if self.is_checked:
                return
            for name, its in self.sections.items():
                end = its.begin + aligned(its.num_bytes, PAGE)
                if zlib.crc32(self._mapped[its.begin : end].numpy().data) != its.checksum:
                    raise DamagedError(self.path, "checksum", f"section {name!r} is not as it was written")
            self.is_checked = True

    def _read_header(self) -> tuple[Mapping[str, Any], Mapping[str, Section]]:
        """From another version nothing else is believed, the checksum's place included."""
        begin = _BEGIN.size + _CHECKSUM.size
        magic, version, length = _BEGIN.unpack(self._bytes(0, _BEGIN.size))
        if magic != MAGIC:
            raise DamagedError(self.path, "magic", "this is no file of a cache")
        if version != VERSION:
            raise DamagedError(self.path, "version", f"the version must be {VERSION}, got {version}")
        if not begin <= length <= self.num_bytes:
            raise DamagedError(self.path, "short", f"a header of {length} bytes in a file of {self.num_bytes}")
        checksum = zlib.crc32(self._bytes(begin, length), zlib.crc32(self._bytes(0, _BEGIN.size)))
        if checksum != _CHECKSUM.unpack(self._bytes(_BEGIN.size, begin))[0]:
            raise DamagedError(self.path, "header", "the header is not as it was written")
        told = json.loads(self._bytes(begin, length).rstrip(b"\0"))
        sections = {name: Section(*its) for name, its in told["sections"].items()}
        end = max((aligned(its.begin + its.num_bytes, PAGE) for its in sections.values()), default=length)
        if end != self.num_bytes:
            raise DamagedError(self.path, "short", f"{end} bytes were written, {self.num_bytes} are there")
        return told["meta"], sections

    def _bytes(self, begin: int, end: int) -> bytes:
        return np.asarray(self._mapped[begin:end]).tobytes()


def _mapped(path: Path) -> Tensor:
    """uint8 [bytes]. A private mapping: torch wants memory that could be written to, and no file descriptor stays."""
    try:
        num_bytes = path.stat().st_size
        if num_bytes < PAGE:
            raise DamagedError(path, "short", f"{num_bytes} bytes are no header")
        return torch.from_file(str(path), shared=False, size=num_bytes, dtype=torch.uint8)
    except (OSError, RuntimeError) as error:  # torch's
        raise DamagedError(path, "unreadable", str(error)) from error
