"""Pictures: decoded, pasted, written."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from service.engine.codec import bounding_box, paste, to_png


@pytest.fixture
def pictures():
    random = np.random.default_rng(0)
    return random.integers(0, 256, (2, 64, 48, 3), dtype=np.uint8)


@pytest.fixture
def edit_mask():
    mask = np.zeros((8, 6), bool)
    mask[2:4, 1:3] = True
    return mask


@pytest.mark.parametrize("paste_margin", [0, 1, 2])
def test_the_edit_is_inside_the_mask_and_the_source_beyond_the_margin(pictures, edit_mask, paste_margin):
    source, edited = pictures
    pasted = paste(source, edited, edit_mask, paste_margin)
    inside = np.kron(edit_mask, np.ones((8, 8), bool))
    assert np.array_equal(pasted[inside], edited[inside])
    far = np.ones_like(inside)
    reach = 8 * paste_margin
    far[max(0, 16 - reach) : 32 + reach, max(0, 8 - reach) : 24 + reach] = False
    assert np.array_equal(pasted[far], source[far])


def test_the_source_blends_in_evenly(edit_mask):
    source, edited = np.zeros((64, 48, 3), np.uint8), np.full((64, 48, 3), 160, np.uint8)
    ramp = paste(source, edited, edit_mask, 1)[20, 23:33, 0].astype(int)
    assert ramp[0] == 160
    assert ramp[-1] == 0
    assert set(-np.diff(ramp)) == {10, 20}  # 160 / 8, half of it at both ends


def test_no_margin_is_a_hard_border(pictures, edit_mask):
    source, edited = pictures
    inside = np.kron(edit_mask, np.ones((8, 8), bool))
    assert np.array_equal(paste(source, edited, edit_mask, 0), np.where(inside[..., None], edited, source))


def test_an_empty_mask_is_the_source_and_a_full_one_the_edit(pictures):
    source, edited = pictures
    assert np.array_equal(paste(source, edited, np.zeros((8, 6), bool), 1), source)
    assert np.array_equal(paste(source, edited, np.ones((8, 6), bool), 1), edited)


def blended(source, edited, edit_mask, paste_margin):
    """The rule, by a distance transform of all pixels."""
    scale = len(source) // len(edit_mask)
    inside = np.kron(edit_mask, np.ones((scale, scale), bool))
    distance = ndimage.distance_transform_cdt(~inside, "chessboard")
    weight = np.clip(1 - (distance - 0.5) / max(1, paste_margin * scale), 0, 1)
    weight[distance > paste_margin * scale] = 0
    return (source + weight[..., None] * (edited.astype(float) - source)).round().astype(np.uint8)


@pytest.mark.parametrize("paste_margin", [0, 1, 2, 6])
@pytest.mark.parametrize(("height", "width", "scale"), [(8, 8, 8), (5, 9, 4), (12, 7, 1), (1, 6, 8)])
def test_it_blends_by_the_distance_to_the_mask(height, width, scale, paste_margin):
    rng = np.random.default_rng(height)
    source, edited = rng.integers(0, 256, (2, height * scale, width * scale, 3), dtype=np.uint8)
    for part in (0.03, 0.1, 0.4):
        edit_mask = rng.random((height, width)) < part
        edit_mask[0, rng.integers(width)] = True
        pasted = paste(source, edited, edit_mask, paste_margin)
        assert np.array_equal(pasted, blended(source, edited, edit_mask, paste_margin))


def test_the_largest_margins_take_no_more_memory_than_small_ones(pictures):
    """A square of 16 positions is 257 pixels wide; nothing may grow with its area."""
    edit_mask = np.zeros((16, 16), bool)
    edit_mask[7:9, 7:9] = True
    source, edited = (np.kron(picture[:16, :16], np.ones((8, 8, 1), np.uint8)) for picture in pictures)
    tracemalloc.start()
    pasted = paste(source, edited, edit_mask, 16)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(pasted[56:72, 56:72], edited[56:72, 56:72])
    assert peak_bytes < 100 * source.size


def test_the_box_holds_the_mask(edit_mask):
    assert bounding_box(edit_mask, 8) == (8, 16, 24, 32)


def test_png_is_lossless(pictures):
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(to_png(pictures[0])))), pictures[0])
