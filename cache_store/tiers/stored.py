"""What lies in the files of a recording.

    ID.core       blobs, and where its rows lie: whose, and a table for each plane of which not all are its own
    NAME.rows     the rows that it computed, a section for each step, as they lie in memory

They are two, because they live apart: rows leave when bytes are needed, and stay without their core while a child reads
from them. `NAME` was never used before, so a core can only mean the rows that it was written with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from cache_store.activations import Activations, Places
from cache_store.layout import Slabs, layout_as_json, layout_of_json
from cache_store.rows import Rows
from cache_store.tiers.files import PAGE, StoredFile

Blob = bytes | Tensor
Parts = tuple[dict[str, Any], dict[str, Tensor]]  # what a file says, and its sections: uint8 [bytes]

CORE = ".core"
ROWS = ".rows"


def core_name(recording_id: str) -> str:
    """Of the file."""
    return quote(recording_id, safe="") + CORE


def rows_name(rows: Rows | str) -> str:
    """Of the file."""
    return (rows if isinstance(rows, str) else rows.name) + ROWS


def rows_as_parts(rows: Rows, slabs: Sequence[Tensor]) -> Parts:
    """`slabs` are its own, of any copy."""
    meta = {
        "layout": layout_as_json(rows.lie.layout),
        "num_kept": dict(rows.lie.num_kept),
        "seconds_saved": rows.seconds_saved,
    }
    return meta, {f"step:{step}": slab.cpu() for step, slab in enumerate(slabs)}


def rows_of_file(file: StoredFile, name: str) -> Rows:
    """Rows whose only copy is a file."""
    lie = Slabs(layout_of_json(file.meta["layout"]), file.meta["num_kept"])
    rows = Rows(lie, name, file.meta["seconds_saved"])
    rows.keep("disk", InFile(file, len(rows.lie.sizes)))
    return rows


class InFile:
    """A `Copy` that is mapped: it takes memory only for what is read, and gives it back when that is needed."""

    in_reach = False

    def __init__(self, file: StoredFile, num_steps: int) -> None:
        self.file = file
        self.slabs = [file.section(f"step:{step}") for step in range(num_steps)]

    @property
    def num_bytes(self) -> int:
        """Of the file."""
        return self.file.num_bytes

    @property
    def is_checked(self) -> bool:
        """See `Copy.is_checked`."""
        return self.file.is_checked

    def check(self) -> None:
        """See `Copy.check`. Once."""
        self.file.check()


def core_as_parts(
    recording_id: str, blobs: Mapping[str, Blob], activations: Activations | None, parent_id: str | None
) -> Parts:
    """A core, and where its rows lie."""
    meta: dict[str, Any] = {"id": recording_id, "parent": parent_id, "blobs": {}, "rows": None}
    sections = {}
    for name, blob in blobs.items():
        meta["blobs"][name] = [str(blob.dtype), list(blob.shape)] if isinstance(blob, Tensor) else None
        sections[f"blob:{name}"] = _bytes_of(blob)
    if activations is not None:
        meta["rows"] = activations.own.name
        meta["owners"] = [owner.name for owner in activations.owners]
        meta["depth"] = activations.depth
        meta["places"] = list(activations.places)
        for plane, places in activations.places.items():
            sections[f"places:{plane}"] = _table(places, activations.owners)
    return meta, sections


class StoredBlobs(Mapping[str, Blob]):
    """The blobs of a core, from its file. Short words are in memory: whoever asks what it is waits for no disk."""

    def __init__(self, file: StoredFile) -> None:
        self._file = file
        self._forms = file.meta["blobs"]
        self._words = {name: self._read(name) for name in self if self._is_short(name)}

    def __getitem__(self, name: str) -> Blob:
        return self._words[name] if name in self._words else self._read(name)

    def _is_short(self, name: str) -> bool:
        return self._forms[name] is None and self._file.sections[f"blob:{name}"].num_bytes <= PAGE

    def _read(self, name: str) -> Blob:
        form, data = self._forms[name], self._file.section(f"blob:{name}")
        if form is None:
            return data.numpy().tobytes()
        dtype, shape = form
        return data.view(getattr(torch, dtype.removeprefix("torch."))).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._forms)

    def __len__(self) -> int:
        return len(self._forms)

    @property
    def num_bytes(self) -> int:
        """Of all, without reading them."""
        return sum(self._file.sections[f"blob:{name}"].num_bytes for name in self)


class StoredPlaces(Mapping[str, Places]):
    """The tables of a child, from its core's file when somebody asks for the first."""

    def __init__(self, file: StoredFile, owners: tuple[Rows, ...]) -> None:
        self._file = file
        self._owners = owners

    def __getitem__(self, plane: str) -> Places:
        return self._tables[plane]

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.meta["places"])

    def __len__(self) -> int:
        return len(self._file.meta["places"])

    @cached_property
    def _tables(self) -> Mapping[str, Places]:
        tables = {}
        for plane in self:
            owner, slot = self._file.section(f"places:{plane}").view(torch.int32).view(2, -1).long()
            tables[plane] = Places(self._owners, owner, slot)
        return tables


def _table(places: Places, owners: Sequence[Rows]) -> Tensor:
    """int32 [2, num_rows] as bytes: owners are numbered alike in all planes, and the last is the recording itself."""
    numbers = torch.tensor([*(owners.index(owner) for owner in places.owners), len(owners)])
    return torch.stack([numbers[places.owner], places.slot]).int().flatten().view(torch.uint8)


def _bytes_of(blob: Blob) -> Tensor:
    if isinstance(blob, Tensor):
        return blob.cpu().contiguous().flatten().view(torch.uint8)
    return torch.frombuffer(bytearray(blob), dtype=torch.uint8) if blob else torch.empty(0, dtype=torch.uint8)
