"""What a store says of itself."""

ROW_BYTES, NORM_BYTES = 256, 128
PAGE = 4096


def test_a_store_describes_its_recordings(stored):
    stored.record("a")
    stored.record("b", "a", [1, 2])
    stored.record("c", "b", [2])
    stored.store.delete("b")
    stored.settle()
    with stored.store.open("c") as recording:
        assert recording.activations
        a, c = stored.store.describe()
    assert (a.id, a.parent_id, a.owner_ids, a.depth, a.pinned) == ("a", None, (), 0, True)
    assert (c.id, c.parent_id, set(c.owner_ids), c.depth, c.pinned) == ("c", "b", {"a", None}, 2, True)
    assert (a.hits, c.hits) == (1, 1)
    assert c.bytes_by_plane == {"rows": ROW_BYTES, "norms": NORM_BYTES}
    assert c.bytes_by_step == (ROW_BYTES // 2 + NORM_BYTES, ROW_BYTES // 2)
    assert c.bytes_by_tier == {"host": ROW_BYTES + NORM_BYTES, "disk": 3 * PAGE}  # the header, two steps
    assert a.core_bytes == 1


def test_a_store_counts_what_happens(archive):
    archive.record("a")
    archive.check("a")
    assert archive.store.open("b") is None
    assert archive.store.evict("a")
    assert not archive.has_rows("a")
    counts = archive.store.counts()
    assert counts["reads"] == {("host", "hit"): 1, ("none", "miss"): 1, ("none", "core"): 1}
    assert counts["evictions"] == {("host", "asked"): 1}
    assert counts["recordings"] == {(): 1}
    assert counts["used_bytes"] == {("host",): 0}
    assert counts["budget_bytes"] == {("host",): 1 << 20}
