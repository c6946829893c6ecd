"""Prompts: which words an edit keeps, and how the source's cross-attention is carried over to them.

    align -> Alignment                     which tokens of the edited prompt are which tokens of the source prompt
    mixing -> Mix                          recorded cross-attention maps brought into an edit's (Prompt-to-Prompt)
    changed_words, unknown_words           the same for people, on text

Everything works on token ids, not on a tokenizer. Begin, end and padding tokens are *special*: they are never aligned,
because recorded maps of padding, injected, make the edit mask grow several times over. T is the number of tokens.
"""

import re
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Words = Sequence[int | None]  # for each token, the number of its word; None for special tokens (`word_ids()`)

WORD = re.compile(r"\w+(?:['\u2019]\w+)*")  # an apostrophe, straight or curved, is inside its word


@dataclass(frozen=True)
class Alignment:
    """Which tokens of the edited prompt [T'] are which tokens of the source prompt [T]; real words only."""

    mapper: Tensor  # int64 [T'], edited token -> source token; means nothing where alpha is 0
    alpha: Tensor  # float32 [T'], 1 where the token is kept, 0 where it is new or special
    kept: tuple[tuple[int, int], ...]  # (source token, edited token), in order
    removed: tuple[int, ...]  # source tokens that nothing kept
    added: tuple[int, ...]  # edited tokens that are new

    @property
    def unchanged(self) -> bool:
        """Whether both prompts are the same words in the same order."""
        return not self.removed and not self.added


def align(
    source_ids: Sequence[int],  # [T]
    edited_ids: Sequence[int],  # [T']
    *,
    special: Collection[int],  # ids of begin, end and padding tokens
    words: tuple[Words, Words] | None = None,  # words of source and edited prompt; None: each token is a word
) -> Alignment:
    """Align two prompts by Needleman-Wunsch on words (gap 0, match +1, mismatch -1).

    A word of several tokens is kept as a whole or not at all. Where alignments are equally good, a word is matched as
    late as possible: English puts articles and adjectives before their noun, so they stay with the noun they belong to.
    """
    source_words, edited_words = words or (None, None)
    source = _groups(_real_words(source_ids, special, source_words))
    edited = _groups(_real_words(edited_ids, special, edited_words))
    kept = tuple(
        pair
        for i, j in _kept_pairs(_spelled(source, source_ids), _spelled(edited, edited_ids))
        for pair in zip(source[i], edited[j], strict=True)
    )
    mapper = torch.arange(len(edited_ids)).clamp(max=len(source_ids) - 1)
    alpha = torch.zeros(len(edited_ids))
    for old, new in kept:
        mapper[new], alpha[new] = old, 1.0
    olds, news = {old for old, _ in kept}, {new for _, new in kept}
    return Alignment(
        mapper=mapper,
        alpha=alpha,
        kept=kept,
        removed=tuple(token for word in source for token in word if token not in olds),
        added=tuple(token for word in edited for token in word if token not in news),
    )


@dataclass(frozen=True, eq=False)
class Mix:
    """How recorded cross-attention enters an edit's: A' = alpha * (A_old @ mapper) + (1 - alpha) * A_new."""

    mapper: Tensor  # float32 [T, T']
    alpha: Tensor  # float32 [T'], 1 where an edited token takes the recorded map, 0 where it looks for itself

    def moved(self, recorded: Tensor) -> Tensor:  # [..., T] -> [..., T']
        """Recorded maps as those of the edited prompt's tokens."""
        return recorded @ self.mapper.to(recorded)

    def __call__(self, recorded: Tensor, fresh: Tensor) -> Tensor:  # [..., T], [..., T'] -> [..., T']
        """The formula."""
        alpha = self.alpha.to(fresh)
        return alpha * self.moved(recorded) + (1 - alpha) * fresh


def refinement(alignment: Alignment, num_tokens: int) -> Mix:
    """Prompt-to-Prompt, "refine": a kept token takes the map it had; `num_tokens` are the source's, T."""
    mapper = torch.zeros(num_tokens, len(alignment.alpha))
    mapper[alignment.mapper, torch.arange(len(alignment.alpha))] = alignment.alpha
    return Mix(mapper, alignment.alpha)


def replacement(source_words: Words, edited_words: Words) -> Mix:
    """Prompt-to-Prompt, "replace": word k of the edited prompt takes the attention of the source's word k.

    Words of equally many tokens pass it on token by token; otherwise every new token gets an equal share of the old
    ones' sum. Special tokens look for themselves.
    """
    source, edited = _groups(source_words), _groups(edited_words)
    if len(source) != len(edited):
        raise ValueError(f"edited_words must be {len(source)} words like source_words, are {len(edited)}")
    mapper = torch.zeros(len(source_words), len(edited_words))
    for old, new in zip(source, edited, strict=True):
        if len(old) == len(new):
            mapper[old, new] = 1.0
        else:
            mapper[torch.tensor(old)[:, None], new] = 1 / len(new)
    return Mix(mapper, mapper.any(0).float())


def mixing(
    source_ids: Sequence[int],
    edited_ids: Sequence[int],
    *,
    special: Collection[int],
    words: tuple[Words, Words] | None = None,
) -> Mix:
    """How recorded cross-attention maps enter an edit. Arguments as for `align`.

    "Replace" where words were only exchanged one for one and most tokens stayed: a new word is drawn where the old one
    was. "Refine" otherwise: new words draw where they want.
    """
    alignment = align(source_ids, edited_ids, special=special, words=words)
    source_words, edited_words = words or (None, None)
    source = _real_words(source_ids, special, source_words)
    edited = _real_words(edited_ids, special, edited_words)
    if _only_exchanged(source, edited, alignment) and len(alignment.kept) >= len(alignment.removed):
        return replacement(source, edited)
    return refinement(alignment, len(source_ids))


def changed_words(source_prompt: str, edited_prompt: str) -> tuple[list[str], list[str]]:
    """The words that an edit removes and adds, lower case, in order."""
    source, edited = _split(source_prompt), _split(edited_prompt)
    kept = _kept_pairs(source, edited)
    olds, news = {i for i, _ in kept}, {j for _, j in kept}
    removed = [word for i, word in enumerate(source) if i not in olds]
    added = [word for j, word in enumerate(edited) if j not in news]
    return removed, added


def unknown_words(prompt: str, known: Collection[str]) -> list[str]:
    """The words of `prompt` that are not in `known`, lower case, once each, in order of appearance."""
    vocabulary = {word.lower() for word in known}
    return [word for word in dict.fromkeys(_split(prompt)) if word not in vocabulary]


def _split(prompt: str) -> list[str]:
    """The words of a prompt in lower case, without punctuation."""
    return WORD.findall(prompt.lower())


def _real_words(ids: Sequence[int], special: Collection[int], words: Words | None) -> Words:
    """The word of each token, None where it is special; without `words` each token is a word of its own."""
    words = range(len(ids)) if words is None else words
    if len(words) != len(ids):
        raise ValueError(f"words must name a word for each of the {len(ids)} tokens, are {len(words)}")
    return [None if token in special else word for token, word in zip(ids, words, strict=True)]


def _groups(words: Words) -> list[list[int]]:
    """The tokens of each word, in order."""
    groups: dict[int, list[int]] = {}
    for token, word in enumerate(words):
        if word is not None:
            groups.setdefault(word, []).append(token)
    return list(groups.values())


def _spelled(groups: list[list[int]], ids: Sequence[int]) -> list[tuple[int, ...]]:
    """Each word as the ids of its tokens."""
    return [tuple(ids[token] for token in group) for group in groups]


def _only_exchanged(source: Words, edited: Words, alignment: Alignment) -> bool:
    """Whether both prompts have equally many words and every kept one is in its old place."""
    olds, news = _groups(source), _groups(edited)
    old_place = {token: place for place, group in enumerate(olds) for token in group}
    new_place = {token: place for place, group in enumerate(news) for token in group}
    return len(olds) == len(news) and all(old_place[old] == new_place[new] for old, new in alignment.kept)


def _kept_pairs(source: Sequence[Hashable], edited: Sequence[Hashable]) -> list[tuple[int, int]]:
    """The (source, edited) positions of a Needleman-Wunsch alignment that match, each matched as late as possible.

    With gaps free, a mismatch (-1) never pays against two gaps (0): the score is the longest common subsequence.
    """
    score = [[0] * (len(edited) + 1) for _ in range(len(source) + 1)]
    for i, old in enumerate(source, 1):
        for j, new in enumerate(edited, 1):
            score[i][j] = score[i - 1][j - 1] + 1 if old == new else max(score[i - 1][j], score[i][j - 1])
    pairs = []
    i, j = len(source), len(edited)
    while i and j:
        if source[i - 1] == edited[j - 1]:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif score[i - 1][j] >= score[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return pairs[::-1]
