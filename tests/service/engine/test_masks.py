import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from service.engine import masks

PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "fisedit_differences.npz"
SQUARE = np.ones((2, 2), np.uint8)

sides = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)
levels = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 128, 254, 255]))
differences = arrays(np.uint8, sides, elements=levels)
bitmaps = arrays(bool, sides)


@pytest.fixture(autouse=True, scope="module")
def _opencvs_own_otsu():
    """Intel's replacement of it rounds in another order and so breaks ties elsewhere."""
    used = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    yield
    cv2.ipp.setUseIPP(used)


def opencv_threshold(image):
    threshold, binary = cv2.threshold(image, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return int(threshold), binary


def opencv_mask(image):
    return cv2.dilate(cv2.erode(opencv_threshold(image)[1], SQUARE), SQUARE) > 0


def assert_as_opencv(image):
    assert masks.otsu(image) == opencv_threshold(image)[0]
    np.testing.assert_array_equal(masks.paper_mask(image), opencv_mask(image))


def num_components(mask):
    return ndimage.label(mask, masks.NEIGHBOURS)[1]


def blob(size, *boxes):
    mask = np.zeros(size, bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


@given(differences)
@settings(max_examples=300, deadline=None)
def test_the_paper_mask_is_opencvs_on_any_difference(image):
    assert_as_opencv(image)


@pytest.mark.parametrize("smoothness", [0, 1, 3, 8])
@pytest.mark.parametrize("seed", range(5))
def test_the_paper_mask_is_opencvs_on_spots_of_any_smoothness(smoothness, seed):
    noise = np.random.default_rng(seed).standard_normal((96, 64))
    spots = ndimage.gaussian_filter(noise, smoothness)
    assert_as_opencv((255 * (spots - spots.min()) / np.ptp(spots)).astype(np.uint8))


@pytest.mark.parametrize("level", [0, 1, 100, 255])
def test_the_paper_mask_is_opencvs_on_a_constant_image(level):
    assert_as_opencv(np.full((9, 7), level, np.uint8))


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 1), (100, 101), (3, 200)])
def test_the_paper_mask_is_opencvs_on_two_values(low, high):
    image = np.where(np.random.default_rng(low).random((32, 32)) < 0.3, high, low).astype(np.uint8)
    assert_as_opencv(image)


def test_otsu_breaks_ties_as_opencv_does():
    for period in range(2, 40):
        assert_as_opencv(np.resize(np.arange(period, dtype=np.uint8) * (255 // period), (period, period)))


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the authors' published differences are not beside the repository")
def test_the_paper_mask_has_no_wrong_pixel_in_the_250_published_cases():
    with np.load(PUBLISHED) as cases:
        images = cases["differences"]
        published = np.unpackbits(cases["masks"], axis=1)[:, : 96 * 96].reshape(-1, 96, 96).astype(bool)
    assert len(images) == 250
    np.testing.assert_array_equal(np.stack([masks.paper_mask(image) for image in images]), published)


def test_the_paper_mask_lies_one_position_down_and_right_of_the_difference():
    image = 255 * blob((12, 12), (3, 4, 6, 8)).astype(np.uint8)
    np.testing.assert_array_equal(masks.paper_mask(image), blob((12, 12), (4, 5, 7, 9)))


def test_the_difference_image_is_the_formula():
    generator = torch.Generator().manual_seed(0)
    new, recorded = torch.randn(2, 3, 4, 6, 5, generator=generator)
    total = torch.zeros(6, 5)
    for a, b in zip(new, recorded, strict=True):
        d = (a - b).abs().sum(0)
        total += (d - d.min()) / (d.max() - d.min())
    expected = (255 * (total - total.min()) / (total.max() - total.min())).numpy()
    image = masks.difference_image(new, recorded)
    assert image.dtype == np.uint8
    assert (image.min(), image.max()) == (0, 255)
    # float32 sums in another order may fall on the other side of a truncation
    np.testing.assert_allclose(image, np.floor(expected), atol=1)


def test_the_scale_of_a_step_does_not_matter():
    generator = torch.Generator().manual_seed(1)
    new, recorded = torch.randn(2, 2, 4, 8, 8, generator=generator)
    scale = torch.tensor([1.0, 1024.0])[:, None, None, None]  # a power of two: no rounding
    louder = masks.difference_image(new * scale, recorded * scale)
    np.testing.assert_array_equal(louder, masks.difference_image(new, recorded))


def test_equal_latents_differ_nowhere():
    latents = torch.ones(3, 4, 8, 8)
    image = masks.difference_image(latents, latents)
    assert not image.any()
    assert not masks.paper_mask(image).any()
    assert not masks.edit_mask(image).any()


def test_what_differs_by_less_than_the_least_does_not_differ():
    generator = torch.Generator().manual_seed(1)
    new, recorded = torch.randn(2, 2, 4, 8, 8, generator=generator)
    largest = float((new - recorded).abs().max())
    assert masks.difference_image(new, recorded, largest).any()
    assert masks.probe_mask(new, recorded, least_difference=largest).any()
    assert not masks.difference_image(new, recorded, 1.01 * largest).any()
    assert not masks.probe_mask(new, recorded, least_difference=1.01 * largest).any()


def test_half_precision_latents_are_compared_in_full_precision():
    generator = torch.Generator().manual_seed(2)
    new, recorded = torch.randn(2, 2, 4, 8, 8, generator=generator).half()
    expected = masks.difference_image(new.float(), recorded.float())
    np.testing.assert_array_equal(masks.difference_image(new, recorded), expected)


def test_latents_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\[S, C, H, W\], are \(2, 4, 8, 8\) and \(3, 4, 8, 8\)"):
        masks.difference_image(torch.zeros(2, 4, 8, 8), torch.zeros(3, 4, 8, 8))


@pytest.mark.parametrize(("steps", "detection"), [(1, 1), (2, 1), (4, 1), (8, 2), (20, 4), (30, 6), (50, 10)])
def test_detection_takes_a_fifth_of_the_steps(steps, detection):
    assert masks.num_detection_steps(steps) == detection


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="num_inference_steps must be at least 1, is 0"):
        masks.num_detection_steps(0)


def test_a_probe_finds_where_predictions_differ_most():
    old = torch.zeros(3, 4, 16, 16)
    new = old.clone()
    new[:, :, 4:8, 4:8] = 5.0
    new[:, :, 10:14, 2:6] = 1.0  # a fifth of it: changes, too
    new[:, :, :3, 10:] = 0.5  # a tenth: does not
    found = masks.probe_mask(new, old, masks.MaskRule(dilation=0))
    expected = np.zeros((16, 16), bool)
    expected[4:8, 4:8] = expected[10:14, 2:6] = True
    assert np.array_equal(found, expected)
    assert np.array_equal(masks.probe_mask(3 * new, old, masks.MaskRule(dilation=0)), expected)


def test_a_probes_raw_mask_has_its_fragments():
    old = torch.zeros(1, 4, 16, 16)
    new = old.clone()
    new[:, :, 4:8, 4:8] = new[:, :, 12, 12] = 1.0
    raw = masks.probe_mask(new, old, cleaned=False)
    assert raw.sum() == 17
    assert masks.probe_mask(new, old, masks.MaskRule(dilation=0, least_ratio=0.01)).sum() == 16


def test_predictions_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="new and old must both be"):
        masks.probe_mask(torch.zeros(1, 4, 8, 8), torch.zeros(2, 4, 8, 8))


def test_hysteresis_keeps_what_touches_the_strong():
    strong = blob((10, 10), (2, 2, 3, 3))
    weak = blob((10, 10), (1, 1, 4, 4), (4, 4, 5, 6), (7, 7, 9, 9))
    np.testing.assert_array_equal(masks.hysteresis(strong, weak), blob((10, 10), (1, 1, 4, 4), (4, 4, 5, 6)))


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_hysteresis_lies_between_strong_and_all(data):
    strong = data.draw(bitmaps)
    weak = data.draw(arrays(bool, strong.shape))
    grown = masks.hysteresis(strong, weak)
    assert (strong <= grown).all()
    assert (grown <= (strong | weak)).all()
    np.testing.assert_array_equal(masks.hysteresis(grown, weak), grown)


def test_clean_drops_fragments_fills_holes_and_adds_a_row():
    mask = blob((20, 20), (4, 4, 12, 12), (16, 16, 17, 18))
    mask[7:9, 7:9] = False
    np.testing.assert_array_equal(masks.clean(mask, least=3, dilation=0), blob((20, 20), (4, 4, 12, 12)))
    np.testing.assert_array_equal(masks.clean(mask, least=3, dilation=1), blob((20, 20), (3, 3, 13, 13)))


def test_clean_scales_its_least_size_with_the_resolution():
    for side, least in ((32, 5), (96, 37)):
        big, enough, few = (1, 1, 10, 10), (14, 1, 15, 1 + least), (17, 1, 18, least)
        cleaned = masks.clean(blob((side, side), big, enough, few), dilation=0)
        np.testing.assert_array_equal(cleaned, blob((side, side), big, enough))
        assert least == math.ceil(masks.MaskRule.least_ratio * side * side)


def test_clean_keeps_the_largest_component_however_small():
    mask = blob((32, 32), (3, 3, 4, 5), (20, 20, 21, 21))
    np.testing.assert_array_equal(masks.clean(mask, dilation=0), blob((32, 32), (3, 3, 4, 5)))


def test_clean_of_nothing_is_nothing():
    assert not masks.clean(np.zeros((8, 8), bool), dilation=3).any()


@given(bitmaps, st.integers(0, 12))
@settings(max_examples=200, deadline=None)
def test_clean_is_idempotent_up_to_dilation(mask, least):
    cleaned = masks.clean(mask, least, dilation=0)
    np.testing.assert_array_equal(masks.clean(cleaned, least, dilation=0), cleaned)
    assert cleaned.any() == mask.any()
    assert num_components(cleaned) <= max(1, num_components(mask))


@given(bitmaps, st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_masks_grow_with_dilation(mask, dilation):
    narrow, wide = masks.clean(mask, 2, dilation), masks.clean(mask, 2, dilation + 1)
    assert (narrow <= wide).all()
    np.testing.assert_array_equal(wide, masks.widen(narrow, 1))


@given(arrays(bool, array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9)), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_widen_is_a_square_max_pool_image_by_image(mask, by):
    images = torch.from_numpy(mask.reshape(-1, 1, *mask.shape[-2:])).float()
    pooled = torch.nn.functional.max_pool2d(images, 2 * by + 1, 1, by)
    np.testing.assert_array_equal(masks.widen(mask, by), pooled.bool().numpy().reshape(mask.shape))


def test_a_negative_widening_is_refused():
    with pytest.raises(ValueError, match="by must be 0 or more latent positions, is -1"):
        masks.widen(np.zeros((4, 4), bool), -1)


def attention(*, num_tokens=8, side=16, **words):
    """Maps [T, side, side] that share each position's attention; `words` names box and share of tokens."""
    maps = torch.zeros(num_tokens, side, side)
    for name, ((top, left, bottom, right), share) in words.items():
        maps[int(name.removeprefix("token_")), top:bottom, left:right] = share
    maps[0] = 1 - maps.sum(0)
    return maps


def test_nothing_removed_is_an_empty_region():
    assert not masks.removed_region(attention(token_1=((2, 2, 6, 6), 0.6)), [], (32, 32)).any()


def test_the_removed_region_is_where_the_removed_word_drew():
    maps = attention(token_1=((2, 2, 6, 8), 0.6), token_2=((10, 10, 14, 14), 0.6))
    region = masks.removed_region(maps, [1], (32, 32))
    assert (blob((32, 32), (4, 4, 12, 16)) <= region).all()
    assert (region <= blob((32, 32), (3, 3, 13, 17))).all()  # bilinear: one position of slope


def test_several_removed_words_are_joined():
    maps = attention(token_1=((2, 2, 6, 8), 0.6), token_2=((10, 10, 14, 14), 0.5))
    joined = masks.removed_region(maps, [1, 2], (32, 32))
    alone = [masks.removed_region(maps, [token], (32, 32)) for token in (1, 2)]
    np.testing.assert_array_equal(joined, alone[0] | alone[1])


def test_a_weak_word_beside_a_strong_one_is_left_out():
    maps = attention(token_1=((2, 2, 6, 8), 0.6), token_2=((0, 8, 16, 16), 0.2))
    region = masks.removed_region(maps, [1, 2], (32, 32))
    np.testing.assert_array_equal(region, masks.removed_region(maps, [1], (32, 32)))


def test_a_word_under_an_even_share_of_attention_drew_nothing():
    maps = attention(token_1=((2, 2, 6, 8), 0.1))  # 8 tokens: an even share is .125
    assert not masks.removed_region(maps, [1], (32, 32)).any()


def test_the_weaker_surroundings_of_a_drawn_word_belong_to_it():
    maps = torch.zeros(8, 16, 16)
    maps[1] = torch.linspace(0, 1, 16)
    columns = {ratio: masks.removed_region(maps, [1], (16, 16), weak_ratio=ratio).sum(1) for ratio in (1.0, 0.5)}
    assert (columns[1.0] == 8).all()
    assert (columns[0.5] == 12).all()


def test_the_edit_mask_of_a_lone_difference_is_its_surroundings():
    image = np.zeros((32, 32), np.uint8)
    image[10:16, 10:16] = 255
    np.testing.assert_array_equal(
        masks.edit_mask(image), blob((32, 32), (9, 9, 17, 17))
    )  # not shifted like the paper's


def test_the_edit_mask_grows_into_the_weaker_difference_around_it():
    image = np.zeros((32, 32), np.uint8)
    image[8:16, 8:16] = 255
    image[8:16, 16:20] = 100
    image[24:28, 24:28] = 100
    threshold = masks.otsu(image)
    assert threshold == 100
    rule = masks.MaskRule(dilation=0)
    np.testing.assert_array_equal(masks.edit_mask(image, rule=rule), blob((32, 32), (8, 8, 16, 20)))


def test_the_edit_mask_holds_what_removed_words_drew():
    image = np.zeros((32, 32), np.uint8)
    image[20:28, 20:28] = 255
    maps = attention(token_1=((2, 2, 6, 8), 0.6))
    without, joined = masks.edit_mask(image, maps, []), masks.edit_mask(image, maps, [1])
    assert not without[:14].any()
    assert (without <= joined).all()
    assert (masks.removed_region(maps, [1], (32, 32)) <= joined).all()


def test_where_nothing_differs_removed_words_change_nothing():
    maps = attention(token_1=((2, 2, 6, 8), 0.6))
    assert masks.removed_region(maps, [1], (32, 32)).any()
    assert not masks.edit_mask(np.zeros((32, 32), np.uint8), maps, [1]).any()


@given(arrays(np.uint8, (16, 16), elements=levels), st.integers(0, 2))
@settings(max_examples=100, deadline=None)
def test_the_edit_mask_grows_with_dilation_and_holds_the_paper_mask_moved_back(image, dilation):
    narrow = masks.edit_mask(image, rule=masks.MaskRule(dilation=dilation, least_ratio=0))
    wide = masks.edit_mask(image, rule=masks.MaskRule(dilation=dilation + 1, least_ratio=0))
    assert (masks.paper_mask(image)[1:, 1:] <= narrow[:-1, :-1]).all()
    assert (narrow <= wide).all()
