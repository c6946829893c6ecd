"""Who leaves: worth, pins, lineage; and how the probability of a hit is learned."""

from __future__ import annotations

import random

import numpy as np
import pytest

from cache_store import eviction
from cache_store.eviction import NUM_AGES, Candidate, HitRates, Uses, choose

NOW = 1000.0
RATES = HitRates()  # nothing is known yet; choosing teaches nothing


def candidate(name, *, num_bytes=10, seconds=1.0, count=1, last=900.0, pinned=False, readers=""):
    return Candidate(name, num_bytes, seconds, Uses(count, last), pinned, frozenset(readers))


def who_leaves(*candidates, missing_bytes=1):
    return "".join(choose(candidates, missing_bytes, RATES, NOW))


@pytest.mark.parametrize("missing_bytes", [0, -5])
def test_where_nothing_is_missing_nobody_leaves(missing_bytes):
    assert who_leaves(candidate("a"), missing_bytes=missing_bytes) == ""


def test_where_it_would_not_be_enough_nobody_leaves():
    both = candidate("a"), candidate("b", pinned=True)
    assert who_leaves(*both, missing_bytes=11) == ""
    assert who_leaves(*both, missing_bytes=10) == "a"
    assert who_leaves(missing_bytes=1) == ""


@pytest.mark.parametrize(
    "worse",
    [{"num_bytes": 11}, {"seconds": 0.9}, {"last": 100.0}, {"last": 899.0}],
    ids=lambda worse: next(iter(worse)),
)
def test_who_is_larger_or_saves_less_or_was_used_earlier_leaves(worse):
    assert who_leaves(candidate("a"), candidate("b", **worse), candidate("c")) == "b"


def test_who_is_used_less_leaves():
    assert who_leaves(candidate("a", count=4), candidate("b", count=2), candidate("c", count=3)) == "b"


def test_worth_is_probability_times_seconds_by_bytes():
    often = candidate("a", count=8, seconds=1.0, num_bytes=80)
    assert who_leaves(often, candidate("b", seconds=1.01, num_bytes=10)) == "a"
    assert who_leaves(often, candidate("b", seconds=0.99, num_bytes=10)) == "b"


def test_no_more_leave_than_are_needed():
    four = [candidate(name, seconds=seconds) for name, seconds in zip("abcd", (4, 2, 1, 3), strict=True)]
    assert [set(who_leaves(*four, missing_bytes=needed)) for needed in (10, 11, 40)] == [{"c"}, {"b", "c"}, set("abcd")]


def test_the_pinned_never_leave():
    assert who_leaves(candidate("a", seconds=0, pinned=True), candidate("b")) == "b"


def test_who_saves_nothing_or_holds_nothing_is_no_special_case():
    assert who_leaves(candidate("a", seconds=0), candidate("b")) == "a"
    assert who_leaves(candidate("a", num_bytes=0, seconds=0), candidate("b")) == "ab"


def test_who_is_read_from_leaves_after_its_readers():
    chain = candidate("a", seconds=0, readers="bc"), candidate("b", seconds=0, readers="c"), candidate("c", seconds=0)
    assert who_leaves(*chain, missing_bytes=30) == "cba"
    assert who_leaves(*chain, missing_bytes=15) == "cb"


def test_who_is_read_from_by_the_pinned_stays():
    chain = candidate("a", readers="b"), candidate("b", readers="c"), candidate("c", pinned=True)
    assert who_leaves(*chain) == ""
    assert who_leaves(*chain, candidate("d", seconds=99)) == "d"


def test_who_is_read_from_by_who_is_no_candidate_stays():
    assert who_leaves(candidate("a", readers="x"), candidate("b", seconds=99)) == "b"


def test_an_edit_of_few_bytes_leaves_with_its_source_when_both_are_worth_little():
    source, edit = candidate("a", num_bytes=100, seconds=0.1, readers="b"), candidate("b", num_bytes=10, seconds=1)
    assert who_leaves(source, edit, candidate("c", num_bytes=100, seconds=2)) == "ba"
    assert who_leaves(source, edit, candidate("c", num_bytes=100, seconds=0.5)) == "c"


def test_a_source_is_worth_what_it_saves_once_its_edit_has_left():
    source, edit = candidate("a", seconds=5, readers="b"), candidate("b", seconds=1)
    assert who_leaves(source, edit, candidate("c", seconds=4), missing_bytes=20) == "bc"


def test_who_reads_from_two_leaves_once():
    three = candidate("a", readers="c"), candidate("b", readers="c"), candidate("c")
    assert who_leaves(*three) == "c"
    assert sorted(who_leaves(*three, missing_bytes=30)) == ["a", "b", "c"]


@pytest.mark.parametrize("seed", range(100))
def test_whatever_the_lineage_what_leaves_is_enough_and_read_by_nobody_who_stays(seed):
    rng = random.Random(seed)
    names = "abcdefghijkl"
    everybody = [
        candidate(
            name,
            num_bytes=rng.randint(0, 20),
            seconds=rng.random(),
            count=rng.randint(1, 9),
            last=rng.uniform(0, NOW),
            pinned=rng.random() < 0.1,
            readers=rng.sample(names[number + 1 :], min(rng.choice([0, 0, 1, 2]), len(names) - number - 1)),
        )
        for number, name in enumerate(names)
    ]
    by_id = {one.recording_id: one for one in everybody}
    needed = rng.randint(1, 100)
    leaving = who_leaves(*everybody, missing_bytes=needed)
    for place, one in enumerate(leaving):
        assert not by_id[one].pinned
        assert by_id[one].readers <= set(leaving[:place])
    assert not leaving or sum(by_id[one].num_bytes for one in leaving) >= needed
    rng.shuffle(everybody)
    assert set(who_leaves(*everybody, missing_bytes=needed)) == set(leaving)


def test_before_anything_is_learned_the_rate_is_uses_by_silence():
    counts, ages = np.array([1, 2, 3, 4, 64, 1]), np.array([8, 8, 8, 8, 8, 1000])
    assert HitRates().per_second(counts, ages).tolist() == [1 / 16, 2 / 16, 2 / 16, 4 / 16, 64 / 16, 1 / 1024]


def test_a_rate_is_hits_by_the_seconds_waited_for_them():
    rates = HitRates()
    rates.learn(Uses(2, 0), 100, hit=True)  # 32 seconds in the class of 32 to 64, then 36 from 64 on
    rates.learn(Uses(3, 0), 50, hit=False)  # 18 in the first
    assert rates.per_second([2, 3], [40, 127]).tolist() == [1 / (32 + 32 + 18), (1 + 1) / (64 + 36)]
    untouched = rates.per_second([1, 4, 2], [40, 40, 128])
    assert untouched.tolist() == HitRates().per_second([1, 4, 2], [40, 40, 128]).tolist()


def test_ages_and_uses_beyond_all_classes_count_as_the_last():
    rates = HitRates()
    rates.learn(Uses(10**9, 5), 2.0**60, hit=True)
    rates.learn(Uses(1, 5), 3, hit=True)  # a clock that was put back
    assert rates.per_second([1], [-2]).tolist() == rates.per_second([1], [0]).tolist() == [2]
    assert rates.per_second([10**9], [2.0**60]).tolist() == rates.per_second([2**15], [2.0 ** (NUM_AGES - 2)]).tolist()


def test_what_was_learned_long_ago_counts_half(monkeypatch):
    monkeypatch.setattr(eviction, "MEMORY_LIVES", 30)
    rates = HitRates()
    for _ in range(30):
        rates.learn(Uses(1, 0), 1, hit=True)
    assert rates.per_second([1], [1]).tolist() == [(30 / 2 + 1) / 2]  # of the 2 seconds of the prior


def test_after_chains_of_edits_who_was_just_used_is_worth_more_than_who_is_popular():
    rates = HitRates()
    for _ in range(50):
        rates.learn(Uses(1, 0), 60, hit=True)
        rates.learn(Uses(16, 0), 300, hit=True)
    fresh, popular = candidate("f", count=1, last=NOW - 50), candidate("p", count=16, last=NOW - 300)
    assert choose([fresh, popular], 1, rates, NOW) == ["p"]
    for _ in range(500):
        rates.learn(Uses(1, 0), 5000, hit=False)  # most are looked at once
    assert choose([fresh, popular], 1, rates, NOW) == ["f"]


def test_uses_count_up():
    assert Uses(1, 5.0).again(7.0) == Uses(2, 7.0)
