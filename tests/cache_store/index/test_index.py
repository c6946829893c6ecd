"""What every index does, whether it is of one process, on fakeredis or on a real Redis 8."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from cache_store.index import SIMILARITY_ERROR

NUM_THREADS = 8


def ids(hits):
    return [hit.entry.recording_id for hit in hits]


def test_what_is_admitted_is_found_with_its_cosine(world, space, prompt, at, entry):
    index = world.index()
    index.admit(space, at(prompt, 0.8), entry("one"))
    (hit,) = index.nearest(space, prompt, 1, 0.5)
    assert (hit.space, hit.entry) == (space, entry("one"))
    assert hit.similarity == pytest.approx(0.8, abs=SIMILARITY_ERROR)


def test_others_find_it_too(world, space, prompt, at, entry):
    index, other = world.index("a"), world.index("b")
    index.admit(space, at(prompt, 0.8), entry("one", "a"))
    world.settle()
    (hit,) = other.nearest(space, prompt, 1, 0.5)
    assert hit.entry == entry("one", "a")
    assert hit.similarity == pytest.approx(0.8, abs=SIMILARITY_ERROR)
    assert other.holders("ann", "one") == [entry("one", "a")]


def test_the_best_come_first_and_no_more_than_asked_for(world, space, prompt, at, entry):
    index, other = world.index("a"), world.index("b")
    for percent in (10, 50, 30, 90, 70):
        index.admit(space, at(prompt, percent / 100, seed=percent), entry(str(percent), "a"))
        other.admit(space, at(prompt, (percent + 5) / 100, seed=percent), entry(str(percent + 5), "b"))
    world.settle()
    for one in (index, other):
        assert ids(one.nearest(space, prompt, 4, -1)) == ["95", "90", "75", "70"]
        assert ids(one.nearest(space, prompt, 9, 0.52)) == ["95", "90", "75", "70", "55"]


def test_nobody_hides_what_one_worker_has(world, space, prompt, at, entry):
    index, other, third = (world.index(name) for name in "abc")
    for number in range(20):
        for one, worker in ((index, "a"), (third, "c")):
            one.admit(space, at(prompt, 0.9, seed=number), entry(f"{worker}{number}", worker))
    for name, cosine in (("far", 0.3), ("near", 0.8), ("far too", 0.2)):
        other.admit(space, at(prompt, cosine), entry(name, "b"))
    other.admit(space, at(prompt, 0.9, seed=7), entry("a7", "b"))  # which a has, too
    world.settle()
    for one in (index, other, third):
        assert ids(one.nearest(space, prompt, 3, 0.25, "b")) == ["a7", "near", "far"]
        assert {hit.entry.worker for hit in one.nearest(space, prompt, 3, 0.25, "b")} == {"b"}
        assert ids(one.nearest(space, prompt, 9, 0.5, "b")) == ["a7", "near"]
        assert one.nearest(space, prompt, 3, -1, "nobody") == []
        assert len(one.nearest(space, prompt, 30, -1, "a")) == 20


def test_looking_among_its_own_is_counted_too(world, space, prompt, entry):
    index, other = world.index("a"), world.index("b")
    index.admit(space, prompt, entry("one", "a"))
    world.settle()
    before = other.counts().lookups  # where they share one index, there are its own, too
    other.nearest(space, prompt, 5, 0.5, "b")
    assert other.counts().lookups == {**before, "miss": before["miss"] + 1}
    index.nearest(space, prompt, 5, 0.5, "a")
    assert index.counts().lookups["hit"] == 1


def test_a_threshold_of_one_finds_the_same_prompt(world, space, entry):
    index, other = world.index("a"), world.index("b")
    for number in range(20):
        embedding = np.random.default_rng(number).standard_normal(768).astype(np.float32)
        index.admit(space, embedding, entry(str(number), "a"))
        world.settle()
        assert (
            ids(index.nearest(space, 7 * embedding, 3, 1))
            == ids(other.nearest(space, embedding, 3, 1))
            == [str(number)]
        )


@pytest.mark.parametrize(
    "other",
    [{"tenant": "bob"}, {"model": "sd"}, {"width": 512}, {"height": 512}, {"sampler": "dpm"}, {"embedding": "words"}],
)
def test_nothing_is_found_across_spaces(world, space, prompt, entry, other):
    index, second = world.index("a"), world.index("b")
    index.admit(space, prompt, entry("one", "a"))
    world.settle()
    for one in (index, second):
        assert one.nearest(replace(space, **other), prompt, 5, -1) == []
    world.settle()
    for one in (index, second):
        assert ids(one.nearest(space, prompt, 5, -1)) == ["one"]  # who looked elsewhere has changed nothing


def test_what_is_evicted_is_neither_found_nor_held(world, space, prompt, entry):
    index, other = world.index("a"), world.index("b")
    index.admit(space, prompt, entry("one", "a"))
    world.settle()
    index.evict("one", "a")
    assert index.nearest(space, prompt, 5, -1) == index.holders("ann", "one") == []
    world.settle()
    assert other.nearest(space, prompt, 5, -1) == other.holders("ann", "one") == []
    index.evict("one", "a")
    index.evict("never seen", "a")


def test_admitting_again_changes_the_entry(world, space, prompt, entry):
    index, other = world.index("a"), world.index("b")
    for tier in ("host", "disk"):
        index.admit(space, prompt, entry("one", "a", tier=tier))
        world.settle()
        for one in (index, other):
            assert [hit.entry.tier for hit in one.nearest(space, prompt, 5, -1)] == [tier]
            assert [holder.tier for holder in one.holders("ann", "one")] == [tier]


def test_admitting_again_changes_the_embedding(world, space, prompt, at, entry):
    index, other = world.index("a"), world.index("b")
    for cosine in (0.3, 0.9):
        index.admit(space, at(prompt, cosine), entry("one", "a"))
        world.settle()
        for one in (index, other):
            (hit,) = one.nearest(space, prompt, 5, -1)
            assert hit.similarity == pytest.approx(cosine, abs=SIMILARITY_ERROR)


def test_a_recording_of_many_workers_is_one_hit_and_has_many_holders(world, space, prompt, at, entry):
    indexes = {name: world.index(name) for name in "abcd"}
    for name, index in indexes.items():
        index.admit(space, prompt, entry("one", name))
    indexes["a"].admit(space, at(prompt, 0.5), entry("two", "a"))
    world.settle()
    for index in indexes.values():
        assert ids(index.nearest(space, prompt, 2, -1)) == ["one", "two"]
        assert sorted(holder.worker for holder in index.holders("ann", "one")) == list("abcd")
    indexes["b"].evict("one", "b")
    world.settle()
    for index in indexes.values():
        assert ids(index.nearest(space, prompt, 2, -1)) == ["one", "two"]
        assert sorted(holder.worker for holder in index.holders("ann", "one")) == list("acd")


def test_a_rejected_hit_is_gone_at_once_for_all_and_counted(world, space, prompt, entry):
    index, other = world.index("a"), world.index("b")
    index.admit(space, prompt, entry("one", "a"))
    index.admit(space, prompt, entry("two", "a"))
    world.settle()
    hits = other.nearest(space, prompt, 5, -1)
    other.reject(next(hit for hit in hits if hit.entry.recording_id == "one"))
    assert ids(other.nearest(space, prompt, 5, -1)) == ["two"]
    assert other.counts().num_stale_hits == 1
    world.settle()
    assert ids(other.nearest(space, prompt, 5, -1)) == ["two"]
    assert other.holders("ann", "one") == []


def test_what_was_announced_anew_is_not_removed_by_an_old_hit(world, space, prompt, entry):
    index, other = world.index("a"), world.index("b")
    index.admit(space, prompt, entry("one", "a"))
    world.settle()
    (hit,) = other.nearest(space, prompt, 5, -1)
    index.evict("one", "a")
    index.admit(space, prompt, entry("one", "a", created=9))
    world.settle()
    other.reject(hit)
    world.settle()
    for one in (index, other):
        assert [found.entry.created for found in one.nearest(space, prompt, 5, -1)] == [9]


def test_what_an_earlier_epoch_said_is_stale(world, space, prompt, entry):
    before, other = world.index("a", epoch=1), world.index("b")
    before.admit(space, prompt, entry("old", "a", epoch=1))
    before.admit(space, prompt, entry("both", "a", epoch=1))
    world.settle()
    after = world.index("a", epoch=2)
    after.admit(space, prompt, entry("both", "a", epoch=2))
    world.settle()
    for one in (after, other):
        assert [hit.entry for hit in one.nearest(space, prompt, 5, -1)] == [entry("both", "a", epoch=2)]
        assert one.holders("ann", "old") == []
        assert one.holders("ann", "both") == [entry("both", "a", epoch=2)]


def test_lookups_are_counted_by_outcome(world, space, prompt, entry):
    index = world.index()
    index.nearest(space, prompt, 5, 0.5)
    index.admit(space, prompt, entry("one"))
    index.nearest(space, prompt, 5, 0.5)
    index.nearest(space, -prompt, 5, 0.5)
    assert index.up
    assert index.counts().lookups == {"hit": 1, "miss": 2, "down": 0}


def test_the_one_admitted_longest_ago_leaves_a_full_index(world, space, prompt, entry):
    index, other = world.index("a", max_entries=3), world.index("b")
    for name in ("two", "one", "three", "two", "four"):
        index.admit(space, prompt, entry(name, "a"))
    world.settle()
    for one in (index, other):
        assert set(ids(one.nearest(space, prompt, 9, -1))) == {"two", "three", "four"}
        assert one.holders("ann", "one") == []


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        (np.zeros(24, np.float32), "not all zero"),
        (np.full(24, np.nan, np.float32), "finite"),
        (np.full(24, np.inf, np.float32), "finite"),
        (np.ones(24), "float32"),
        (np.ones((1, 24), np.float32), r"\[D\]"),
        (np.ones(23, np.float32), "24 dimensions"),
    ],
)
def test_what_is_no_embedding_is_refused(world, space, prompt, entry, embedding, message):
    index = world.index()
    index.admit(space, prompt, entry("one"))
    with pytest.raises(ValueError, match=message):
        index.admit(space, embedding, entry("two"))
    with pytest.raises(ValueError, match=message):
        index.nearest(space, embedding, 1, 0)


def test_a_count_of_nothing_is_refused(world, space, prompt):
    with pytest.raises(ValueError, match="count"):
        world.index().nearest(space, prompt, 0, 0)


def test_closing_twice_is_once(world):
    index = world.index()
    index.close()
    index.close()


@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_leaves_what_a_plain_search_finds(world, space, entry, seed):
    choose = random.Random(seed)
    embeddings = np.random.default_rng(seed).standard_normal((12, 24)).astype(np.float32)
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    indexes = {name: world.index(name) for name in "abc"}
    expected = {}  # by recording and worker
    for turn in range(120):
        name, number = choose.choice("abc"), choose.randrange(12)
        if choose.random() < 0.6:
            expected[number, name] = entry(str(number), name, created=turn)
            indexes[name].admit(space, embeddings[number], expected[number, name])
        else:
            expected.pop((number, name), None)
            indexes[name].evict(str(number), name)
        if turn % 10 == 9:
            world.settle()
            asked = choose.randrange(12)
            similarities = {one: float(units[one] @ units[asked]) for one, _ in expected}
            best = sorted(similarities, key=similarities.get, reverse=True)
            for index in indexes.values():
                hits = index.nearest(space, embeddings[asked], 4, -1)
                assert ids(hits) == [str(one) for one in best[:4]]
                assert all(expected[int(hit.entry.recording_id), hit.entry.worker] == hit.entry for hit in hits)
                holders = [it for (one, _), it in expected.items() if one == asked]
                assert sorted(index.holders("ann", str(asked)), key=lambda it: it.worker) == sorted(
                    holders, key=lambda it: it.worker
                )


@pytest.mark.parametrize("seed", range(3))
def test_no_lookup_shows_one_tenant_what_another_has(world, space, entry, seed):
    """Tenants with awkward names share workers, prompts and even recording ids; an entry's tier says whose it is."""
    choose = random.Random(seed)
    tenants = ["ann", "bob", "ann:one", "", '"', "ann/a", "*"]
    spaces = {tenant: replace(space, tenant=tenant) for tenant in tenants}
    embeddings = np.random.default_rng(seed).standard_normal((3, 24)).astype(np.float32)
    indexes = {name: world.index(name) for name in "ab"}
    has = {tenant: set() for tenant in tenants}
    for turn in range(150):
        tenant, name, recording = choose.choice(tenants), choose.choice("ab"), choose.choice(["one", "one:a", "a/one"])
        action = choose.random()
        if action < 0.5:
            one = entry(recording, name, tier=tenant, created=turn)
            indexes[name].admit(spaces[tenant], embeddings[choose.randrange(3)], one)
            has[tenant].add(recording)
        elif action < 0.6:
            indexes[name].evict(recording, name)
        elif action < 0.7:
            for hit in indexes[name].nearest(spaces[tenant], embeddings[0], 1, -1):
                indexes[name].reject(hit)
        if turn % 5 == 4:
            world.settle()
        for index in indexes.values():
            for hit in index.nearest(spaces[tenant], embeddings[0], 9, -1):
                assert hit.space.tenant == hit.entry.tier == tenant
                assert hit.entry.recording_id in has[tenant]
            assert all(one.tier == tenant for one in index.holders(tenant, recording))
    assert all(index.counts().lookups["hit"] > 0 for index in indexes.values())


def test_many_threads_leave_it_whole(world, space, entry):
    index = world.index()
    embeddings = np.random.default_rng(0).standard_normal((40, 24)).astype(np.float32)
    start = threading.Barrier(NUM_THREADS)

    def work(number):
        """Each has recordings of its own, and sees those of all."""
        choose, mine = random.Random(number), set()
        start.wait()
        for _ in range(60):
            one = choose.randrange(5) * NUM_THREADS + number
            if choose.random() < 0.6:
                index.admit(space, embeddings[one], entry(str(one)))
                mine.add(one)
            else:
                index.evict(str(one), "a")
                mine.discard(one)
            found = ids(index.nearest(space, embeddings[one], 1, 0.999))
            assert found == ([str(one)] if one in mine else [])
        return mine

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        expected = set().union(*pool.map(work, range(NUM_THREADS)))
    world.settle()
    other = world.index("b")
    for one in (index, other):
        assert set(ids(one.nearest(space, embeddings[0], 99, -1))) == {str(number) for number in expected}
