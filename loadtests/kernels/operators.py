"""All cases of a scene, built one at a time: their tensors live as long as somebody holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from loadtests.kernels import recorded
from loadtests.kernels.case import Case, Output
from loadtests.kernels.scene import NUM_LEVELS, Scene
from sparse_ops import cuda, ops, reference
from sparse_ops.launch import why_not
from sparse_ops.reference import Norm
from sparse_ops.segments import Segments, even

# In units of the highest resolution's channels: those of each resolution, and what its convolutions read side by side.
CHANNELS = (1, 2, 4, 4)
INPUTS: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((1,), (1, 1), (2, 1)),
    ((1,), (2,), (2, 1), (2, 2), (4, 2)),
    ((2,), (4,), (4, 2), (4, 4)),
    ((4,), (4, 4)),
)


def of_mask(scene: Scene) -> Iterator[Case]:
    """What depends on a mask; where it leaves nothing at a resolution, that has no tables and torch's convolutions."""
    for level, plan in enumerate(scene.plans):
        if plan.same is not None:
            yield from (convolution(scene, level, plan.same, inputs) for inputs in INPUTS[level])
        if plan.down is not None:
            yield resampling(scene, level, "down", plan.down.neighbors)
        if plan.up is not None:
            yield resampling(scene, level, "up", plan.up)
    for level in range(NUM_LEVELS):
        yield self_attention(scene, level)
        yield text_attention(scene, level)
        yield normalisation(scene, level)
    yield text_maps(scene, 1)
    yield from recorded.of_mask(scene)


def of_whole_maps(scene: Scene) -> Iterator[Case]:
    """What a recorded or dense call measures: the mask does not matter."""
    for level in range(NUM_LEVELS):
        widths = {CHANNELS[level], *(sum(inputs) for inputs in INPUTS[level])}
        yield from (statistics(scene, level, width) for width in sorted(widths))


def convolution(scene: Scene, level: int, neighbors: Tensor, inputs: Sequence[int]) -> Case:
    """A residual block's: norm, SiLU, convolution of rows and halo, time embedding, residual."""
    plan, unit = scene.plans[level], scene.widths.channels
    parts = [unit * width for width in inputs]
    channels, out_channels = sum(parts), unit * CHANNELS[level]
    rows, embedding = scene.random(len(plan.rows), channels), scene.random(2, out_channels)
    halo = [scene.random(len(plan.halo), width) for width in parts]
    residual = scene.random(len(plan.rows), out_channels)
    given = _Convolution(scene, scene.weight(out_channels, channels), scene.random(out_channels), plan.size)

    def run(conv: Callable[..., Tensor], dtype: torch.dtype, norm: Norm) -> Tensor:
        return conv(
            rows.to(dtype), [part.to(dtype) for part in halo], neighbors, *given.in_type(dtype), norm=norm,
            images=(plan.rows, plan.halo), embedding=embedding.to(dtype), residual=residual.to(dtype),
        )  # fmt: skip

    norm = scene.norm(channels)
    return Case(
        "conv3x3",
        f"{scene.name}, {scene.where(level)}, {len(rows)} rows, {'+'.join(map(str, parts))} -> {out_channels}",
        lambda: run(ops.conv3x3, scene.dtype, norm),
        lambda: run(reference.conv3x3, torch.float32, _single(norm)),
        given.over_the_map(),
        num_bytes=_bytes(rows, *halo, neighbors, given.weight, residual) + _bytes(residual),
        multiply_adds=9 * channels * out_channels * len(rows),
    )


def resampling(scene: Scene, level: int, way: Literal["down", "up"], neighbors: Tensor) -> Case:
    """To the next lower or higher resolution: no norm."""
    plan = scene.plans[level]
    channels = scene.widths.channels * CHANNELS[level]
    rows, halo = scene.random(len(plan.rows), channels), scene.random(len(plan.halo), channels)
    given = _Convolution(scene, scene.weight(channels, channels), scene.random(channels), plan.size)
    count = len(neighbors)
    return Case(
        f"conv3x3 {way}",
        f"{scene.name}, {scene.where(level)}, {count} rows, {channels} -> {channels}",
        lambda: ops.conv3x3(rows, [halo], neighbors, *given.in_type(scene.dtype)),
        lambda: reference.conv3x3(rows.float(), [halo.float()], neighbors, *given.in_type(torch.float32)),
        given.over_the_map(stride=2) if way == "down" else given.over_the_map(scale=2),
        num_bytes=_bytes(rows, halo, neighbors, given.weight) + count * channels * rows.element_size(),
        multiply_adds=9 * channels**2 * count,
    )


def self_attention(scene: Scene, level: int) -> Case:
    """Rows to fresh and recorded keys and values of their image."""
    plan, channels = scene.plans[level], scene.widths.channels * CHANNELS[level]
    keys, values = (scene.random(2 * plan.height * plan.width, channels) for _ in range(2))
    of_keys = even(2, plan.height * plan.width, scene.device)
    return _attention(scene, "attention", level, keys, values, of_keys)


def text_attention(scene: Scene, level: int) -> Case:
    """Rows to the text of their image."""
    channels, num_tokens = scene.widths.channels * CHANNELS[level], scene.widths.num_tokens
    keys, values = (scene.random(2 * num_tokens, channels) for _ in range(2))
    return _attention(scene, "attention to text", level, keys, values, even(2, num_tokens, scene.device))


def text_maps(scene: Scene, level: int) -> Case:
    """The same where maps are kept, as the steps do that find a mask."""
    plan, channels = scene.plans[level], scene.widths.channels * CHANNELS[level]
    num_heads, num_tokens = channels // scene.widths.head, scene.widths.num_tokens
    queries = scene.random(len(plan.rows), channels)
    keys, values = (scene.random(2, num_tokens, channels) for _ in range(2))

    def by_torch(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        of_images = plan.rows.images()
        maps = [reference.attention_maps(query[rows], key[i], num_heads) for i, rows in enumerate(of_images)]
        mixed = [reference.mix_values(maps[i], value[i]) for i in range(len(maps))]
        return torch.cat(mixed), torch.cat(maps, 1).transpose(0, 1)

    def ours() -> Output:
        if why_not(scene.device) is not None:
            return by_torch(queries, keys, values)
        mixed, maps = cuda.cross_attention(queries, plan.rows, keys, values, num_heads=num_heads, keep_maps=True)
        return (mixed, maps) if maps is not None else mixed

    return Case(
        "cross_attention",
        f"{scene.name}, {scene.where(level)}, {len(queries)} rows, {num_tokens} tokens, {num_heads} heads, maps kept",
        ours,
        lambda: by_torch(queries.float(), keys.float(), values.float()),
        lambda: by_torch(queries, keys, values),
        num_bytes=2 * _bytes(queries)
        + _bytes(keys, values)
        + queries.element_size() * len(queries) * num_heads * num_tokens,
        multiply_adds=2 * len(queries) * num_tokens * channels,
    )


def normalisation(scene: Scene, level: int) -> Case:
    """Group norm of rows before a transformer."""
    plan, channels = scene.plans[level], scene.widths.channels * CHANNELS[level]
    rows, norm = scene.random(len(plan.rows), channels), scene.norm(channels)
    image = _map(scene, channels, plan.size)
    return Case(
        "normalise",
        f"{scene.name}, {scene.where(level)}, {len(rows)} rows, {channels} channels",
        lambda: ops.normalise(rows, norm, plan.rows),
        lambda: reference.normalise(rows.float(), _single(norm), plan.rows),
        lambda: F.group_norm(image, scene.widths.num_groups, norm.weight, norm.bias),
        num_bytes=2 * _bytes(rows),
    )


def statistics(scene: Scene, level: int, width: int) -> Case:
    """Mean and variance of whole maps."""
    plan, channels, groups = scene.plans[level], scene.widths.channels * width, scene.widths.num_groups
    rows = scene.random(2, plan.height * plan.width, channels, mean=3.0)
    return Case(
        "group_norm_statistics",
        f"{scene.where(level)}, 2 images, {channels} channels",
        lambda: ops.group_norm_statistics(rows, groups),
        lambda: reference.group_norm_statistics(rows.double(), groups),
        lambda: torch.var_mean(rows.view(2, rows.shape[1], groups, -1), dim=(1, 3)),
        num_bytes=_bytes(rows),
    )


class _Convolution:
    """Weights of one, in the types that are asked for."""

    def __init__(self, scene: Scene, weight: Tensor, bias: Tensor, size: tuple[int, int, int]) -> None:
        self.weight = weight
        self.bias = bias
        self._scene = scene
        self._size = size

    def in_type(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weight and bias; of their own type no copy."""
        return self.weight.to(dtype), self.bias.to(dtype)

    def over_the_map(self, *, stride: int = 1, scale: int = 1) -> Callable[[], object]:
        """Torch's convolution of a whole map, channels last."""
        batch, height, width = self._size
        image = _map(self._scene, self.weight.shape[1], (batch, height * scale, width * scale))
        return lambda: F.conv2d(image, self.weight, self.bias, stride, padding=1)


def _attention(scene: Scene, operator: str, level: int, keys: Tensor, values: Tensor, of_keys: Segments) -> Case:
    plan, channels = scene.plans[level], keys.shape[1]
    num_heads, num_keys = channels // scene.widths.head, of_keys.counts()[0]
    queries = scene.random(len(plan.rows), channels)
    everything = scene.random(2 * plan.height * plan.width, channels)
    query, key, value = (reference.split_heads(x, 2, num_heads) for x in (everything, keys, values))
    return Case(
        operator,
        f"{scene.name}, {scene.where(level)}, {len(queries)} rows, {num_keys} keys an image, {num_heads} heads",
        lambda: ops.attention(queries, plan.rows, keys, values, of_keys, num_heads=num_heads),
        lambda: reference.attention(
            queries.float(), plan.rows, keys.float(), values.float(), of_keys, num_heads=num_heads
        ),
        lambda: F.scaled_dot_product_attention(query, key, value),
        num_bytes=2 * _bytes(queries) + _bytes(keys, values),
        multiply_adds=2 * len(queries) * num_keys * channels,
    )


def _map(scene: Scene, channels: int, size: tuple[int, int, int]) -> Tensor:  # [B, C, H, W], channels last
    batch, height, width = size
    return scene.random(batch, height, width, channels).permute(0, 3, 1, 2)


def _single(norm: Norm) -> Norm:
    return replace(norm, weight=norm.weight.float(), bias=norm.bias.float())


def _bytes(*tensors: Tensor) -> int:
    return sum(tensor.nbytes for tensor in tensors)
