"""What a pass does, as an argument: what it computes, what it reads, and what it keeps.

    Context(dense_plans(...))                      computes everything
    Context(dense_plans(...), writer=writer)       and keeps it: a recording
    Context(make_plans(...), reader)               computes some rows, reads what they need of the others
    Context(make_plans(...), reader, writer)       and keeps the fresh rows: an edit is again a recording
    Context(make_plans(...)[:1], reader, deep=x)   computes the highest resolution alone, given what it has from below

There is no mode: an image whose rows are all positions computes its own group norms and reads nothing, in
whatever company it is, so dense generations and sparse edits share a batch.

An activation is kept once, as it leaves its block, before norm and SiLU: a skip connection is then the same tensor
as the input of the next block.

Approximate where it reads: positions outside of the edit mask keep their recorded values, and group norms their
recorded statistics (paper: "Approximate Normalization", "Approximate Attention"). Approximate where it is given what
comes from below: that is of an earlier step (DeepCache, CVPR 2024). All else is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from sparse_ops import ops
from sparse_ops.plan import Plan
from sparse_ops.positions import Positions
from sparse_ops.segments import even

Projection = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Activation:
    """Rows, and what a recording calls them."""

    values: Tensor  # [N, C]
    key: str
    level: int  # 0 = the highest resolution


class Reader(Protocol):
    """Gives the tensors of one step, each image from its own recording. The same rows may be asked for twice."""

    def rows(self, key: str, positions: Positions) -> Tensor:
        """Recorded rows [M, C] on the device of the positions; any float type. Of padding anything."""

    def keys(self, key: str, plan: Plan) -> Tensor:
        """Recorded inputs of self-attention [L, C], or its keys beside its values [L, 2 C], as `plan.keys` counts them.

        The attended rows are in their places; fresh ones have room, into which they will be written.
        """

    def statistics(self, key: str) -> Tensor:
        """Recorded mean and variance of the groups of one norm, float32 [B, 2, G]; of complete images anything."""


class Writer(Protocol):
    """Takes the tensors of one step, each once. What it keeps, it copies: the network reuses memory."""

    def rows(self, key: str, level: int, values: Tensor, positions: Positions) -> None:
        """Keeps fresh rows [N, C]."""

    def statistics(self, key: str, values: Tensor) -> None:
        """Keeps mean and variance, float32 [B, 2, G]; those of an incomplete image are what was read."""


class Control(Protocol):
    """Brings recorded cross-attention into that of one image (Prompt-to-Prompt)."""

    def __call__(self, key: str, level: int, positions: Tensor, num_heads: int) -> tuple[Tensor, Tensor] | None:
        """Maps [N, heads, T] of the image's N rows, at int32 [N] counted from its first position; and how much of each
        token's map they are, [T]. None where there are none.
        """


class Watch(Protocol):
    """Sees cross-attention."""

    @property
    def levels(self) -> Collection[int]:
        """Of these resolutions."""

    def __call__(self, key: str, level: int, maps: Tensor) -> None:
        """Probabilities [N, heads, T] of all rows."""


@dataclass(frozen=True, eq=False)
class Context:
    """The network asks it some things; it answers from plans, a reader, a writer and controls."""

    plans: Sequence[Plan]  # one for each resolution, highest first
    reader: Reader | None = None  # not needed where every image is complete
    writer: Writer | None = None
    controls: Sequence[Control | None] = ()  # one for each image; empty = none
    watch: Watch | None = None
    keep_inputs: bool = True  # of self-attention are kept its inputs [N, C], or else its keys and values [N, 2 C]
    deep: Activation | None = None  # what the last resolution of the plans has from below; None: they are all there are
    keep_deep: Callable[[Activation], None] | None = None  # is shown what the highest resolution has from below

    def __post_init__(self) -> None:
        """Checks what the network trusts."""
        batch = self.plans[0].batch
        if self.controls and len(self.controls) != batch:
            raise ValueError(f"controls must be empty or one for each of {batch} images, got {len(self.controls)}")
        if self.reader is None and any(len(plan.rest) for plan in self.plans):
            raise ValueError("reader must be given where some image is not computed completely, got None")

    def keep(self, activation: Activation) -> None:
        """A tensor of which a sparse pass may read rows."""
        if self.writer is not None:
            rows = self.plans[activation.level].rows
            self.writer.rows(activation.key, activation.level, activation.values, rows)

    def recorded(self, inputs: Sequence[Activation], positions: Positions) -> list[Tensor]:
        """Recorded rows [M, C] of each activation; nothing where there are no positions."""
        if not len(positions) or self.reader is None:
            return []
        return [self.reader.rows(x.key, positions).to(x.values) for x in inputs]

    def norm(self, key: str, norm: nn.GroupNorm, rows: Tensor, level: int) -> ops.Norm:
        """A group norm with its statistics: fresh for complete images, recorded for the others."""
        statistics = self._statistics(key, norm.num_groups, rows, self.plans[level])
        if self.writer is not None:
            self.writer.statistics(key, statistics)
        return ops.Norm(statistics, norm.weight, norm.bias, norm.eps)

    def _statistics(self, key: str, num_groups: int, rows: Tensor, plan: Plan) -> Tensor:
        if plan.dense or self.reader is None:
            return ops.group_norm_statistics(rows.view(plan.batch, plan.height * plan.width, -1), num_groups)
        recorded = self.reader.statistics(key)
        complete = [image for image in range(plan.batch) if plan.complete[image]]
        if not complete:
            return recorded
        statistics, images = recorded.clone(), plan.rows.images()
        for image in complete:
            statistics[image] = ops.group_norm_statistics(rows[None, images[image]], num_groups)[0]
        return statistics

    def keys_values(self, inputs: Activation, project: Projection) -> tuple[Tensor, Tensor]:
        """Keys and values [L, C] of self-attention as `plan.keys` counts them: each image's fresh ones, its recorded.

        `inputs` [N, C] are what `project` makes them of. Recorded rows of that width are inputs too and are projected,
        in the same GEMM; those of twice the width are keys beside values.
        """
        plan = self.plans[inputs.level]
        if self.keep_inputs:
            self.keep(inputs)
        if not len(plan.attended) or self.reader is None:
            keys, values = project(inputs.values)
            self._keep_keys_values(inputs, keys, values)
            return keys, values
        joined = self.reader.keys(inputs.key, plan).to(inputs.values)
        if joined.shape[1] == inputs.values.shape[1]:
            joined[plan.keys.fresh] = inputs.values
            keys, values = project(joined)
            if not self.keep_inputs:
                self._keep_keys_values(inputs, *(x.index_select(0, plan.keys.fresh) for x in (keys, values)))
            return keys, values
        keys, values = project(inputs.values)
        self._keep_keys_values(inputs, keys, values)
        for part, fresh in zip(joined.chunk(2, 1), (keys, values), strict=True):
            part[plan.keys.fresh] = fresh
        return joined.chunk(2, 1)  # type: ignore[return-value]  # two

    def _keep_keys_values(self, inputs: Activation, keys: Tensor, values: Tensor) -> None:
        if self.writer is not None and not self.keep_inputs:
            self.keep(replace(inputs, values=torch.cat([keys, values], 1)))

    def cross_attention(
        self,
        queries: Activation,  # [N, C]
        keys: Tensor,  # [B, T, C]
        values: Tensor,  # [B, T, C]
        num_heads: int,
    ) -> Tensor:  # [N, C]
        """Each image's rows over its own text; what a control brings takes the place of the maps of its image."""
        key, level, rows = queries.key, queries.level, self.plans[queries.level].rows
        moved, alpha = self._brought(queries, keys.shape[1], num_heads)
        watched = self.watch is not None and level in self.watch.levels
        if moved is None and not watched:
            of_text = even(*keys.shape[:2], keys.device)
            return ops.attention(
                queries.values, rows, keys.flatten(0, 1), values.flatten(0, 1), of_text, num_heads=num_heads
            )  # fmt: skip
        mixed, maps = ops.cross_attention(
            queries.values, rows, keys, values, num_heads=num_heads, moved=moved, alpha=alpha, keep_maps=watched
        )  # fmt: skip
        if self.watch is not None and maps is not None:
            self.watch(key, level, maps)
        return mixed

    def _brought(
        self, queries: Activation, num_tokens: int, num_heads: int
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """What controls bring: maps [N, heads, T], and the share of each token float32 [B, T]."""
        rows, brought = self.plans[queries.level].rows, []
        for image, control in enumerate(self.controls):
            if control is not None and rows.counts()[image]:
                answer = control(queries.key, queries.level, rows.local(image), num_heads)
                brought += [] if answer is None else [(image, *answer)]
        if not brought:
            return None, None
        moved = queries.values.new_zeros(len(queries.values), num_heads, num_tokens)
        alpha = torch.zeros(rows.num_images, num_tokens, device=moved.device)
        for image, maps, share in brought:
            moved[rows.images()[image]] = maps.to(moved)
            alpha[image] = share.to(alpha)
        return moved, alpha

    def output(self, noise: Activation) -> Tensor:
        """The prediction at all positions [B * H * W, C], recorded where it was not computed."""
        plan = self.plans[noise.level]
        self.keep(noise)
        if not len(plan.rest):
            return noise.values
        return torch.cat([noise.values, *self.recorded([noise], plan.rest)]).index_select(0, plan.scatter)
