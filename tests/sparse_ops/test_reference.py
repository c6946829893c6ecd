"""The operators mean what torch's own mean, image by image."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from sparse_ops import reference as ops
from sparse_ops.segments import Segments

OFFSETS = (0, 4, 8, 8, 13)  # two equal images, an empty one, another
# Sums of a few tens of float32 numbers of order 1, in two orders.
close = partial(torch.testing.assert_close, atol=2e-6, rtol=2e-6)


IMAGES = Segments.of(OFFSETS)


def norm_of(affine):  # [B, 2, C], as the norm of one channel a group that does it
    scale, shift = affine.unbind(1)
    weight, bias = torch.ones(affine.shape[2]), torch.zeros(affine.shape[2])
    return ops.Norm(torch.stack([-shift / scale, scale**-2], 1), weight, bias, 0.0)


def test_group_norm_is_torchs():
    rows = torch.randn(2, 30, 24)
    norm = torch.nn.GroupNorm(6, 24)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    ours = ops.Norm(ops.group_norm_statistics(rows, 6), norm.weight.detach(), norm.bias.detach(), norm.eps)
    normed = ops.normalise(rows.flatten(0, 1), ours, Segments.of((0, 30, 60)))
    close(normed.view(2, 30, 24), norm(rows.transpose(1, 2)).transpose(1, 2).detach())


def test_low_precision_rows_are_normalised_in_float32():
    rows = torch.randn(6, 8, dtype=torch.bfloat16)
    norm = norm_of(torch.rand(1, 2, 8) * 100 + 1)
    scale, shift = norm.affine()[0]
    assert torch.equal(ops.normalise(rows, norm, Segments.of((0, 6))), (rows.float() * scale + shift).bfloat16())


def gathered(rows, halo, neighbors):
    """[K, 9 C], zero for -1."""
    sources = torch.cat([rows, torch.cat(list(halo), 1)]) if halo else rows
    return torch.where(neighbors[..., None] < 0, 0, sources[neighbors.clamp(min=0)]).flatten(1)


@pytest.fixture
def layer():
    weight = torch.randn(5, 4, 3, 3).to(memory_format=torch.channels_last)
    return weight, torch.randn(5), weight.permute(0, 2, 3, 1).flatten(1)


def test_convolution_is_a_gather_and_a_product(layer):
    weight, bias, matrix = layer
    rows, halo = torch.randn(3, 4), [torch.randn(2, 1), torch.randn(2, 6)[:, ::2]]  # side by side; one is a view
    neighbors = torch.randint(-1, 5, (7, 9), dtype=torch.int32)
    expected = gathered(rows, halo, neighbors) @ matrix.T + bias
    close(ops.conv3x3(rows, halo, neighbors, weight, bias), expected, atol=1e-5, rtol=1e-5)  # sums of 36


def test_zero_padding_comes_after_norm_and_silu(layer):
    weight, bias, matrix = layer
    rows, halo, norm = torch.randn(5, 4), torch.randn(3, 8)[:, ::2], norm_of(torch.rand(2, 2, 4) + 0.5)
    affine, images = norm.affine(), torch.tensor([0, 0, 1, 1, 1, 0, 0, 0])
    activated = F.silu(torch.cat([rows, halo]) * affine[images, 0] + affine[images, 1])
    neighbors = torch.randint(-1, 8, (5, 9), dtype=torch.int32)
    of = Segments.of((0, 2, 5)), Segments.of((0, 3, 3))
    out = ops.conv3x3(rows, [halo[:, :1], halo[:, 1:]], neighbors, weight, bias, norm=norm, images=of)
    close(out, gathered(activated[:5], [activated[5:]], neighbors) @ matrix.T + bias, atol=1e-5, rtol=1e-5)


def test_an_embedding_is_added_to_the_rows_of_its_image_and_a_residual_to_its_row(layer):
    weight, bias, _ = layer
    rows, embedding, residual = torch.randn(13, 4), torch.randn(4, 5), torch.randn(13, 5)
    neighbors, of = torch.randint(-1, 13, (13, 9), dtype=torch.int32), (IMAGES, Segments.of((0,) * 5))
    plain = ops.conv3x3(rows, [], neighbors, weight, bias)
    images = torch.tensor([0] * 4 + [1] * 4 + [3] * 5)
    out = ops.conv3x3(rows, [], neighbors, weight, bias, images=of, embedding=embedding, residual=residual)
    close(out, plain + embedding[images] + residual)


@pytest.mark.parametrize("num_padded", [0, 3])
@pytest.mark.parametrize("key_offsets", [(0, 6, 12, 15, 17), (0, 5, 12, 12, 19)])
def test_attention_is_each_images_own(key_offsets, num_padded):
    queries, keys, values = torch.randn(13 + num_padded, 8), torch.randn(19, 8), torch.randn(19, 8)
    mixed = ops.attention(queries, IMAGES, keys, values, Segments.of(key_offsets), num_heads=2)
    assert mixed.shape == queries.shape
    for (begin, end), (first, last) in zip(pairwise(OFFSETS), pairwise(key_offsets), strict=True):
        maps = ops.attention_maps(queries[begin:end], keys[first:last], 2)
        close(mixed[begin:end], ops.mix_values(maps, values[first:last]))


def test_attention_of_nothing_is_nothing():
    nothing, none = torch.empty(0, 8), Segments.of((0, 0))
    assert ops.attention(nothing, none, nothing, nothing, none, num_heads=2).shape == (0, 8)


def test_attention_maps_are_probabilities():
    maps = ops.attention_maps(torch.randn(5, 8), torch.randn(7, 8), 2)
    assert maps.shape == (2, 5, 7)
    close(maps.sum(2), torch.ones(2, 5))


def test_time_is_embedded_as_in_diffusers():
    from diffusers.models.embeddings import get_timestep_embedding  # noqa: PLC0415  # slow to import

    timesteps = torch.tensor([0, 1, 999])
    theirs = get_timestep_embedding(timesteps, 16, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(ops.sinusoid(timesteps, 16), theirs)
