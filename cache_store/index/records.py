"""What is written into Redis, as text: pointers only."""

from __future__ import annotations

import json
from typing import NamedTuple

from cache_store.index import Entry


class Registration(NamedTuple):
    """What a worker last said of itself: another than it remembers means that Redis has lost something."""

    epoch: int  # of the process
    term: int  # grows when all entries are announced anew: those of earlier terms count no more
    revision: int  # grows with each write

    @classmethod
    def parse(cls, text: bytes | None) -> Registration | None:
        """None where it is none."""
        try:
            return cls(*map(int, text.split())) if text else None
        except (ValueError, TypeError):
            return None

    def __str__(self) -> str:
        return " ".join(map(str, self))


class Record(NamedTuple):
    """An entry as it was written."""

    entry: Entry
    term: int

    @classmethod
    def parse(cls, text: bytes | None, recording_id: str, worker: str) -> Record | None:
        """None where it is none."""
        try:
            kept = json.loads(text or b"")
            numbers = int(kept["num_bytes"]), float(kept["created"])
            return cls(Entry(recording_id, worker, int(kept["epoch"]), str(kept["tier"]), *numbers), int(kept["term"]))
        except (ValueError, TypeError, KeyError):
            return None

    def __str__(self) -> str:
        names = ("epoch", "tier", "num_bytes", "created")
        return json.dumps({"term": self.term} | {name: getattr(self.entry, name) for name in names})

    def counts(self, registered: Registration | None) -> bool:
        """Whether its worker stands by it."""
        return registered is not None and (self.entry.epoch, self.term) == registered[:2]
