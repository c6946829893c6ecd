"""Of one process, whose workers may be started again."""

from cache_store.index.memory import MemoryIndex


def test_what_an_earlier_epoch_says_late_is_not_kept(space, prompt, entry):
    index = MemoryIndex()
    index.admit(space, prompt, entry("new", "a", epoch=2))
    index.admit(space, prompt, entry("old", "a", epoch=1))
    index.admit(space, prompt, entry("new", "a", epoch=1))
    assert [hit.entry for hit in index.nearest(space, prompt, 9, -1)] == [entry("new", "a", epoch=2)]
    assert index.up
