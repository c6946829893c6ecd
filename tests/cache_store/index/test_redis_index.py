"""What lies in Redis, how long it stays, and how it is put right; on fakeredis and on a real Redis 8."""

import json

import numpy as np
import pytest

from cache_store.index.redis import RedisIndex

WORKERS = b"retouch:workers"


@pytest.fixture
def redis_client(client):
    with client() as made:
        yield made


@pytest.fixture
def admit(prompt, at, entry, space):
    """admit(index, "one") -> the index has it."""

    def call(index, recording_id, cosine=0.9, **other):
        index.admit(space, at(prompt, cosine), entry(recording_id, index.worker, index.epoch, **other))

    return call


@pytest.fixture
def found(space, prompt):
    """found(index) -> the recordings that it finds."""
    return lambda index: {hit.entry.recording_id for hit in index.nearest(space, prompt, 99, -1)}


def keys(client, kind):
    return client.keys(b"retouch:" + kind + b":*")


def elements(client):
    return [one for key in keys(client, b"vectors") for one in client.execute_command("VRANDMEMBER", key, 99)]


def test_nothing_but_pointers_lies_in_redis(workers, redis_client, admit, prompt):
    admit(workers.index("a"), "one")
    workers.settle()
    (vectors,), (holders,) = keys(redis_client, b"vectors"), keys(redis_client, b"holders")
    assert set(redis_client.keys("*")) == {vectors, holders, WORKERS}
    assert elements(redis_client) == [b"a/one"]
    assert redis_client.execute_command("VDIM", vectors) == len(prompt)
    assert list(redis_client.hgetall(WORKERS)) == [b"a"]
    (pointer,) = redis_client.hgetall(holders).values()
    assert json.loads(pointer) == {"epoch": 1, "term": 1, "tier": "host", "num_bytes": 1000, "created": 0.5}


def test_no_name_of_a_tenant_or_of_a_model_is_in_a_key(workers, redis_client, admit):
    admit(workers.index("a"), "one")
    workers.settle()
    assert not [key for key in redis_client.keys("*") if b"ann" in key or b"postcard" in key]


def test_everything_has_an_end_unless_it_is_renewed(workers, redis_client, admit, lifetimes):
    admit(workers.index("a"), "one")
    workers.settle()
    (vectors,), (holders,) = keys(redis_client, b"vectors"), keys(redis_client, b"holders")
    assert 0 < redis_client.ttl(vectors) <= lifetimes.entry_seconds
    assert 0 < redis_client.httl(holders, "a")[0] <= lifetimes.entry_seconds
    assert 0 < redis_client.httl(WORKERS, "a")[0] <= lifetimes.worker_seconds


def test_entries_are_renewed_in_a_third_of_their_time_and_their_embeddings_stay(
    workers, redis_client, admit, lifetimes
):
    index = workers.index("a")
    for number in range(9):
        admit(index, str(number))
    workers.settle()
    for key in redis_client.keys("*"):
        redis_client.persist(key)  # from now on what has an end was renewed
        if key.startswith(b"retouch:holders"):
            redis_client.hpersist(key, "a")
    for _ in range(lifetimes.entry_seconds // lifetimes.worker_seconds):
        workers.pass_time(lifetimes.worker_seconds / 3)
    assert all(redis_client.httl(key, "a")[0] > 0 for key in keys(redis_client, b"holders"))
    assert all(redis_client.ttl(key) > 0 for key in keys(redis_client, b"vectors"))


def test_an_embedding_is_put_into_its_set_once(real_workers, real_client, admit, lifetimes):
    index = real_workers.index("a")
    for tier in ("host", "disk"):
        admit(index, "one", tier=tier)
        real_workers.pass_time(lifetimes.worker_seconds)
    with real_client() as client:
        assert client.info("commandstats")["cmdstat_VADD"]["calls"] == 1


def test_no_command_looks_at_all_keys(real_workers, real_client, admit, space, prompt, lifetimes):
    index, other = real_workers.index("a"), real_workers.index("b")
    admit(index, "one")
    real_workers.settle()
    for hit in other.nearest(space, prompt, 5, -1):
        other.reject(hit)
    other.holders("ann", "one")
    real_workers.pass_time(lifetimes.worker_seconds)
    index.evict("one", "a")
    real_workers.settle()
    index.close()
    with real_client() as client:
        used = {name.removeprefix("cmdstat_").lower() for name in client.info("commandstats")}
    assert {"vadd", "vsim", "vrem", "hgetall"} <= used
    assert not [name for name in used if "scan" in name or name in {"keys", "randomkey", "flushall", "flushdb"}]


def test_after_a_wipe_everything_is_announced_again(workers, redis_client, admit, found):
    index, other = workers.index("a"), workers.index("b")
    admit(index, "one")
    admit(other, "two")
    workers.settle()
    redis_client.flushall()
    assert found(index) == {"one"}
    assert found(other) == {"two"}
    workers.pass_time(5)
    assert found(index) == found(other) == {"one", "two"}
    assert index.counts().lookups["down"] == 0


def test_a_wipe_between_two_writes_is_noticed_by_the_second(workers, redis_client, admit, found):
    index, other = workers.index("a"), workers.index("b")
    admit(index, "one")
    admit(index, "two")
    workers.settle()
    redis_client.flushall()
    admit(index, "three")
    workers.settle()
    assert found(other) == {"one", "two", "three"}


def test_what_changes_while_it_is_written_is_written_again(workers, admit, found, monkeypatch):
    index, other = workers.index("a"), workers.index("b")
    write = index._written.write

    def write_slowly(*change):
        monkeypatch.setattr(index._written, "write", write)
        seen = write(*change)
        index.evict("one", "a")
        return seen

    admit(index, "one")
    monkeypatch.setattr(index._written, "write", write_slowly)
    workers.settle()
    assert found(index) == found(other) == set()


def test_a_write_whose_answer_is_lost_is_done_again_and_nothing_else(workers, redis_client, admit, found, monkeypatch):
    index, other = workers.index("a"), workers.index("b")
    write = index._written.write

    def write_without_answer(*change):
        monkeypatch.setattr(index._written, "write", write)
        write(*change)
        raise ConnectionError

    admit(index, "one")
    monkeypatch.setattr(index._written, "write", write_without_answer)
    workers.settle()
    assert index.num_pending == 1
    workers.pass_time(5)
    assert index.num_pending == 0
    assert found(other) == {"one"}
    assert redis_client.hget(WORKERS, "a").split()[1] == b"1"


@pytest.mark.parametrize("lost", [b"vectors", b"holders"])
def test_a_part_that_was_lost_is_put_back_when_it_is_renewed(workers, redis_client, admit, found, lifetimes, lost):
    index, other = workers.index("a"), workers.index("b")
    admit(index, "one")
    workers.settle()
    redis_client.delete(*keys(redis_client, lost))
    assert found(other) == set()
    assert found(index) == {"one"}
    workers.pass_time(lifetimes.worker_seconds)
    assert found(other) == {"one"}


def test_what_a_dead_worker_had_is_not_found_until_it_is_back(workers, redis_client, admit, found):
    index, other = workers.index("a"), workers.index("b")
    admit(index, "one")
    workers.settle()
    redis_client.hdel(WORKERS, "a")  # as if it had given no sign of life for long
    assert found(other) == set()
    workers.pass_time(5)
    assert found(other) == {"one"}


def test_an_element_whose_entry_has_expired_is_reaped_by_who_meets_it(workers, redis_client, admit, found):
    index, other = workers.index("a"), workers.index("b")
    admit(index, "one")
    workers.settle()
    workers.indexes.remove(index)  # it does nothing more
    redis_client.delete(*keys(redis_client, b"holders"))
    assert found(other) == set()
    workers.settle()
    assert elements(redis_client) == []


def test_what_nobody_meets_is_reaped_too(workers, redis_client, admit, lifetimes):
    index, other = workers.index("a"), workers.index("b")
    for number in range(5):
        admit(index, str(number))
    workers.settle()
    workers.indexes.remove(index)
    redis_client.delete(*keys(redis_client, b"holders"))
    admit(other, "own")
    workers.pass_time(lifetimes.worker_seconds)
    assert elements(redis_client) == [b"b/own"]


def test_what_an_earlier_epoch_left_is_reaped_by_who_meets_it(workers, redis_client, admit, found):
    before, other = workers.index("a", epoch=1), workers.index("b")
    admit(before, "one")
    workers.settle()
    workers.indexes.remove(before)
    workers.index("a", epoch=2)
    assert found(other) == set()
    workers.settle()
    assert elements(redis_client) == keys(redis_client, b"holders") == []


def test_a_worker_that_was_replaced_is_silent(workers, redis_client, admit, found):
    before, other = workers.index("a", epoch=1), workers.index("b")
    after = workers.index("a", epoch=2)
    workers.pass_time(5)
    admit(before, "one")
    admit(after, "two")
    workers.settle()
    workers.indexes.reverse()  # whoever speaks last
    workers.pass_time(5)
    assert found(other) == {"two"}
    assert found(before) == {"one"}  # of itself it still knows
    before.close()
    assert found(other) == {"two"}
    assert redis_client.hget(WORKERS, "a").startswith(b"2 ")


def test_a_worker_that_closes_is_gone_at_once(workers, admit, found):
    index, other = workers.index("a"), workers.index("b")
    admit(index, "one")
    workers.settle()
    index.close()
    assert found(other) == set()
    admit(index, "two")
    assert found(index) == {"one", "two"}
    assert index.counts().lookups == {"hit": 1, "miss": 0, "down": 0}


def test_more_changes_than_fit_begin_anew_instead(workers, redis_client, admit, found):
    index, other = workers.index("a", max_entries=3), workers.index("b")
    for name in ("one", "two", "three"):
        admit(index, name)
    workers.settle()
    for number in range(9):
        index.evict(("one", "two", "three")[number % 3], "a")
        admit(index, str(number))
        assert index.num_pending <= 3
    workers.settle()
    assert found(other) == {"6", "7", "8"}
    assert redis_client.hget(WORKERS, "a").split()[1] != b"1"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[1]",
        b"null",
        b"\xff\x00",
        b'{"epoch": 1}',
        b"1 1",
        b'{"epoch": "x", "term": 1, "tier": 1, "num_bytes": 1, "created": 1}',
    ],
)
def test_what_is_no_pointer_is_passed_over(workers, redis_client, admit, found, text):
    index, other = workers.index("a"), workers.index("b")
    admit(index, "one")
    workers.settle()
    (holders,) = keys(redis_client, b"holders")
    redis_client.hset(holders, "a", text)
    redis_client.hset(WORKERS, "c", text)
    redis_client.hset(holders, "c", text)
    assert found(other) == set()
    assert found(index) == {"one"}
    assert other.up


def test_an_entry_of_another_worker_or_epoch_is_refused(workers, space, prompt, entry):
    index = workers.index("a", epoch=2)
    for one in (entry("one", "b", 2), entry("one", "a", 1)):
        with pytest.raises(ValueError, match="'a', epoch 2"):
            index.admit(space, prompt, one)


def test_it_is_down_until_the_first_sign_of_life(client, found, world_clock):
    index = RedisIndex(client(), client(), "a", 1, clock=world_clock)
    assert not index.up
    assert found(index) == set()
    assert index.counts().lookups["down"] == 1
    index.turn()
    assert index.up
    index.close()


@pytest.mark.parametrize("worker", ["", "a/b"])
def test_a_worker_without_a_name_is_refused(client, worker):
    with client() as one, client() as two, pytest.raises(ValueError, match="worker"):
        RedisIndex(one, two, worker, 1)


def test_hundreds_of_entries_are_announced_in_small_writes(workers, space, entry):
    index, other = workers.index("a"), workers.index("b")
    embeddings = np.random.default_rng(0).standard_normal((300, 24)).astype(np.float32)
    for number, embedding in enumerate(embeddings):
        index.admit(space, embedding, entry(str(number), "a"))
    assert index.num_pending == 300
    workers.settle()
    assert index.num_pending == 0
    for number in range(0, 300, 7):
        (hit,) = other.nearest(space, embeddings[number], 1, 0.99)
        assert hit.entry.recording_id == str(number)
