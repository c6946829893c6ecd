"""What Redis holds of the index, and the commands that read and write it.

    retouch:workers                   hash         worker -> "epoch term revision"; a field lives `worker_seconds`
    retouch:vectors:SPACE             vector set   "worker/recording", which embedding it was; as long as an entry
    retouch:holders:TENANT:RECORDING  hash         worker -> JSON of the entry; a field lives `entry_seconds`

SPACE and TENANT are digests: no name can reach into another's key. An entry counts where its worker is registered with
the epoch and term that it carries. No command here looks at more than it is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple
from zlib import crc32

import redis

from cache_store.index import SIMILARITY_ERROR, Array, Entry, Hit, Space
from cache_store.index.records import Record, Registration
from cache_store.index.shelf import Key

WORKERS = "retouch:workers"


@dataclass(frozen=True)
class Lifetimes:
    """How long what nobody renews stays."""

    worker_seconds: int = 15
    entry_seconds: int = 3600


class News(NamedTuple):
    """An entry to be announced."""

    key: Key
    entry: Entry
    embedding: Array  # [D] of length 1


class Stale(NamedTuple):
    """An entry to be removed if it is still as it was seen (None: an element without an entry)."""

    key: Key
    entry: Entry | None


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def _vectors(space: Space) -> str:
    return "retouch:vectors:" + _digest(*astuple(space))


def _holders(tenant: str, recording_id: str) -> str:
    return f"retouch:holders:{_digest(tenant)}:{recording_id}"


def _element(key: Key) -> str:
    return f"{key.worker}/{key.recording_id}"


def _key(space: Space, element: bytes) -> Key:
    worker, recording_id = element.decode().split("/", 1)
    return Key(space, recording_id, worker)


def _attributes(embedding: Array) -> str:
    return json.dumps({"embedding": crc32(embedding.tobytes())})


class Ledger:
    """The index in Redis through one client. Every method may raise what the client raises."""

    def __init__(self, client: redis.Redis, lifetimes: Lifetimes) -> None:
        self._client: Any = client  # commands that it has no method for are untyped
        self._lifetimes = lifetimes
        self._num_workers = 1  # when last seen

    def ping(self) -> None:
        """Asks for a sign of life."""
        self._client.execute_command("PING")

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def registration(self, worker: str) -> Registration | None:
        """What a worker said of itself, while it lives."""
        return Registration.parse(self._client.hget(WORKERS, worker))

    def register(self, worker: str, registration: Registration) -> None:
        """Says that the worker lives."""
        self._client.hsetex(WORKERS, worker, str(registration), ex=self._lifetimes.worker_seconds)

    def unregister(self, worker: str) -> None:
        """Says that it does not."""
        self._client.hdel(WORKERS, worker)

    def are_placed(self, news: Iterable[News]) -> list[bool]:
        """Whether the embedding of each is in its vector set already: putting it there is what takes long."""
        ask = self._client.pipeline(transaction=False)
        wanted = []
        for key, _, embedding in news:
            ask.execute_command("VGETATTR", _vectors(key.space), _element(key))
            wanted.append(_attributes(embedding).encode())
        return [got == want for got, want in zip(ask.execute(), wanted, strict=True)]

    def write(
        self,
        worker: str,
        registration: Registration,
        placed: Iterable[News],
        new: Iterable[News],
        gone: Iterable[Key],
    ) -> Registration | None:
        """Announces and withdraws at once, all or nothing; what the worker had said of itself before.

        `placed` are those whose embeddings are there, `new` the others.
        """
        change = self._client.pipeline(transaction=True)
        change.hget(WORKERS, worker)
        for key, _, embedding in new:
            vectors, element = _vectors(key.space), _element(key)
            change.execute_command("VREM", vectors, element)
            vector = ("FP32", embedding.tobytes(), element, "NOQUANT", "SETATTR", _attributes(embedding))
            change.execute_command("VADD", vectors, *vector)
        for key, entry, _ in (*placed, *new):
            where, text = _holders(key.space.tenant, key.recording_id), str(Record(entry, registration.term))
            change.hsetex(where, worker, text, ex=self._lifetimes.entry_seconds)
            change.expire(_vectors(key.space), self._lifetimes.entry_seconds)
        for key in gone:
            _remove(change, key)
        change.hsetex(WORKERS, worker, str(registration), ex=self._lifetimes.worker_seconds)
        return Registration.parse(change.execute()[0])

    def remove(self, stale: Stale) -> None:
        """Removes what another worker left, unless it was announced again since it was seen."""
        key = stale.key
        where = _holders(key.space.tenant, key.recording_id)
        with self._client.pipeline(transaction=True) as change:
            change.watch(where)
            record = Record.parse(change.hget(where, key.worker), key.recording_id, key.worker)
            if record is not None and record.entry != stale.entry:
                return
            change.multi()
            _remove(change, key)
            try:
                change.execute()
            except redis.WatchError:
                return  # it was announced just now

    def sample(self, space: Space, count: int) -> list[Stale]:
        """Of `count` elements of a space those without an entry: what dead workers left."""
        elements = self._client.execute_command("VRANDMEMBER", _vectors(space), count) or []
        keys = [_key(space, element) for element in elements]
        return [Stale(key, None) for key, record in zip(keys, self._records(keys), strict=True) if record is None]

    def nearest(
        self, space: Space, embedding: Array, count: int, min_similarity: float, asker: str, worker: str | None = None
    ) -> tuple[list[Hit], list[Stale]]:
        """Entries of other workers than the asker near a unit embedding, best first, and what was met that is stale.

        Enough for `count` recordings, each perhaps of many workers, or of the one that is named. Approximate: the
        vector set's graph is searched.
        """
        least = min_similarity - SIMILARITY_ERROR
        registered, similarities = self._search(space, embedding, count, least, worker)
        near = [key for key, similarity in similarities.items() if similarity >= least]
        others = [key for key in near if key.worker != asker and worker in {None, key.worker}]
        hits, stale = [], []
        for key, record in zip(others, self._records(others), strict=True):
            alive = registered.get(key.worker)
            if record is not None and record.counts(alive):
                hits.append(Hit(space, record.entry, similarities[key]))
            elif record is None or (alive is not None and record.entry.epoch < alive.epoch):
                stale.append(Stale(key, record and record.entry))
        return hits, stale

    def holders(self, tenant: str, recording_id: str) -> list[Entry]:
        """Entries of all workers that stand by them."""
        ask = self._client.pipeline(transaction=False)
        ask.hgetall(WORKERS)
        ask.hgetall(_holders(tenant, recording_id))
        workers, texts = ask.execute()
        registered = _registered(workers)
        records = (Record.parse(text, recording_id, worker.decode()) for worker, text in texts.items())
        return [one.entry for one in records if one is not None and one.counts(registered.get(one.entry.worker))]

    def _search(
        self, space: Space, embedding: Array, count: int, least: float, worker: str | None
    ) -> tuple[dict[str, Registration], dict[Key, float]]:
        """Who is registered, and cosines of the nearest elements, best first: `count` for each worker, or of the one.

        More are asked for until there are as many, or the farthest is too far, or there are no more.
        """
        num_asked = count * self._num_workers
        while True:
            registered, cosines = self._ask(space, embedding, num_asked)
            self._num_workers = max(1, len(registered))
            are_all = len(cosines) < num_asked or min(cosines.values()) < least
            num_wanted = count * self._num_workers if worker is None else count
            num_found = len(cosines) if worker is None else sum(key.worker == worker for key in cosines)
            if are_all or num_found >= num_wanted:
                return registered, cosines
            num_asked = max(2 * num_asked, num_wanted)

    def _ask(self, space: Space, embedding: Array, num_asked: int) -> tuple[dict[str, Registration], dict[Key, float]]:
        """Who is registered, and cosines of so many of the nearest elements, in one round trip."""
        ask = self._client.pipeline(transaction=False)
        ask.hgetall(WORKERS)
        vector = ("FP32", embedding.tobytes(), "WITHSCORES", "COUNT", num_asked)
        ask.execute_command("VSIM", _vectors(space), *vector)
        workers, scores = ask.execute()
        cosines = {_key(space, element): min(1.0, 2 * score - 1) for element, score in dict(scores).items()}
        return _registered(workers), cosines

    def _records(self, keys: Sequence[Key]) -> list[Record | None]:
        """What is written of each."""
        ask = self._client.pipeline(transaction=False)
        for key in keys:
            ask.hget(_holders(key.space.tenant, key.recording_id), key.worker)
        answers = zip(keys, ask.execute(), strict=True)
        return [Record.parse(text, key.recording_id, key.worker) for key, text in answers]


def _registered(workers: Mapping[bytes, bytes]) -> dict[str, Registration]:
    parsed = {worker.decode(): Registration.parse(text) for worker, text in workers.items()}
    return {worker: registration for worker, registration in parsed.items() if registration is not None}


def _remove(change: Any, key: Key) -> None:
    change.execute_command("VREM", _vectors(key.space), _element(key))
    change.hdel(_holders(key.space.tenant, key.recording_id), key.worker)
