"""Cross-attention maps while a picture is drawn: recorded, mixed into an edit's, and what they say about words.

Each is a control (`sparse_ops.context.Control`): the network shows it the maps of one image and uses its answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from service.engine.prompts import Mix
from service.engine.recording import Source, Target


class Words:
    """Where each token of a prompt looked: cross-attention averaged over heads, layers and steps, at one resolution."""

    def __init__(self, level: int, size: tuple[int, int], num_tokens: int, base: Tensor | None = None) -> None:
        self.level = level
        self.size = size
        self._base = torch.zeros(num_tokens, *size) if base is None else base  # where nothing is computed
        self._sum = torch.zeros(size[0] * size[1], num_tokens)
        self._count = torch.zeros(size[0] * size[1], 1)

    def add(self, maps: Tensor, positions: Tensor) -> None:  # [heads, N, T]
        """Takes the maps of one layer at some positions."""
        self._sum[positions] += maps.mean(0).float().cpu()
        self._count[positions] += 1

    def mean(self) -> Tensor:  # [T, h, w]
        """The average; the base where no map was ever seen."""
        seen = (self._count[:, 0] > 0).view(self.size)
        return torch.where(seen, (self._sum / self._count.clamp(min=1)).T.reshape(-1, *self.size), self._base)


@dataclass(frozen=True, eq=False)
class Moved:
    """The maps of a parent's step, its tokens moved to those of a child's prompt."""

    source: Source
    mapper: Tensor  # int64 [T'], child's token -> parent's
    alpha: Tensor  # [T'], 0 where the parent has no such token

    def maps(self, key: str, level: int, num_rows: int, num_heads: int) -> Tensor | None:
        """[heads, N, T'] of all positions; None where the parent kept none."""
        maps = recorded_maps(self.source, key, level, torch.arange(num_rows), num_heads)
        return None if maps is None else maps[..., self.mapper] * self.alpha.to(maps)


class KeepMaps:
    """A control that records the maps it is shown and returns them unchanged.

    A sparse pass shows computed rows only; the others are the parent's, moved.
    """

    def __init__(self, target: Target, words: Words, moved: Moved | None = None) -> None:
        self._target = target
        self._words = words
        self._moved = moved

    def __call__(self, key: str, level: int, maps: Tensor, positions: Tensor) -> Tensor:
        """Records maps [heads, N, T] of the positions [N]."""
        local = positions.long().cpu()
        if level == self._words.level:
            self._words.add(maps, local)
        draft, step = self._target.draft, self._target.step
        plane = draft.activations.layout.get(f"maps.{level}") if draft.activations else None
        if plane and key in plane.columns and step < plane.num_steps:
            everywhere = self._moved.maps(key, level, plane.num_rows, len(maps)) if self._moved else None
            fresh = maps if everywhere is None else everywhere.to(maps).index_copy(1, local.to(maps.device), maps)
            draft.write(step, f"maps.{level}", key, fresh.transpose(0, 1).flatten(1))
        return maps


class MixMaps:
    """A control that mixes recorded maps into those it is shown (Prompt-to-Prompt)."""

    def __init__(self, source: Source, mix: Mix) -> None:
        self._source = source
        self._mix = mix

    def __call__(self, key: str, level: int, maps: Tensor, positions: Tensor) -> Tensor:
        """Maps [heads, N, T'] of the positions [N], mixed; unchanged where none were recorded."""
        recorded = recorded_maps(self._source, key, level, positions.long().cpu(), len(maps))
        return maps if recorded is None else self._mix(recorded.to(maps), maps)


def recorded_maps(source: Source, key: str, level: int, positions: Tensor, num_heads: int) -> Tensor | None:
    """Cross-attention maps [heads, N, T] of one layer; None where they were not kept."""
    activations = source.recording.activations
    plane = activations.layout.get(f"maps.{level}") if activations else None
    if plane is None or source.step >= plane.num_steps:
        return None
    rows = source.rows(f"maps.{level}", positions, key)
    return rows.view(len(rows), num_heads, -1).transpose(0, 1)
