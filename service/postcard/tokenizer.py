"""The tokenizer's files: a byte-level BPE as CLIP's, whose merges build each known word into one token."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
MAX_LENGTH = 24  # tokens; the longest caption of three objects has 23


def write_tokenizer(directory: Path, words: tuple[str, ...]) -> None:
    """Writes vocab.json, merges.txt and the configuration that `CLIPTokenizer` loads; any text can be tokenised."""
    merges = learn_merges(words)
    letters = list(_byte_letters())
    tokens = [*letters, *(letter + WORD_END for letter in letters), *(a + b for a, b in merges), START, END]
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (directory / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    configuration = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_LENGTH,
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(configuration, indent=2) + "\n", encoding="utf-8")


def learn_merges(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Byte-pair merges, the most frequent pair first, until every word is one token (Sennrich et al., 2016).

    Encoding replays the merges in this order, so each of these words comes out as one token.
    """
    spelled = [[*word[:-1], word[-1] + WORD_END] for word in words]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for parts in spelled for pair in pairwise(parts)):
        best = max(sorted(pairs), key=pairs.__getitem__)
        merges.append(best)
        spelled = [_merged(parts, best) for parts in spelled]
    return merges


def token_ids(tokenizer: CLIPTokenizer, prompts: list[str]) -> list[list[int]]:
    """Token ids, [prompts, MAX_LENGTH], padded and cut as the pipeline does it."""
    ids: list[list[int]] = tokenizer(prompts, padding="max_length", max_length=MAX_LENGTH, truncation=True).input_ids
    return ids


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return out


def _byte_letters() -> list[str]:
    """A printable letter for each of the 256 bytes, as GPT-2 and CLIP choose them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(hidden))]
