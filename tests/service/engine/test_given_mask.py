"""Masks as people give and see them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from service.engine import given_mask
from service.errors import InputError


def box(size, edges):
    top, left, bottom, right = edges
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def picture_of(mask, mode, scale=8):
    return Image.fromarray(given_mask.to_png_array(mask, scale)).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_a_users_mask_is_read_in_any_mode(mode):
    mask = np.random.default_rng(3).random((6, 9)) < 0.4
    np.testing.assert_array_equal(given_mask.user_mask(picture_of(mask, mode), (6, 9)), mask)


def test_a_users_mask_may_have_the_size_of_the_latents():
    mask = np.random.default_rng(4).random((6, 9)) < 0.4
    np.testing.assert_array_equal(given_mask.user_mask(picture_of(mask, "L", scale=1), (6, 9)), mask)


def test_one_white_pixel_makes_its_latent_position_active():
    image = Image.new("L", (72, 48))
    image.putpixel((17, 8), 128)
    image.putpixel((40, 40), 127)
    np.testing.assert_array_equal(given_mask.user_mask(image, (6, 9)), box((6, 9), (1, 2, 2, 3)))


def test_transparent_white_counts_as_black():
    image = Image.new("RGBA", (16, 8), (255, 255, 255, 0))
    image.putpixel((12, 3), (255, 255, 255, 1))
    np.testing.assert_array_equal(given_mask.user_mask(image, (1, 2)), [[False, True]])


def test_sixteen_bits_are_scaled_not_clipped():
    image = Image.fromarray(np.array([[0, 300, 32767, 32768, 65535]], np.uint16))
    np.testing.assert_array_equal(given_mask.user_mask(image, (1, 5)), [[False, False, False, True, True]])


@pytest.mark.parametrize("size", [(48, 72), (71, 48), (144, 96)])
def test_a_users_mask_of_another_size_is_refused_with_both_sizes(size):
    message = f"edit_mask: must be 72x48 pixels .* or 9x6 .*, is {size[0]}x{size[1]}"
    with pytest.raises(InputError, match=message):
        given_mask.user_mask(Image.new("L", size), (6, 9))


def test_masks_are_combined_as_the_mode_says():
    detected, given = box((4, 4), (0, 0, 2, 2)), box((4, 4), (1, 1, 3, 3))
    np.testing.assert_array_equal(given_mask.combine(detected, given, "detect"), detected)
    np.testing.assert_array_equal(given_mask.combine(detected, None, "detect"), detected)
    np.testing.assert_array_equal(given_mask.combine(None, given, "given"), given)
    np.testing.assert_array_equal(given_mask.combine(detected, given, "union"), detected | given)


@pytest.mark.parametrize("mode", ["given", "union"])
def test_a_missing_users_mask_is_the_users_error(mode):
    with pytest.raises(InputError, match=f"edit_mask: is needed for mask_mode '{mode}'"):
        given_mask.combine(np.zeros((4, 4), bool), None, mode)


@pytest.mark.parametrize("mode", ["detect", "union"])
def test_a_missing_detected_mask_is_refused(mode):
    with pytest.raises(ValueError, match=f"detected must be a mask for mode '{mode}', is None"):
        given_mask.combine(None, np.zeros((4, 4), bool), mode)


@drawn(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=24)), st.sampled_from([1, 8]))
@settings(max_examples=50, deadline=None)
def test_a_mask_survives_being_a_picture(mask, scale):
    pixels = given_mask.to_png_array(mask, scale)
    assert pixels.dtype == np.uint8
    assert set(np.unique(pixels)) <= {0, 255}
    np.testing.assert_array_equal(given_mask.user_mask(Image.fromarray(pixels), mask.shape), mask)
