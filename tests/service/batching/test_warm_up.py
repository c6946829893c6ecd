"""Warming up is a picture and its edits, drawn by jobs like any others."""

from __future__ import annotations

import pytest

from service.batching.warm_up import PIECES, RATIOS, warm_up
from service.engine.predict import predict
from service.engine.weights import load_model


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
    asked = [ratio for ratio in RATIOS for _ in PIECES for _ in range(5)]
    given = ratios[5 : 5 + len(asked)]
    assert given == pytest.approx(asked, abs=0.1)  # whole positions, of 8 to a square
    assert len(ratios) > 5 + len(asked)  # and an edit by its words


def test_a_failure_is_logged_and_stops_nothing(postcard, caplog):
    def broken(_unet, _calls):
        raise RuntimeError("the device is gone")

    warm_up(postcard, broken)
    assert "warming up failed" in caplog.text
