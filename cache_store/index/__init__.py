"""Who has which recording, and which recordings are near a prompt: pointers, nothing else.

The index is advisory and the worker is the truth. Who is pointed to a recording verifies it by opening it there; where
it is gone the hit was stale, `reject` removes it and the caller draws densely. Two rules keep stale hits rare, and both
are the caller's: *admit* a recording after the last copy into its place is done, and *evict* it before that memory or
file is reused.

`memory.MemoryIndex` knows one process, `redis.RedisIndex` all workers that share a Redis 8. Both do the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Outcome = Literal["hit", "miss", "down"]

SIMILARITY_ERROR = 1e-6  # of a float32 dot product of unit vectors; thresholds allow for it


@dataclass(frozen=True)
class Space:
    """Recordings of one space can serve each other. Nothing is ever found across spaces, or by another tenant."""

    tenant: str
    model: str
    width: int  # pixels
    height: int
    sampler: str  # its settings, written in one canonical way
    embedding: str = "pooled"  # what makes the embeddings: those of two makers are not comparable


@dataclass(frozen=True)
class Entry:
    """That a worker has a recording. What an earlier epoch of a worker said is stale."""

    recording_id: str
    worker: str
    epoch: int  # of the worker: grows with each start
    tier: str
    num_bytes: int
    created: float  # seconds since 1970


@dataclass(frozen=True)
class Hit:
    """An entry near a prompt."""

    space: Space
    entry: Entry
    similarity: float  # cosine


@dataclass(frozen=True)
class Counts:
    """What was asked so far; both only grow."""

    lookups: Mapping[Outcome, int]  # down: nothing found, and others could not be asked
    num_stale_hits: int


class Index(Protocol):
    """Thread-safe. No call waits for another machine longer than the index's bound, or raises because of one."""

    @property
    def up(self) -> bool:
        """Whether other workers can be asked."""

    def counts(self) -> Counts:
        """A snapshot of the counters."""

    def admit(
        self,
        space: Space,
        embedding: Array,  # [D] float32, of any length but zero; of one D in a space
        entry: Entry,
    ) -> None:
        """Announces a recording that is whole, after the last copy; again, where its entry changed.

        ValueError where the embedding is not such a vector.
        """

    def evict(self, recording_id: str, worker: str) -> None:
        """Withdraws it, in whatever spaces it is; before its memory is reused. Nothing happens where it is unknown."""

    def nearest(
        self, space: Space, embedding: Array, count: int, min_similarity: float, worker: str | None = None
    ) -> list[Hit]:
        """At most `count` recordings at least so near, best first, each once; who else has one, `holders` tells.

        Of one `worker` only, where it is named: what others have hides nothing of it, and nobody is asked for its own.
        ValueError where the embedding is none, as `admit`, or where the count is not positive.
        """

    def holders(self, tenant: str, recording_id: str) -> list[Entry]:
        """Every worker's entry of a recording of this tenant."""

    def reject(self, hit: Hit) -> None:
        """Counts a hit that its worker does not have, and removes it unless the worker has announced it anew."""

    def close(self) -> None:
        """Says nothing more; safe to call twice."""
