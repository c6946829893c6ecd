"""What a picture is drawn on, and what its recording is worth."""

from __future__ import annotations

import pytest
import torch

from cache_store.store import Store
from service.engine.canvas import Canvas
from service.engine.rates import RATES
from service.engine.sampling import resolve
from service.engine.weights import load_model
from service.jobs import SamplingRequest

SMALL = {"width": 128, "height": 128, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def model():
    return load_model(device=torch.device("cpu"))


@pytest.fixture
def canvas_of(model):
    return lambda **sampling: Canvas.of(model, resolve(model, SamplingRequest(**SMALL | sampling)))


def record(canvas, store, name):
    """Rows of nothing."""
    with canvas.draft(store, name) as draft:
        for step, plane, column in draft.activations.columns():
            shape = draft.activations.own.lie.num_kept[plane], draft.activations.layout[plane].width_of(column)
            draft.write(step, plane, column, torch.zeros(shape))
        draft.commit()


def test_a_recording_is_worth_the_seconds_of_its_dense_steps(canvas_of):
    canvas = canvas_of(num_inference_steps=7, guidance_scale=3.0)
    draft = canvas.draft(Store(1 << 28), "a")
    assert draft.activations.own.seconds_saved == pytest.approx(7 * canvas.macs.dense(2) / RATES["cpu"][0])


@pytest.mark.parametrize(
    ("more", "factor"), [({"num_inference_steps": 4}, 2), ({"guidance_scale": 3.0}, 2), ({"width": 256}, 2)]
)
def test_more_steps_branches_or_pixels_are_worth_more(canvas_of, more, factor):
    one = {"guidance_scale": 1.0}
    assert canvas_of(**one | more).dense_seconds >= factor * canvas_of(**one).dense_seconds


@pytest.mark.parametrize("more", [{"num_inference_steps": 8}, {"width": 256, "height": 256}])
def test_who_saves_more_stays_though_it_is_larger_and_older(canvas_of, more):
    small, large = canvas_of(), canvas_of(**more)
    sizes = [measured(canvas) for canvas in (large, small)]
    store = Store(sum(sizes), clock=lambda: 0.0)
    record(large, store, "large")
    for name in ("small", "new"):
        record(small, store, name)
    assert {one.id: bool(one.bytes_by_tier) for one in store.describe()} == {"large": True, "small": False, "new": True}


def measured(canvas):
    """Bytes of a recording."""
    store = Store(1 << 28)
    draft = canvas.draft(store, "a")
    assert draft.activations is not None
    return store.num_bytes
