"""Warming up is a picture and its edits, drawn by jobs like any others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loadtests.shapes import synthetic_mask
from service.batching.warm_up import PIECES, RATIOS, region, warm_up
from service.engine.given_mask import user_mask
from service.engine.predict import predict
from service.engine.weights import load_model
from sparse_ops.buckets import bucket_of, shapes_of
from sparse_ops.plan import active_positions, make_plans


@pytest.fixture(scope="module")
def postcard():
    return load_model()


def test_dense_and_sparse_passes_are_made(postcard, caplog):
    ratios = []

    def watching(unet, calls):
        ratios.append(max(float(call.active.levels[0].float().mean()) for call in calls))
        return predict(unet, calls)

    warm_up(postcard, watching)
    assert caplog.records == []  # a failure is an error in the log
    assert ratios[:5] == [1] * 5  # the picture
    masks = [np.asarray(region(32, 32, ratio, pieces)) for ratio in RATIOS for pieces in PIECES]
    different = {mask.tobytes(): mask.mean() / 255 for mask in masks}  # in so few positions some are the same
    asked = [ratio for ratio in different.values() for _ in range(5)]
    given = ratios[5 : 5 + len(asked)]
    assert all(least <= ratio <= least + 0.05 for least, ratio in zip(asked, given, strict=True))  # rounded to blocks
    assert len(ratios) > 5 + len(asked)  # and an edit by its words


def bucket(mask):
    plans = make_plans(active_positions(mask.expand(2, -1, -1), 4))
    return shapes_of(make_plans(active_positions(mask.expand(2, -1, -1), 4), capacity=bucket_of(plans)))


def test_regions_are_of_the_buckets_of_most_masks():
    """Of masks of 5 to 40 % in patches; of 386 published ones it is 76 %."""
    regions = [region(96, 96, ratio, pieces) for ratio in RATIOS for pieces in PIECES]
    warm = {bucket(torch.from_numpy(user_mask(one, (96, 96), 8))[None]) for one in regions}
    masks = [synthetic_mask(96, ratio / 100, seed)[None] for ratio in range(5, 40, 5) for seed in range(6)]
    assert sum(bucket(mask) in warm for mask in masks) > len(masks) / 2


def test_a_failure_is_logged_and_stops_nothing(postcard, caplog):
    def broken(_unet, _calls):
        raise RuntimeError("the device is gone")

    warm_up(postcard, broken)
    assert "warming up failed" in caplog.text
