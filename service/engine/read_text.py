"""Texts as the U-Net has read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ReadText:
    """What the network makes of the texts of a batch before it sees a sample: the same at every step, so made once."""

    keys_values: Mapping[str, tuple[Tensor, Tensor]]  # of each cross-attention, [B, T, C] each
    embedding: Tensor | None  # [B, 4 * channels[0]], joins that of the time; XL only

    @property
    def num_tokens(self) -> int:
        """T; 0 for a network without cross-attention."""
        return next((keys.shape[1] for keys, _ in self.keys_values.values()), 0)

    @classmethod
    def joined(cls, texts: Sequence[ReadText]) -> ReadText:
        """The images of all of them, in order."""
        if len(texts) == 1:
            return texts[0]
        embeddings = [text.embedding for text in texts if text.embedding is not None]
        keys_values = {path: _joined([text.keys_values[path] for text in texts]) for path in texts[0].keys_values}
        return cls(keys_values, torch.cat(embeddings) if embeddings else None)


def _joined(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    keys, values = zip(*pairs, strict=True)
    return torch.cat(keys), torch.cat(values)
