"""Cross-attention maps while a picture is drawn: recorded, mixed into an edit's, and what they say about words.

`KeepMaps` watches one image, `MixMaps` controls one (`sparse_ops.context`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from service.engine.prompts import Mix
from service.engine.reading import Source
from service.engine.writing import Target


class Words:
    """Where each token of a prompt looked: cross-attention averaged over heads, layers and steps, at one resolution."""

    def __init__(self, level: int, size: tuple[int, int], num_tokens: int, base: Tensor | None = None) -> None:
        self.level = level
        self.size = size
        self._base = torch.zeros(num_tokens, *size) if base is None else base  # where nothing is computed
        self._sums = torch.zeros(size[0] * size[1], num_tokens + 1)  # the last column counts; moves to where maps are

    def add(self, maps: Tensor, positions: Tensor) -> None:  # [N, heads, T]
        """Takes the maps of one layer at some positions."""
        self._sums = self._sums.to(maps.device)
        self._sums[positions] += F.pad(maps.float().mean(1), (0, 1), value=1)

    def mean(self) -> Tensor:  # [T, h, w]
        """The average; the base where no map was ever seen."""
        sums = self._sums.cpu().T.reshape(-1, *self.size)
        return torch.where(sums[-1] > 0, sums[:-1] / sums[-1].clamp(min=1), self._base)


@dataclass(frozen=True, eq=False)
class Moved:
    """The maps of a parent's step, its tokens moved to those of a child's prompt."""

    source: Source
    mapper: Tensor  # int64 [T'], child's token -> parent's
    alpha: Tensor  # [T'], 0 where the parent has no such token

    def maps(self, key: str, level: int, num_rows: int, num_heads: int) -> Tensor | None:
        """[N, heads, T'] of all positions; None where the parent kept none."""
        maps = recorded_maps(self.source, key, level, torch.arange(num_rows), num_heads)
        return None if maps is None else maps[..., self.mapper] * self.alpha.to(maps)


class KeepMaps:
    """Records the maps of one image that it is shown.

    A sparse pass shows computed rows only; the others are the parent's, moved.
    """

    def __init__(self, target: Target, words: Words, moved: Moved | None = None) -> None:
        self.target = target
        self._words = words
        self._moved = moved
        kept = target.draft.activations.layout if target.draft.activations else {}
        planes = {int(name.removeprefix("maps.")): plane for name, plane in kept.items() if name.startswith("maps.")}
        self._planes = {level: plane for level, plane in planes.items() if target.step < plane.num_steps}
        self.levels = {*self._planes, words.level}

    def __call__(self, key: str, level: int, maps: Tensor, positions: Tensor) -> None:
        """Records maps [N, heads, T] of the positions [N]."""
        if level == self._words.level:
            self._words.add(maps, positions)
        plane = self._planes.get(level)
        if plane is not None and key in plane.columns:
            everywhere = self._moved.maps(key, level, plane.num_rows, maps.shape[1]) if self._moved else None
            fresh = maps if everywhere is None else everywhere.to(maps).index_copy(0, positions.long(), maps)
            self.target.keep(f"maps.{level}", key, fresh.flatten(1))


class MixMaps:
    """A control that brings recorded maps into an edit's (Prompt-to-Prompt)."""

    def __init__(self, source: Source, mix: Mix) -> None:
        self._source = source
        self._mix = mix

    def __call__(self, key: str, level: int, positions: Tensor, num_heads: int) -> tuple[Tensor, Tensor] | None:
        """Maps [N, heads, T'] of the positions [N], and each token's share; None where none were recorded."""
        recorded = recorded_maps(self._source, key, level, positions.long().cpu(), num_heads)
        return None if recorded is None else (self._mix.moved(recorded.float()), self._mix.alpha)


def recorded_maps(source: Source, key: str, level: int, positions: Tensor, num_heads: int) -> Tensor | None:
    """Cross-attention maps [N, heads, T] of one layer; None where they were not kept."""
    activations = source.recording.activations
    plane = activations.layout.get(f"maps.{level}") if activations else None
    if plane is None or source.step >= plane.num_steps:
        return None
    rows = source.rows(f"maps.{level}", positions, key)
    return rows.view(len(rows), num_heads, -1)
