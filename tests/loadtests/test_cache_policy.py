"""The comparison of ways to evict: what it compares with is what it says, and ours wins."""

from __future__ import annotations

import json
from itertools import compress, product

import numpy as np
import pytest

from cache_store.eviction import Candidate, HitRates, Uses, choose
from loadtests import cache_policy
from loadtests.policies import NEVER, POLICIES, Policy, next_uses
from loadtests.traces import TRACES, Trace


def trace_of(letters, num_bytes=None, seconds=None):
    asked = np.array([ord(letter) - ord("a") for letter in letters])
    ones = np.ones(asked.max() + 1)
    return Trace(asked, np.array(num_bytes or ones, dtype=np.int64), np.array(seconds or ones, dtype=np.float64))


def hits_of(name, trace, capacity_bytes):
    return "".join(".x"[hit] for hit in cache_policy.simulate(trace, capacity_bytes, POLICIES[name](trace)).tolist())


def drawn(name, num_requests=1500, num_pictures=150, seed=0):
    return TRACES[name](np.random.default_rng(seed), num_requests, num_pictures)


def test_next_uses_are_where_the_same_picture_is_asked_for():
    assert next_uses(np.array([0, 1, 0, 0, 2])).tolist() == [2, NEVER, 3, NEVER, NEVER]


@pytest.mark.parametrize(
    ("name", "expected"), [("fifo", "..x.x.x"), ("lru", "..x...."), ("lfu", "..x..x."), ("belady", "..x.x.x")]
)
def test_each_keeps_what_its_name_says(name, expected):
    assert hits_of(name, trace_of("abacbac"), 2) == expected


def test_greedy_dual_keeps_what_is_dense_until_it_is_old():
    trace = trace_of("ab" + "cdefghij" + "b", seconds=[1, 3] + [1] * 8)
    assert hits_of("gdsf", trace, 2)[-1] == "."
    assert hits_of("gdsf", trace_of("abcdb", seconds=[1, 3, 1, 1]), 2)[-1] == "x"


def most_seconds(trace, pauses, capacity_bytes):
    """The optimum, by trying all."""
    sizes, gains = trace.num_bytes[trace.asked], trace.seconds_saved[trace.asked]
    most = 0.0
    for kept in product([False, True], repeat=len(pauses)):
        load, taken = np.zeros(len(sizes)), list(compress(pauses, kept))
        for first, last in taken:
            load[first:last] += sizes[first]
        if load.max() <= capacity_bytes:
            most = max(most, sum(gains[last] for _, last in taken))
    return most


@pytest.mark.parametrize("seed", range(8))
def test_the_optimum_is_between_pfoo_l_and_the_bound(seed):
    rng = np.random.default_rng(seed)
    trace = Trace(rng.integers(0, 4, 14), rng.integers(1, 5, 4), rng.uniform(1, 5, 4))
    again = next_uses(trace.asked)
    most = most_seconds(trace, [(first, int(again[first])) for first in range(14) if again[first] < NEVER], 6)
    hits, bound = cache_policy.pfoo(trace, 6)
    reached = trace.seconds_saved[trace.asked[hits]].sum()
    assert 0.8 * most <= reached <= most + 1e-9  # sums in another order
    assert most <= bound + 1e-9


@pytest.mark.parametrize("name", ["sessions", "scan"])
def test_what_is_simulated_is_what_choose_chooses(name):
    trace = drawn(name, 600, 60)
    capacity_bytes = int(0.2 * trace.used_bytes)
    rates, uses, held, hits = HitRates(), {}, set(), []
    for now, one in enumerate(trace.asked.tolist()):
        hits.append(one in held)
        if one in held:
            rates.learn(uses[one], now, hit=True)
        uses[one] = uses[one].again(now) if one in uses else Uses(1, now)
        missing_bytes = int(trace.num_bytes[[*held | {one}]].sum()) - capacity_bytes
        others = [
            Candidate(str(each), int(trace.num_bytes[each]), float(trace.seconds_saved[each]), uses[each])
            for each in held - {one}
        ]
        for each in map(int, choose(others, missing_bytes, rates, now)):
            rates.learn(uses[each], now, hit=False)
            held.remove(each)
        held.add(one)
    assert 0 < sum(hits) < len(hits)
    assert hits == cache_policy.simulate(trace, capacity_bytes, POLICIES["ours"](trace)).tolist()


@pytest.mark.parametrize("name", TRACES)
def test_nobody_holds_more_than_fits_or_saves_more_than_the_bound(name):
    its = cache_policy.compare(drawn(name), 0.1)
    assert max(each["share"] for each in its["policies"].values()) <= its["bound_share"]
    assert its["policies"][its["best_offline"]]["share"] == 1
    assert ("popularity" in its["policies"]) == (name == "independent")


def test_a_policy_that_holds_all_misses_only_what_is_new():
    trace = drawn("independent")
    hits = cache_policy.simulate(trace, trace.used_bytes, Policy(trace))
    assert len(hits) - hits.sum() == len(np.unique(trace.asked))


def seconds_of(name, trace, capacity_bytes):
    hits = cache_policy.simulate(trace, capacity_bytes, POLICIES[name](trace))
    return trace.seconds_saved[trace.asked[hits]].sum()


@pytest.mark.parametrize("name", TRACES)
def test_ours_saves_what_the_least_recently_used_saves_and_mostly_more(name):
    trace = drawn(name, 6_000, 600)
    ours, lru = (seconds_of(each, trace, int(0.1 * trace.used_bytes)) for each in ("ours", "lru"))
    assert ours > lru * (0.99 if name == "recent" else 1)  # where last use tells all, learning that costs a little


def test_ours_saves_nine_tenths_of_what_anybody_could_on_sessions():
    trace = drawn("sessions", 12_000, 1_200)
    capacity_bytes = int(0.1 * trace.used_bytes)
    assert seconds_of("ours", trace, capacity_bytes) >= 0.9 * cache_policy.pfoo(trace, capacity_bytes)[1]


def test_traces_are_what_they_say():
    trace = drawn("sessions", 20_000, 2_000)
    assert trace.num_bytes.max() / trace.num_bytes.min() == pytest.approx(10, rel=0.02)  # 2000 draws of a uniform
    pauses = next_uses(trace.asked) - np.arange(20_000)
    assert (pauses < 300).mean() > 0.7  # 3 of 4 requests are followed by one of their session
    assert len(np.unique(drawn("scan", 2_000, 100).asked[1::2])) == 1_000
    assert np.array_equal(drawn("shifting", seed=3).asked, drawn("shifting", seed=3).asked)


def test_the_program_prints_and_keeps_one_object(monkeypatch, capsys, tmp_path):
    words = ["cache_policy", "--requests", "2000", "--pictures", "200", "--traces", "sessions", "--json"]
    monkeypatch.setattr("sys.argv", [*words, "--save", str(tmp_path / "results")])
    cache_policy.main()
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "results" / "cache_policy.json").read_text())
    assert set(result["traces"]["sessions"]["policies"]) == {*POLICIES, "pfoo_l"} - {"popularity"}
    assert "ours" in cache_policy.table(result)


def test_a_cache_that_is_too_small_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["cache_policy", "--requests", "50", "--pictures", "9", "--cache", "0.01"])
    with pytest.raises(SystemExit):
        cache_policy.main()
    assert "the cache must hold the largest picture" in capsys.readouterr().err
