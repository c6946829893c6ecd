"""Rows of several images, one image after another."""

from __future__ import annotations

import torch

from sparse_ops.segments import Segments, even, runs

IMAGES = Segments.of((0, 4, 8, 8, 13))  # two equal images, an empty one, another


def test_the_host_and_the_device_know_the_same():
    assert IMAGES.starts.dtype == torch.int32
    assert tuple(IMAGES.starts.tolist()) == IMAGES.offsets
    assert IMAGES.num_images == 4
    assert IMAGES.counts() == [4, 4, 0, 5]
    assert IMAGES.images() == [slice(0, 4), slice(4, 8), slice(8, 8), slice(8, 13)]


def test_runs_are_neighbouring_images_of_equal_counts_without_empty_ones():
    assert list(runs(IMAGES)) == [(slice(0, 2), [slice(0, 8)]), (slice(3, 4), [slice(8, 13)])]
    of_keys = Segments.of((0, 7, 14, 20, 21))
    assert [images for images, _ in runs(IMAGES, of_keys)] == [slice(0, 2), slice(3, 4)]
    assert [images for images, _ in runs(Segments.of((0, 2, 4)), Segments.of((0, 5, 6)))] == [slice(0, 1), slice(1, 2)]
    assert list(runs(Segments.of((0, 0)))) == []


def test_even_segments_are_one_object():
    assert even(3, 7, torch.device("cpu")).offsets == (0, 7, 14, 21)
    assert even(3, 7, torch.device("cpu")) is even(3, 7, torch.device("cpu"))
