"""What a pass does, as an argument: what it computes, what it reads, and what it keeps.

    Context(dense_plans(...))                      computes everything
    Context(dense_plans(...), writer=writer)       and keeps it: a recording
    Context(make_plans(...), reader)               computes some rows, reads what they need of the others
    Context(make_plans(...), reader, writer)       and keeps the fresh rows: an edit is again a recording

There is no mode: an image whose rows are all positions computes its own group norms and reads nothing, in
whatever company it is, so dense generations and sparse edits share a batch.

An activation is kept once, as it leaves its block, before norm and SiLU: a skip connection is then the same tensor
as the input of the next block.

Approximate where it reads: positions outside of the edit mask keep their recorded values, and group norms their
recorded statistics (paper: "Approximate Normalization", "Approximate Attention"). All else is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from sparse_ops import ops
from sparse_ops.plan import Plan, Positions

Projection = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Activation:
    """Rows, and what a recording calls them."""

    values: Tensor  # [N, C]
    key: str
    level: int  # 0 = the highest resolution


class Reader(Protocol):
    """Gives the tensors of one step, each image from its own recording. The same may be asked for twice."""

    def rows(self, key: str, positions: Positions) -> Tensor:
        """Recorded rows [M, C] on the device of the positions; any float type."""

    def statistics(self, key: str, image: int) -> Tensor:
        """Recorded mean and variance of the groups of one norm, float32 [2, G]."""


class Writer(Protocol):
    """Takes the tensors of one step, each once. What it keeps, it copies: the network reuses memory."""

    def rows(self, key: str, level: int, values: Tensor, positions: Positions) -> None:
        """Keeps fresh rows [N, C]."""

    def statistics(self, key: str, values: Tensor) -> None:
        """Keeps mean and variance, float32 [B, 2, G]; those of an incomplete image are what was read."""


class Control(Protocol):
    """Sees, and may change, the cross-attention of one image (Prompt-to-Prompt)."""

    def __call__(self, key: str, level: int, maps: Tensor, positions: Tensor) -> Tensor:
        """Probabilities [heads, N, T] of the image's N rows, at int32 [N] counted from its first position."""


@dataclass(frozen=True, eq=False)
class Context:
    """The network asks it six things; it answers from plans, a reader, a writer and controls."""

    plans: Sequence[Plan]  # one for each resolution, highest first
    reader: Reader | None = None  # not needed where every image is complete
    writer: Writer | None = None
    controls: Sequence[Control | None] = ()  # one for each image; empty = none
    keep_inputs: bool = True  # of self-attention are kept its inputs [N, C], or else its keys and values [N, 2 C]

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

    def recorded(self, inputs: Sequence[Activation], positions: Positions) -> Tensor:
        """Recorded rows [M, sum of C] of activations side by side."""
        if not len(positions) or self.reader is None:
            return inputs[0].values.new_empty(0, sum(x.values.shape[1] for x in inputs))
        return ops.side_by_side([self.reader.rows(x.key, positions).to(x.values) for x in inputs])

    def affine(self, key: str, norm: nn.GroupNorm, rows: Tensor, level: int) -> Tensor:
        """A group norm as scale and shift, float32 [B, 2, C]: fresh for complete images, recorded for the others."""
        statistics = self._statistics(key, norm.num_groups, rows, self.plans[level])
        if self.writer is not None:
            self.writer.statistics(key, statistics)
        return ops.group_norm_affine(statistics, norm.weight, norm.bias, norm.eps)

    def _statistics(self, key: str, num_groups: int, rows: Tensor, plan: Plan) -> Tensor:
        if plan.dense or self.reader is None:
            return ops.group_norm_statistics(rows.view(plan.batch, plan.height * plan.width, -1), num_groups)
        return torch.stack([
            ops.group_norm_statistics(rows[None, part], num_groups)[0]
            if plan.complete(image)
            else self.reader.statistics(key, image)
            for image, part in enumerate(plan.rows.images())
        ])  # fmt: skip

    def keys_values(self, inputs: Activation, project: Projection) -> tuple[Tensor, Tensor]:
        """Keys and values [L, C] of self-attention, by `plan.key_offsets`: each image's fresh ones, then its recorded.

        `inputs` [N, C] are what `project` makes them of. Recorded rows of that width are inputs too and are projected,
        in the same GEMM; those of twice the width are keys beside values.
        """
        plan = self.plans[inputs.level]
        read = self.recorded([inputs], plan.attended)
        reads_inputs = read.shape[1] == inputs.values.shape[1]
        if self.keep_inputs:
            self.keep(inputs)
            if reads_inputs:
                return project(_image_by_image(inputs.values, read, plan))
        keys, values = project(inputs.values)
        if not len(read) and self.writer is None:
            return keys, values
        fresh = torch.cat([keys, values], 1)  # side by side, as they are recorded: they join what is read in one copy
        if not self.keep_inputs:
            self.keep(replace(inputs, values=fresh))
        if len(read) and reads_inputs:
            read = torch.cat(project(read), 1)
        keys, values = _image_by_image(fresh, read, plan).chunk(2, 1)
        return keys, values

    def cross_attention(
        self,
        queries: Activation,  # [N, C]
        keys: Tensor,  # [B, T, C]
        values: Tensor,  # [B, T, C]
        num_heads: int,
    ) -> Tensor:  # [N, C]
        """Each image's rows over its own text; an image with a control mixes the values by the maps it answers."""
        rows, (batch, num_tokens, _) = self.plans[queries.level].rows, keys.shape
        ends = range(0, batch * num_tokens + 1, num_tokens)
        mixed = ops.attention(
            queries.values, rows.offsets, keys.flatten(0, 1), values.flatten(0, 1), ends, num_heads=num_heads
        )
        for image, control in enumerate(self.controls):
            part = rows.images()[image]
            if control is not None and part.start < part.stop:
                maps = ops.attention_maps(queries.values[part], keys[image], num_heads)
                maps = control(queries.key, queries.level, maps, rows.local(image))
                mixed[part] = ops.mix_values(maps, values[image])
        return mixed

    def output(self, noise: Activation) -> Tensor:
        """The prediction at all positions [B * H * W, C], recorded where it was not computed."""
        plan = self.plans[noise.level]
        self.keep(noise)
        if not len(plan.rest):
            return noise.values
        return torch.cat([noise.values, self.recorded([noise], plan.rest)]).index_select(0, plan.scatter)


def _image_by_image(fresh: Tensor, read: Tensor, plan: Plan) -> Tensor:
    """Fresh rows and the attended ones of each image in turn, as `plan.key_offsets` counts them."""
    if not len(read):
        return fresh
    joined = fresh.new_empty(len(fresh) + len(read), fresh.shape[1])
    begins = plan.key_offsets
    for image, (rows, others) in enumerate(zip(plan.rows.images(), plan.attended.images(), strict=True)):
        middle = begins[image] + rows.stop - rows.start
        joined[begins[image] : middle] = fresh[rows]  # torch.cat is up to 7 times slower where parts are uneven
        joined[middle : begins[image + 1]] = read[others]
    return joined
