"""The recordings that are known, by their prompts: which one is near enough to be edited instead of drawing anew.

    announce     a picture is recorded: its prompt's embedding, and who has it; one that was there before: announce_kept
    nearest      an edit names no source: recordings of its own tenant, model, size and settings, the nearest first
    withdraw     its activations are about to go: what a store's `on_lost` is

Near is decided twice. The index compares embeddings, which is quick and knows paraphrases; then words are counted, for
an edit changes a few. What the index points to is opened before it is used: who is wrong is the index.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from cache_store.index import Entry, Hit, Index, Space
from cache_store.store import Store
from service.engine.core import Core, Told
from service.engine.embedder import Embedder, Pooled
from service.engine.prompts import changed_words
from service.engine.recording import is_readable
from service.engine.sampling import beside, resolve
from service.engine.weights import Model
from service.errors import ConflictError
from service.jobs import Sampling, SamplingRequest

log = logging.getLogger(__name__)

NUM_HITS = 64  # looked at: the nearest may have gone, have another seed, or differ in too many words


@dataclass(frozen=True)
class Nearness:
    """When a recording is near enough to a prompt to be its source."""

    min_similarity: float = 0.8  # cosine of the prompts' embeddings
    max_changed_words: int = 4  # removed and added together


@dataclass(frozen=True)
class Nearest:
    """A recording that may be edited."""

    recording_id: str
    sampling: Sampling  # of the edit
    similarity: float


@dataclass(frozen=True, eq=False)
class Catalog:
    """An index, as one worker uses it."""

    index: Index
    worker: str
    epoch: int  # grows with each start of the worker
    nearness: Nearness = Nearness()
    embedder: Embedder = field(default_factory=Pooled)

    def announce(self, model: Model, core: Core | Told, recording_id: str, num_bytes: int) -> None:
        """A recording is whole, and can be read here."""
        entry = Entry(recording_id, self.worker, self.epoch, "host", num_bytes, time.time())
        space = space_of(model, self.embedder, core.tenant, core.sampling)
        self.index.admit(space, self.embedder.embed(model, core.prompt), entry)

    def is_source(self, model: Model, store: Store, recording_id: str) -> bool:
        """Whether this model drew it, and its rows are here; they are checked for that, which waits for the disk."""
        with self._source(model, store, recording_id) as source:
            return source is not None

    def announce_kept(self, model: Model, store: Store, recording_id: str) -> None:
        """A recording, if it `is_source`: quick when that was asked before."""
        with self._source(model, store, recording_id) as source:
            if source is not None:
                self.announce(model, *source)

    @contextmanager
    def _source(self, model: Model, store: Store, recording_id: str) -> Iterator[tuple[Told, str, int] | None]:
        """What an announcement says; meanwhile it stays."""
        recording = store.open(recording_id, uses=False)
        if recording is None:  # it has been deleted since
            yield None
            return
        with recording:
            try:
                told = Told.load(recording)
            except ValueError as error:  # an earlier version's: it is no source, and does no harm
                log.warning("a recording is not announced: %s", str(error))
                yield None
                return
            is_source = told.model == model.fingerprint and is_readable(recording, model.format)
            rows = recording.activations
            yield (told, recording_id, rows.own.lie.num_bytes) if is_source and rows else None

    def withdraw(self, recording_id: str) -> None:
        """It is about to leave."""
        self.index.evict(recording_id, self.worker)

    def nearest(
        self,
        model: Model,
        store: Store,
        tenant: str,
        prompt: str,
        request: SamplingRequest,
        min_similarity: float | None = None,  # None: the rule's own
    ) -> Nearest | None:
        """The recording here that the prompt is the least edit of; None where none is near enough."""
        least = self.nearness.min_similarity if min_similarity is None else min_similarity
        space = space_of(model, self.embedder, tenant, resolve(model, request))
        for hit in self.index.nearest(space, self.embedder.embed(model, prompt), NUM_HITS, least, self.worker):
            found = self._checked(store, hit, prompt, request)
            if found is not None:
                return found
        return None

    def _checked(self, store: Store, hit: Hit, prompt: str, request: SamplingRequest) -> Nearest | None:
        """The hit, if it is there, readable, drawn with what was asked for, and a few words away."""
        recording = store.open(hit.entry.recording_id, uses=False)  # who edits it uses it
        if recording is None:
            self.index.reject(hit)
            return None
        with recording:
            if recording.activations is None:
                self.index.reject(hit)
                return None
            told = Told.load(recording)
        if told.tenant != hit.space.tenant:
            return None
        if sum(map(len, changed_words(told.prompt, prompt))) > self.nearness.max_changed_words:
            return None
        try:
            return Nearest(hit.entry.recording_id, beside(told.sampling, request), hit.similarity)
        except ConflictError:  # another seed than the one that was asked for
            return None


def space_of(model: Model, embedder: Embedder, tenant: str, sampling: Sampling) -> Space:
    """Recordings that can serve each other: all but the seed is the same."""
    settings = asdict(sampling)
    del settings["seed"]
    width, height = settings.pop("width"), settings.pop("height")
    return Space(tenant, model.fingerprint, width, height, json.dumps(settings, sort_keys=True), embedder.name)
