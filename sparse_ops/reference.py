"""The operators on rows in plain torch: what they mean, and the CPU path.

Ragged operators take the rows of several images one after another, and `Segments` that say where each begins.
Neighbouring images with equal counts are one call on [images, count, C]: both guidance branches of an edit cost as much
as one.

Convolution weights keep their published shape [O, C, 3, 3] but lie in memory channels last, so that `[O, 9 C]`,
which the gather-GEMM wants, is a view of them (`torch.channels_last`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_ops.segments import Segments, runs

GATHER_BYTES = 1 << 24


@dataclass(frozen=True, eq=False)
class Norm:
    """A group norm whose mean and variance are known, image by image."""

    statistics: Tensor  # float32 [B, 2, G]: mean and variance
    weight: Tensor  # [C]
    bias: Tensor  # [C]
    eps: float

    def affine(self) -> Tensor:  # float32 [B, 2, C]
        """What it does to each channel of each image: x * scale + shift."""
        mean, variance = self.statistics[..., None].unbind(1)
        scale = self.weight.float().view(1, self.statistics.shape[2], -1) * (variance + self.eps).rsqrt()
        shift = torch.addcmul(self.bias.float().view_as(scale[0]), mean, scale, value=-1)
        return torch.stack([scale, shift], 1).flatten(2)


def normalise(rows: Tensor, norm: Norm, images: Segments) -> Tensor:  # [N, C] -> [N, C]
    """Group norm of each image's rows, in float32. Exact for the statistics given."""
    out = torch.empty_like(rows)
    _scale_and_shift(rows, norm.affine(), images, out)
    return out


def conv3x3(
    rows: Tensor,  # [N, C]
    halo: Sequence[Tensor],  # [M, C'] each, side by side: C channels in all
    neighbors: Tensor,  # int32 [K, 9] into concat(rows, halo); -1 = zero
    weight: Tensor,  # [O, C, 3, 3], channels last
    bias: Tensor,  # [O]
    *,
    norm: Norm | None = None,  # of rows and halo, and SiLU after it; needs `images`
    images: tuple[Segments, Segments] | None = None,  # of the rows, and of the halo
    embedding: Tensor | None = None,  # [B, O], added to all outputs of an image; outputs are then the N rows
    residual: Tensor | None = None,  # [K, O], added
) -> Tensor:  # [K, O]
    """3x3 convolution of K output rows as gather and GEMM. Exact. Zero padding comes after norm and SiLU.

    In parts of `GATHER_BYTES`: nine times the input is more than a cache holds, and fresh pages are slow.
    """
    sources = _sources(rows, halo, norm, images)
    matrix = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
    row_bytes = matrix.shape[1] * sources.element_size()
    parts = [
        F.linear(sources.index_select(0, part.flatten() + 1).view(-1, matrix.shape[1]), matrix, bias)
        for part in torch.split(neighbors, max(1, GATHER_BYTES // row_bytes))
    ]
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    if embedding is not None and images is not None:
        for image, part in enumerate(images[0].images()):
            out[part] += embedding[image]
    return out if residual is None else out.add_(residual)


def _sources(
    rows: Tensor, halo: Sequence[Tensor], norm: Norm | None, images: tuple[Segments, Segments] | None
) -> Tensor:  # [1 + N + M, C]
    """What a convolution gathers from: zero, rows, halo."""
    num_rows, num_halo = len(rows), len(halo[0]) if halo else 0
    sources = rows.new_empty(1 + num_rows + num_halo, rows.shape[1])
    sources[0] = 0
    affine = None if norm is None else norm.affine()
    outer, begin = sources[1 + num_rows :], 0
    for part in halo:
        columns = slice(begin, begin := begin + part.shape[1])
        if affine is None or images is None:
            outer[:, columns] = part
        else:
            _scale_and_shift(part, affine[..., columns], images[1], outer[:, columns])
    if affine is None or images is None:
        sources[1 : 1 + num_rows] = rows
        return sources
    _scale_and_shift(rows, affine, images[0], sources[1 : 1 + num_rows])
    return F.silu(sources, inplace=True)  # silu(0) = 0


def _scale_and_shift(rows: Tensor, affine: Tensor, images: Segments, out: Tensor) -> None:
    """Each image scaled and shifted channel by channel, in float32."""
    for some, (part,) in runs(images):
        count = some.stop - some.start
        scale, shift = affine[some].unbind(1)
        values, target = (x[part].view(count, -1, x.shape[1]) for x in (rows, out))
        torch.addcmul(shift[:, None], values, scale[:, None], out=target)


def conv3x3_dense(
    rows: Tensor,  # [B * H * W, C]
    size: tuple[int, int, int],  # B, H, W
    weight: Tensor,
    bias: Tensor,
    *,
    stride: int = 1,
    upsample_to: tuple[int, int] | None = None,
    embedding: Tensor | None = None,  # [B, O]
    residual: Tensor | None = None,  # [B * H' * W', O]
) -> Tensor:  # [B * H' * W', O]
    """The same where every position is a row: rows in order are an image in channels-last memory."""
    image = rows.view(*size, -1).permute(0, 3, 1, 2)
    if upsample_to:
        image = F.interpolate(image, upsample_to, mode="nearest")
    out = F.conv2d(image, weight, bias, stride, padding=1).permute(0, 2, 3, 1).flatten(0, 2)
    if embedding is not None:
        out.view(size[0], -1, out.shape[1]).add_(embedding[:, None])
    return out if residual is None else out.add_(residual)


def group_norm_statistics(rows: Tensor, num_groups: int) -> Tensor:  # [B, H * W, C] -> float32 [B, 2, G]
    """Mean and variance of the groups of complete images. Exact.

    In two passes of plain means, which torch vectorises: its var_mean takes ten times as long on the CPU.
    """
    values = rows.float()
    per_group = values.shape[2] // num_groups
    mean = values.mean(1).view(-1, num_groups, per_group).mean(2)
    centred = values - mean.repeat_interleave(per_group, 1)[:, None]
    variance = centred.square_().mean(1).view(-1, num_groups, per_group).mean(2)
    return torch.stack([mean, variance], 1)


def attention(
    queries: Tensor,  # [N, C]
    of_queries: Segments,
    keys: Tensor,  # [L, C]
    values: Tensor,  # [L, C]
    of_keys: Segments,
    *,
    num_heads: int,
) -> Tensor:  # [N, C]
    """Each image's queries over its own keys and values. The order of the keys does not matter. Exact."""
    parts = []
    for images, (some_queries, some_keys) in runs(of_queries, of_keys):
        count = images.stop - images.start
        query, key, value = (
            split_heads(x[part], count, num_heads)
            for x, part in ((queries, some_queries), (keys, some_keys), (values, some_keys))
        )
        parts.append(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2).flatten(0, 1))
    padding = queries[of_queries.offsets[-1] :]
    return parts[0] if len(parts) == 1 and not len(padding) else torch.cat([*parts, padding])


def cross_attention(
    queries: Tensor,  # [N, C]
    of_queries: Segments,
    keys: Tensor,  # [B, T, C]
    values: Tensor,  # [B, T, C]
    *,
    num_heads: int,
    moved: Tensor | None = None,  # [N, heads, T] maps of another pass; needs `alpha`
    alpha: Tensor | None = None,  # float32 [B, T]: how much of each token's map is the moved one
    keep_maps: bool = False,
) -> tuple[Tensor, Tensor | None]:  # [N, C], and [N, heads, T] if kept
    """Each image's rows over its own text: softmax, then `alpha * moved + (1 - alpha) * maps`, then their values."""
    mixed, kept = torch.zeros_like(queries), queries.new_zeros(len(queries), num_heads, keys.shape[1])
    for image, part in enumerate(of_queries.images()):
        if part.start == part.stop:
            continue
        maps = attention_maps(queries[part], keys[image], num_heads)
        if moved is not None and alpha is not None:
            share = alpha[image].to(maps)
            maps = share * moved[part].transpose(0, 1).to(maps) + (1 - share) * maps
        mixed[part] = mix_values(maps, values[image])
        kept[part] = maps.transpose(0, 1)
    return mixed, kept if keep_maps else None


def attention_maps(queries: Tensor, keys: Tensor, num_heads: int) -> Tensor:  # [N, C], [T, C] -> [heads, N, T]
    """The probabilities that attention multiplies the values of one image with."""
    query, key = (split_heads(x, 1, num_heads)[0] for x in (queries, keys))
    logits: Tensor = query @ key.transpose(1, 2) * query.shape[2] ** -0.5
    return logits.softmax(2)


def mix_values(maps: Tensor, values: Tensor) -> Tensor:  # [heads, N, T], [T, C] -> [N, C]
    """The other half of attention: `attention` is `mix_values(attention_maps(queries, keys), values)`."""
    mixed: Tensor = maps @ split_heads(values, 1, len(maps))[0]
    return mixed.transpose(0, 1).flatten(1)


def split_heads(rows: Tensor, count: int, num_heads: int) -> Tensor:  # [count * N, C] -> [count, heads, N, C / heads]
    """The rows of equally long images as attention wants them; no copy."""
    return rows.view(count, len(rows) // count, num_heads, rows.shape[1] // num_heads).transpose(1, 2)


def geglu(rows: Tensor) -> Tensor:  # [N, 2 C] -> [N, C]
    """Half of the channels gates the other."""
    value, gate = rows.chunk(2, 1)
    return value * F.gelu(gate)


def sinusoid(timesteps: Tensor, num_channels: int) -> Tensor:  # [B] -> float32 [B, C]
    """The position embedding of Stable Diffusion: cosines, then sines."""
    half = num_channels // 2
    frequencies = torch.exp(-math.log(10000.0) / half * torch.arange(half, device=timesteps.device).float())
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


def side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Concatenated channels; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)
