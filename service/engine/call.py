"""One U-Net call that a job needs, as plain data: whoever drives the jobs may merge the calls of several."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from service.engine.deep import Deep
from service.engine.feed import Reads
from service.engine.maps import KeepMaps
from service.engine.read_text import ReadText
from service.engine.recording import Format
from service.engine.writing import Target
from service.jobs import Stage
from sparse_ops.buckets import bucket_of, pack, shapes_of, unpack
from sparse_ops.context import Control
from sparse_ops.joined import join
from sparse_ops.plan import Plan, make_plans


@dataclass(frozen=True, eq=False)
class Active:
    """Which positions of each resolution are computed, bool [B, H, W] each; equal only to itself."""

    levels: tuple[Tensor, ...]
    attend_recorded: bool = True  # exact self-attention; False: masked rows see each other only, the paper's
    shallow: bool = False  # of the highest resolution alone, given what it receives from below


@dataclass(frozen=True, eq=False)
class Call:
    """One U-Net call that a job needs: a step of one picture, all its guidance branches."""

    sample: Tensor  # [B, C, H, W]
    timestep: Tensor  # [B], where the sample is
    text: ReadText
    active: Active
    source: Reads | None  # needed where some position is not active
    target: Target | None
    format: Format  # of recordings: how they are read and kept
    stage: Stage
    step: int
    num_steps: int  # of this loop
    control: Control | None = None  # of the last image, the conditional one
    keep_maps: KeepMaps | None = None  # of the same image
    deep: Deep | None = None  # needed where it is shallow; filled where it is not

    @property
    def num_images(self) -> int:
        """Guidance branches."""
        return len(self.sample)

    @property
    def num_rows(self) -> int:
        """Rows computed at the highest resolution."""
        return int(self.active.levels[0].sum())

    @property
    def num_bytes_read(self) -> int:
        """Of its recording, so far."""
        return self.source.num_bytes if self.source else 0

    @property
    def shape_key(self) -> tuple[object, ...]:
        """Calls with equal keys may share one network call."""
        return (*self.sample.shape[1:], self.text.num_tokens, self.format, self.active.shallow, self._kind)

    @property
    def _kind(self) -> str | None:
        """Dense or sparse, where passes are captured: one that is both is captured by nobody."""
        if not self.sample.is_cuda:
            return None
        return "sparse" if self.source else "dense"


@lru_cache(maxsize=64)
def plans_of(actives: tuple[Active, ...], device: torch.device) -> list[Plan]:
    """Made once for each company of jobs, all shallow or none: their masks do not change from step to step."""
    plans = _side_by_side(actives)[: _depth(actives)]
    return plans if device.type == "cpu" else unpack(plans, pack(plans).to(device))


@dataclass(frozen=True, eq=False)
class Bucketed:
    """Plans as long as their bucket says, for a captured pass."""

    plans: list[Plan]
    packed: Tensor  # all their integers, on the device; the plans are views of it
    shapes: tuple[Any, ...]  # what others must have in common with them


@lru_cache(maxsize=64)
def bucketed(actives: tuple[Active, ...], device: torch.device) -> Bucketed:
    """The same, once for each company of jobs."""
    own = _side_by_side(actives)
    plans = join([own], bucket_of(own))[: _depth(actives)]
    packed = pack(plans).to(device)
    return Bucketed(unpack(plans, packed), packed, shapes_of(plans))


@lru_cache(maxsize=4)
def _side_by_side(actives: tuple[Active, ...]) -> list[Plan]:
    """On the host, without padding, and of all resolutions: for both of the above."""
    parts = [_alone(active) for active in actives]
    return join(parts) if len(parts) > 1 else parts[0]


@lru_cache(maxsize=64)
def _alone(active: Active) -> list[Plan]:
    """Made once for each job, whoever it runs with: half a megabyte at 96 x 96."""
    return make_plans(active.levels, active.attend_recorded)


def _depth(actives: tuple[Active, ...]) -> int:
    """Resolutions that they compute."""
    return 1 if actives[0].shallow else len(actives[0].levels)


@lru_cache(maxsize=64)
def everything(sizes: tuple[tuple[int, int], ...], num_images: int) -> Active:
    """All positions of all resolutions (h, w): dense. One object, so that the plans are made once for all jobs."""
    return Active(tuple(torch.ones(num_images, *size, dtype=torch.bool) for size in sizes))
