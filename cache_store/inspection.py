"""What a store says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from cache_store.counts import Counts, Labels
from cache_store.layout import Slabs
from cache_store.placement import Placement
from cache_store.recording import Entry
from cache_store.rows import Rows, Tier


@dataclass(frozen=True)
class Description:
    """One recording. Rows are its own, those that it takes from others are theirs."""

    id: str
    parent_id: str | None  # of which it is an edit
    owner_ids: tuple[str | None, ...]  # whose rows it reads; None: of one that was deleted
    depth: int  # edits since a recording that computed all its rows
    hits: int  # times that its rows were asked for
    pinned: bool
    core_bytes: int
    bytes_by_plane: Mapping[str, int]
    bytes_by_step: tuple[int, ...]
    bytes_by_tier: Mapping[Tier, int]


def describe(entries: Mapping[str, Entry], placement: Placement) -> list[Description]:
    """All recordings, in their order."""
    ids = {entry.activations.own: one for one, entry in entries.items() if entry.activations}
    held = placement.held()
    return [_describe(one, entry, ids, held) for one, entry in entries.items()]


def _describe(recording_id: str, entry: Entry, ids: Mapping[Rows, str], held: AbstractSet[Rows]) -> Description:
    activations = entry.activations
    lie = activations.own.lie if activations else Slabs({}, {})
    return Description(
        id=recording_id,
        parent_id=entry.parent_id,
        owner_ids=tuple(ids.get(owner) for owner in activations.owners) if activations else (),
        depth=activations.depth if activations else 0,
        hits=entry.hits,
        pinned=activations is not None and activations.own in held,
        core_bytes=entry.core_bytes,
        bytes_by_plane={name: plane.num_bytes(lie.num_kept[name]) for name, plane in lie.layout.items()},
        bytes_by_step=lie.sizes,
        bytes_by_tier={tier: copy.num_bytes for tier, copy in activations.own.copies.items()} if activations else {},
    )


def numbers(counts: Counts, entries: Mapping[str, Entry], placement: Placement) -> dict[str, dict[Labels, int]]:
    """Counters, and how things are now: by name and labels."""
    now: dict[str, dict[Labels, int]] = {"recordings": {(): len(entries)}}
    now["used_bytes"] = {(tier,): arena.used_bytes for tier, arena in placement.arenas.items()}
    now["budget_bytes"] = {(tier,): arena.budget_bytes for tier, arena in placement.arenas.items()}
    if (disk := placement.disk) is not None:
        now["used_bytes"]["disk",] = disk.used_bytes
        now["budget_bytes"]["disk",] = disk.budget_bytes
        now["disk_on"] = {(): int(disk.is_on)}
        now["disk_failures"] = {(): disk.num_failures}
    return counts.all() | now
