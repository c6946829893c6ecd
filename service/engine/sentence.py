"""A sentence-embedding model: the mean over a text's tokens, of length one, as all-MiniLM-L6-v2 makes it.

    config.json model.safetensors tokenizer.json ...   a network and its tokenizer, transformers' own
    modules.json                                       sentence-transformers' list of parts: network, pooling, length
    1_Pooling/config.json                              how tokens become one vector
    sentence_bert_config.json                          how many tokens are read
    config_sentence_transformers.json                  what is put before each text

Only the first line must be there. What the others say otherwise than we do it is refused, and so is what is not known.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from service.engine.weights import Model
from service.errors import InputError

FIELD = "embedding_model"  # what the setting is called
FETCHED = ("*.json", "*.txt", "*.safetensors")  # never pickles
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")
NUM_KEPT = 1024  # vectors: an edit asks for its two prompts twice each
UNUSED = "pooler."  # weights that no mean over tokens reads, and that some checkpoints lack

Vector = NDArray[np.float32]  # [D]


@dataclass(frozen=True)
class Usage:
    """How a sentence model is to be used, as its directory says."""

    directory: Path  # of the network and its tokenizer
    max_tokens: int | None = None  # special ones included; None = not told
    lower_case: bool = False

    @classmethod
    def read(cls, directory: Path) -> Usage:
        """InputError where it is to be used in another way than ours, or does not tell."""
        try:
            network = _network(directory)
            told = _told(network / "sentence_bert_config.json")
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(FIELD, f"{directory.name} cannot be read: {_line(error)}") from error
        if not (network / "config.json").is_file() or not any((network / name).is_file() for name in VOCABULARIES):
            raise InputError(FIELD, f"{directory.name} must hold config.json and one of {', '.join(VOCABULARIES)}")
        if unknown := sorted(set(told) - {"max_seq_length", "do_lower_case"}):
            raise InputError(FIELD, f"sentence_bert_config.json: {', '.join(unknown)} is not known")
        return cls(network, told.get("max_seq_length"), bool(told.get("do_lower_case")))


class Sentence:
    """An `Embedder` on the CPU, in float32: the same vectors on all workers, whatever their devices."""

    def __init__(self, directory: Path) -> None:
        """Loads a directory. InputError says what is missing or not known in it."""
        self._usage = Usage.read(directory)
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(self._usage.directory)
            self._network = _load(self._usage.directory)
            self._embed("a word " * self._max_tokens)  # as long a text as there may be
        except Exception as error:  # torch, safetensors, tokenizers and transformers each raise their own
            raise InputError(FIELD, f"{directory.name} cannot be used: {_line(error)}") from error
        self.name = f"sentence:{_digest(self._usage)}"
        self._kept = lru_cache(NUM_KEPT)(self._embed)

    def embed(self, model: Model, prompt: str) -> Vector:
        """As in `Embedder`; what is too long is cut off."""
        del model  # which draws, but does not read here
        return self._kept(prompt)

    @torch.no_grad()
    def _embed(self, prompt: str) -> Vector:
        text = prompt.lower() if self._usage.lower_case else prompt
        tokens = self._tokenizer(text, truncation=True, max_length=self._max_tokens, return_tensors="pt")
        hidden = self._network(**tokens).last_hidden_state[0]  # [T, D]: one text is not padded, all tokens count
        vector: Vector = torch.nn.functional.normalize(hidden.mean(0), dim=0).numpy()
        vector.flags.writeable = False
        return vector

    @property
    def _max_tokens(self) -> int:
        """As the directory says, but no more than there are positions."""
        there: int = min(self._tokenizer.model_max_length, self._network.config.max_position_embeddings)
        return min(there, self._usage.max_tokens or there)


def _network(directory: Path) -> Path:
    """Where the network lies, if the parts after it do what we do."""
    if not (directory / "modules.json").is_file():
        return directory
    parts = _told(directory / "modules.json")
    kinds = [str(part["type"]).rpartition(".")[2] for part in parts]
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Normalize"}:
        raise InputError(FIELD, f"modules.json must name Transformer, Pooling and at most Normalize, got {kinds}")
    network, pooling = (directory / str(part["path"]) for part in parts[:2])
    told = _told(pooling / "config.json")
    modes = [name for name, value in told.items() if name.startswith("pooling_mode") and value]
    if modes != ["pooling_mode_mean_tokens"]:
        raise InputError(FIELD, f"{pooling.name}/config.json must say pooling_mode_mean_tokens alone, got {modes}")
    before = _told(directory / "config_sentence_transformers.json").get("default_prompt_name")
    if before:
        raise InputError(FIELD, f"config_sentence_transformers.json puts {before!r} before each text: not known")
    return network


def _load(directory: Path) -> Any:
    """The network, whole: transformers would make up what is missing."""
    transformers.utils.logging.disable_progress_bar()
    network, report = transformers.AutoModel.from_pretrained(
        directory, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith(UNUSED)):
        raise ValueError(f"{len(missing)} weights are missing, the first is {missing[0]}")
    return network.eval().requires_grad_(requires_grad=False)


def _digest(usage: Usage) -> str:
    """Of all that makes its vectors what they are."""
    digest = hashlib.sha256(repr((usage.max_tokens, usage.lower_case)).encode())
    for path in sorted(path for pattern in FETCHED for path in usage.directory.glob(pattern)):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _told(path: Path) -> Any:
    """What a file says; nothing where there is none."""
    return json.loads(path.read_bytes()) if path.is_file() else {}


def _line(error: Exception) -> str:
    """What another library says, as one line."""
    return shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")
