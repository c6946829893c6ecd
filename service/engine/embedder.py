"""Who makes vectors of prompts, by whose cosines recordings are near or far.

    Pooled      the model that draws: its own text, nothing to load, and at home with the words that it draws
    Sentence    a sentence-embedding model, which knows more words and more ways to put them

Vectors of two makers are not comparable, and neither are thresholds: each has a name, and an index keeps its vectors in
spaces of their own. A receipt's similarity is by the maker that finds sources here, whoever found this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np

from service.engine.sentence import FETCHED, FIELD, NUM_KEPT, Sentence, Usage, Vector
from service.engine.text import embedding
from service.engine.weights import Model, find_model


class Embedder(Protocol):
    """Makes vectors of prompts. For one thread at a time: the device's."""

    @property
    def name(self) -> str:
        """Vectors are comparable where it is equal."""

    def embed(self, model: Model, prompt: str) -> Vector:
        """What a prompt means, not to be written to; `model` is the one that draws."""


@dataclass(frozen=True)
class Pooled:
    """The drawing model's own pooled text. A space is of one model, so the name need not tell which."""

    name: str = "pooled"
    _kept: Callable[[Model, str], Vector] = field(
        default_factory=lambda: lru_cache(NUM_KEPT)(_embed), init=False, repr=False, compare=False
    )

    def embed(self, model: Model, prompt: str) -> Vector:
        """As in `Embedder`."""
        return self._kept(model, prompt)


def _embed(model: Model, prompt: str) -> Vector:
    vector = embedding(model, prompt).copy()  # of it alone: the rest of the text's memory may go
    vector.flags.writeable = False
    return vector


def open_embedder(source: str) -> Embedder:
    """By a directory or a hub id, which is fetched first; empty is the model that draws.

    InputError where there is none, or one that is to be used in another way than ours, or cannot be.
    """
    return Sentence(find_model(source, FIELD, FETCHED)) if source else Pooled()


def check_embedder(source: str) -> None:
    """As `open_embedder`, but its weights are not read."""
    if source:
        Usage.read(find_model(source, FIELD, FETCHED))


def similarity(embedder: Embedder, model: Model, source: str, edited: str) -> float:
    """Cosine of two prompts, -1 to 1: rounding leads no further."""
    old, new = (embedder.embed(model, prompt) for prompt in (source, edited))
    return float(np.clip(old @ new / (np.linalg.norm(old) * np.linalg.norm(new)), -1, 1))
