"""The index of one process: the default, which needs nothing else."""

from __future__ import annotations

from cache_store.index import Array, Counts, Entry, Hit, Space
from cache_store.index.shelf import Shelf
from cache_store.index.tally import Tally


class MemoryIndex:
    """An `Index` in memory, for all workers of this process. Exact."""

    def __init__(self, max_entries: int = 1 << 16) -> None:
        """`max_entries`: beyond it the entry admitted longest ago is forgotten; each is 4 bytes a dimension."""
        self._shelf = Shelf(max_entries)
        self._tally = Tally()

    @property
    def up(self) -> bool:
        """Always: there is nobody else to ask."""
        return True

    def counts(self) -> Counts:
        """As `Index.counts`; never down."""
        return self._tally.counts()

    def admit(self, space: Space, embedding: Array, entry: Entry) -> None:
        """As `Index.admit`."""
        self._shelf.put(space, embedding, entry)

    def evict(self, recording_id: str, worker: str) -> None:
        """As `Index.evict`."""
        self._shelf.drop(recording_id, worker)

    def nearest(
        self, space: Space, embedding: Array, count: int, min_similarity: float, worker: str | None = None
    ) -> list[Hit]:
        """As `Index.nearest`."""
        hits = self._shelf.nearest(space, embedding, count, min_similarity, worker)
        self._tally.lookup("hit" if hits else "miss")
        return hits

    def holders(self, tenant: str, recording_id: str) -> list[Entry]:
        """As `Index.holders`."""
        return self._shelf.holders(tenant, recording_id)

    def reject(self, hit: Hit) -> None:
        """As `Index.reject`."""
        self._tally.stale_hit()
        self._shelf.discard(hit)

    def close(self) -> None:
        """Nothing is open."""
