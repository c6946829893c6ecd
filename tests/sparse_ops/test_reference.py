"""The operators mean what torch's own mean, image by image."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from sparse_ops import reference as ops

OFFSETS = (0, 4, 8, 8, 13)  # two equal images, an empty one, another
# Sums of a few tens of float32 numbers of order 1, in two orders.
close = partial(torch.testing.assert_close, atol=2e-6, rtol=2e-6)


def test_runs_are_neighbouring_images_of_equal_counts_without_empty_ones():
    assert list(ops.runs(OFFSETS)) == [(slice(0, 2), [slice(0, 8)]), (slice(3, 4), [slice(8, 13)])]
    of_keys = (0, 7, 14, 20, 21)
    assert [images for images, _ in ops.runs(OFFSETS, of_keys)] == [slice(0, 2), slice(3, 4)]
    assert [images for images, _ in ops.runs((0, 2, 4), (0, 5, 6))] == [slice(0, 1), slice(1, 2)]
    assert list(ops.runs((0, 0))) == []


def test_group_norm_as_an_affine_is_group_norm():
    rows = torch.randn(2, 30, 24)
    norm = torch.nn.GroupNorm(6, 24)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    statistics = ops.group_norm_statistics(rows, 6)
    affine = ops.group_norm_affine(statistics, norm.weight, norm.bias, norm.eps).detach()
    normed = ops.scale_and_shift(rows.flatten(0, 1), affine, (0, 30, 60))
    close(normed.view(2, 30, 24), norm(rows.transpose(1, 2)).transpose(1, 2).detach())


def test_low_precision_rows_are_scaled_in_float32():
    rows = torch.randn(6, 8, dtype=torch.bfloat16)
    affine = torch.randn(1, 2, 8) * 100
    expected = (rows.float() * affine[0, 0] + affine[0, 1]).bfloat16()
    assert torch.equal(ops.scale_and_shift(rows, affine, (0, 6)), expected)


def test_sources_are_zero_then_rows_then_halo():
    rows, halo = torch.randn(3, 4), torch.randn(2, 4)
    assert torch.equal(ops.conv_sources(rows, halo), torch.cat([torch.zeros(1, 4), rows, halo]))


def test_zero_padding_comes_after_norm_and_silu():
    rows, halo, affine = torch.randn(5, 4), torch.randn(3, 8)[:, ::2], torch.randn(2, 2, 4)
    sources = ops.conv_sources(rows, halo, affine, (0, 2, 5), (0, 3, 3))
    images = torch.tensor([0, 0, 1, 1, 1, 0, 0, 0])
    expected = F.silu(torch.cat([rows, halo]) * affine[images, 0] + affine[images, 1])
    close(sources[1:], expected)
    assert torch.equal(sources[0], torch.zeros(4))


def test_a_vector_is_added_to_the_rows_of_its_image():
    rows, values = torch.randn(13, 3), torch.randn(4, 3)
    images = torch.tensor([0] * 4 + [1] * 4 + [3] * 5)
    assert torch.equal(ops.add_per_image_(rows.clone(), values, OFFSETS), rows + values[images])


@pytest.mark.parametrize("key_offsets", [(0, 6, 12, 15, 17), (0, 5, 12, 12, 19)])
def test_attention_is_each_images_own(key_offsets):
    queries, keys, values = torch.randn(13, 8), torch.randn(19, 8), torch.randn(19, 8)
    mixed = ops.attention(queries, OFFSETS, keys, values, key_offsets, num_heads=2)
    for (begin, end), (first, last) in zip(pairwise(OFFSETS), pairwise(key_offsets), strict=True):
        maps = ops.attention_maps(queries[begin:end], keys[first:last], 2)
        close(mixed[begin:end], ops.mix_values(maps, values[first:last]))


def test_attention_of_nothing_is_nothing():
    nothing = torch.empty(0, 8)
    assert ops.attention(nothing, (0, 0), nothing, nothing, (0, 0), num_heads=2).shape == (0, 8)


def test_attention_maps_are_probabilities():
    maps = ops.attention_maps(torch.randn(5, 8), torch.randn(7, 8), 2)
    assert maps.shape == (2, 5, 7)
    close(maps.sum(2), torch.ones(2, 5))


def test_time_is_embedded_as_in_diffusers():
    from diffusers.models.embeddings import get_timestep_embedding  # noqa: PLC0415  # slow to import

    timesteps = torch.tensor([0, 1, 999])
    theirs = get_timestep_embedding(timesteps, 16, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(ops.sinusoid(timesteps, 16), theirs)
