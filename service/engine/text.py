"""Prompts as the U-Net reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.engine.prompts import Alignment, Mix, align, mixing
from service.engine.read_text import ReadText
from service.engine.sampling import num_branches
from service.engine.weights import Model
from service.jobs import Sampling


@dataclass(frozen=True, eq=False)
class Text:
    """Embedded prompts of a few images; with guidance the unconditional branch comes first."""

    embeds: Tensor  # [B, T, D]
    pooled: Tensor | None = None  # XL: [B, P]
    time_ids: Tensor | None = None  # XL: [B, 6], size, crop and target size

    @property
    def added(self) -> tuple[Tensor, Tensor] | None:
        """What XL adds to the time embedding."""
        return None if self.pooled is None or self.time_ids is None else (self.pooled, self.time_ids)


@dataclass(frozen=True)
class Tokens:
    """A prompt as the first tokenizer cuts it; begin, end and padding included, so all prompts are equally long."""

    ids: tuple[int, ...]  # [T]
    words: tuple[int | None, ...]  # the word that each belongs to; None for begin, end and padding

    @classmethod
    def of(cls, model: Model, prompt: str) -> Tokens:
        """Cuts a prompt; what is too long is cut off."""
        cut = _tokenize(model.tokenizers[0], prompt)
        return cls(tuple(cut.input_ids[0].tolist()), tuple(cut.word_ids(0)))


def is_cut(model: Model, prompt: str) -> bool:
    """Whether the model reads only the beginning of a prompt."""
    tokenizer = model.tokenizers[0]
    return bool(len(tokenizer.tokenize(prompt)) > tokenizer.model_max_length - 2)  # begin and end take two


def align_prompts(model: Model, source: str, edited: str) -> tuple[Alignment, Mix]:
    """Which tokens stay, and how the source's cross-attention maps are carried over to the edited prompt."""
    old, new = Tokens.of(model, source), Tokens.of(model, edited)
    special, words = set(model.tokenizers[0].all_special_ids), (old.words, new.words)
    return align(old.ids, new.ids, special=special, words=words), mixing(old.ids, new.ids, special=special, words=words)


@torch.no_grad()
def encode(model: Model, prompts: Sequence[str], width: int, height: int) -> Text:
    """Embeds prompts. SD: the last hidden state; XL: the last but one of two encoders, and the second's pooled text."""
    outputs = [
        encoder(_tokenize(tokenizer, list(prompts)).input_ids.to(model.device), output_hidden_states=True)
        for tokenizer, encoder in zip(model.tokenizers, model.text_encoders, strict=True)
    ]
    if len(outputs) == 1:
        return Text(outputs[0].last_hidden_state)
    embeds = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    pooled = outputs[-1].text_embeds
    if model.index.get("force_zeros_for_empty_prompt", True):
        empty = torch.tensor([not prompt for prompt in prompts], device=model.device)
        embeds = embeds.masked_fill(empty[:, None, None], 0)
        pooled = pooled.masked_fill(empty[:, None], 0)
    ids = torch.tensor([height, width, 0, 0, height, width], device=model.device, dtype=embeds.dtype)
    return Text(embeds, pooled, ids.expand(len(prompts), -1))


def read_branches(model: Model, prompt: str, sampling: Sampling) -> ReadText:
    """The prompt as the U-Net reads it, and before it the negative one where there is guidance."""
    prompts = (sampling.negative_prompt, prompt)[-num_branches(sampling) :]
    text = encode(model, prompts, sampling.width, sampling.height)
    return model.unet.read(text.embeds, text.added)


def embedding(model: Model, prompt: str) -> NDArray[np.float32]:  # [D]
    """What a prompt means, as the model has it: XL's pooled text, else the hidden state of the end token."""
    text = encode(model, (prompt,), 0, 0)
    end = Tokens.of(model, prompt).ids.index(model.tokenizers[0].eos_token_id)
    vector = text.embeds[0, end] if text.pooled is None else text.pooled[0]
    return vector.float().cpu().numpy()


def _tokenize(tokenizer: Any, prompts: str | list[str]) -> Any:
    return tokenizer(
        prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
