"""The operators on rows, in plain torch: what they mean, and the CPU path.

Rows are [N, C], ragged over the images of a batch by `offsets` (B + 1 host integers). Neighbouring images with
equal counts are one call on [images, count, C]: both guidance branches of an edit cost as much as one.

Convolution weights keep their published shape [O, C, 3, 3] but lie in memory channels last, so that `[O, 9 C]`,
which the gather-GEMM wants, is a view of them (`torch.channels_last`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Offsets = Sequence[int]

GATHER_BYTES = 1 << 24


def conv_sources(
    rows: Tensor,  # [N, C]
    halo: Tensor,  # [M, C]
    affine: Tensor | None = None,  # float32 [B, 2, C]: scale and shift, then SiLU
    row_offsets: Offsets = (),
    halo_offsets: Offsets = (),
) -> Tensor:  # [1 + N + M, C]
    """What a convolution gathers from: zero, rows, halo. Zero padding comes after norm and SiLU, never before."""
    if affine is None:
        return torch.cat([rows.new_zeros(1, rows.shape[1]), rows, halo])
    sources = rows.new_empty(1 + len(rows) + len(halo), rows.shape[1])
    sources[0] = 0
    scale_and_shift(rows, affine, row_offsets, out=sources[1 : 1 + len(rows)])
    scale_and_shift(halo, affine, halo_offsets, out=sources[1 + len(rows) :])
    return F.silu(sources, inplace=True)  # silu(0) = 0


def conv3x3(
    sources: Tensor,  # [1 + S, C]: zero, then what the table points into
    neighbors: Tensor,  # int32 [K, 9] into the S sources; -1 = zero
    weight: Tensor,  # [O, C, 3, 3], channels last
    bias: Tensor,  # [O]
) -> Tensor:  # [K, O]
    """3x3 convolution of K output rows as gather and GEMM. Exact.

    In parts of `GATHER_BYTES`: nine times the input is more than a cache holds, and fresh pages are slow.
    """
    matrix = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
    row_bytes = matrix.shape[1] * sources.element_size()
    parts = [
        F.linear(sources.index_select(0, part.flatten() + 1).view(-1, matrix.shape[1]), matrix, bias)
        for part in torch.split(neighbors, max(1, GATHER_BYTES // row_bytes))
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def conv3x3_dense(
    rows: Tensor,  # [B * H * W, C]
    size: tuple[int, int, int],  # B, H, W
    weight: Tensor,
    bias: Tensor,
    *,
    stride: int = 1,
    upsample_to: tuple[int, int] | None = None,
) -> Tensor:  # [B * H' * W', O]
    """The same where every position is a row: rows in order are an image in channels-last memory."""
    image = rows.view(*size, -1).permute(0, 3, 1, 2)
    if upsample_to:
        image = F.interpolate(image, upsample_to, mode="nearest")
    return F.conv2d(image, weight, bias, stride, padding=1).permute(0, 2, 3, 1).flatten(0, 2)


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


def group_norm_affine(
    statistics: Tensor,  # float32 [B, 2, G]
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    eps: float,
) -> Tensor:  # float32 [B, 2, C]: scale and shift
    """Group norm as what it does to each channel of each image: x * scale + shift."""
    mean, variance = statistics[..., None].unbind(1)
    scale = weight.float().view(1, statistics.shape[2], -1) * (variance + eps).rsqrt()
    shift = torch.addcmul(bias.float().view_as(scale[0]), mean, scale, value=-1)
    return torch.stack([scale, shift], 1).flatten(2)


def scale_and_shift(rows: Tensor, affine: Tensor, offsets: Offsets, out: Tensor | None = None) -> Tensor:
    """Each image scaled and shifted channel by channel, in float32: x * scale + shift."""
    out = torch.empty_like(rows) if out is None else out
    for images, (part,) in runs(offsets):
        count = images.stop - images.start
        scale, shift = affine[images].unbind(1)
        values, target = (x[part].view(count, -1, x.shape[1]) for x in (rows, out))
        torch.addcmul(shift[:, None], values, scale[:, None], out=target)
    return out


def add_per_image_(rows: Tensor, values: Tensor, offsets: Offsets) -> Tensor:  # values [B, C]
    """Adds one vector to all rows of each image, in place."""
    for images, (part,) in runs(offsets):
        rows[part].view(images.stop - images.start, -1, rows.shape[1]).add_(values[images, None])
    return rows


def attention(
    queries: Tensor,  # [N, C]
    offsets: Offsets,
    keys: Tensor,  # [L, C]
    values: Tensor,  # [L, C]
    key_offsets: Offsets,
    *,
    num_heads: int,
) -> Tensor:  # [N, C]
    """Each image's queries over its own keys and values. The order of the keys does not matter. Exact."""
    parts = []
    for images, (of_queries, of_keys) in runs(offsets, key_offsets):
        count = images.stop - images.start
        query, key, value = (
            split_heads(x[part], count, num_heads)
            for x, part in ((queries, of_queries), (keys, of_keys), (values, of_keys))
        )
        parts.append(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2).flatten(0, 1))
    return parts[0] if len(parts) == 1 else torch.cat([queries[:0], *parts])


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


def runs(*offsets: Offsets) -> Iterator[tuple[slice, list[slice]]]:
    """Neighbouring images with equal counts in every one of `offsets`: the images, and their rows in each.

    An image without rows of the first kind has nothing to compute and is left out.
    """
    counts = [tuple(each[image + 1] - each[image] for each in offsets) for image in range(len(offsets[0]) - 1)]
    begin = 0
    for end in range(1, len(counts) + 1):
        if end == len(counts) or counts[end] != counts[begin]:
            if counts[begin][0]:
                yield slice(begin, end), [slice(each[begin], each[end]) for each in offsets]
            begin = end
