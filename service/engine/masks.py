"""Edit masks: which latent positions an edit changes.

    probe_mask                                                     of two predictions of the picture; the default
    difference_image -> paper_mask                                 the paper's rule ("Target Area Capture"), exact
    grown_mask, joined with removed_region -> clean                `edit_mask`, the same improved

Latents and attention maps come in as torch tensors. A mask is a numpy array, bool [H, W] in latent positions, True =
changes: at 96x96 all of this takes a millisecond on the CPU. Components are 8-connected, so holes are 4-connected.

This is the reference, and what a CPU runs. Kernels do the same on a GPU, bit for bit (`sparse_ops/edit_mask.py`, called
by `region.py`); what users give and what removed words drew lies on the host and is found here everywhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

Mask = NDArray[np.bool_]  # [H, W], True = changes
Bytes = NDArray[np.uint8]  # [H, W]

NEIGHBOURS = np.ones((3, 3), bool)
DETECTION_RATIO = 0.2  # the paper compares the first 10 of 50 steps
OTSU_LEAST_SHARE = float(np.finfo(np.float32).eps)  # OpenCV: a class with less of the pixels is no class


@dataclass(frozen=True)
class MaskRule:
    """The thresholds of `probe_mask` and `edit_mask`. Ratios of a threshold are 1 at the threshold and 0 at black."""

    probe_ratio: float = 0.15  # of the largest difference of predicted pictures: what differs more, changes
    weak_ratio: float = 0.9  # of Otsu's threshold: how far the paper's mask may grow into the difference around it
    word_ratio: float = 0.5  # of the strongest removed word: a word that drew less than this drew nothing
    removed_weak_ratio: float = 0.7  # of Otsu's threshold of a removed word's map
    least_ratio: float = 0.004  # of all positions: smaller components are dropped (37 at 96x96, 5 at 32x32)
    dilation: int = 1  # latent positions added around the result

    def least(self, num_positions: int) -> int:
        """The fewest positions that a component of a mask has."""
        return math.ceil(self.least_ratio * num_positions)


def num_detection_steps(num_inference_steps: int) -> int:
    """How many steps the difference is taken over: the paper's 10 of 50, scaled; at least 1, at most all."""
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps must be at least 1, is {num_inference_steps}")
    return max(1, round(DETECTION_RATIO * num_inference_steps))


def probe_mask(
    new: Tensor,  # [S, C, H, W] what S recorded latents are predicted to become, under the edited prompt
    old: Tensor,  # [S, C, H, W] the same under the source's prompt
    rule: MaskRule | None = None,
    *,
    cleaned: bool = True,
    least_difference: float = 0.0,  # of a single value: below it nothing differs
) -> Mask:
    """Where the new words would change this picture, bool [H, W]. Our own rule.

    Predicted pictures are of one scale at every step, so differences are compared as they are: a position changes where
    they amount, over all steps, to a part of the largest one. Where the words change a sky from day to night, the land
    under it is a weaker difference, but no weak one; where they add a house, all else is hardly any. Sums are float32,
    step by step and channel by channel: the same bits on every device.
    """
    if new.shape != old.shape or new.dim() != 4:
        raise ValueError(f"new and old must both be [S, C, H, W], are {tuple(new.shape)} and {tuple(old.shape)}")
    rule = rule or MaskRule()
    differences = (new.float() - old.float()).abs()
    if float(differences.max()) < least_difference:
        return np.zeros(new.shape[2:], bool)
    difference = reduce(torch.add, differences.flatten(0, 1)).cpu().numpy()
    mask: Mask = difference > rule.probe_ratio * difference.max()
    return clean(mask, rule.least(mask.size), rule.dilation) if cleaned else mask


def difference_image(
    new: Tensor,  # [S, C, H, W] latents after each of the first S steps, under the edited prompt
    recorded: Tensor,  # [S, C, H, W] the same of the source
    least_difference: float = 0.0,  # of a single value: below it nothing differs
) -> Bytes:
    """How strongly each position differs over the first steps, uint8 [H, W]; exact (the released code's rule).

    Every step is scaled to 0..1 before the sum, so that late steps, where more differs, do not outvote early ones. Sums
    are float32, channel by channel and step by step: the same bits on every device.
    """
    if new.shape != recorded.shape or new.dim() != 4:
        raise ValueError(
            f"new and recorded must both be [S, C, H, W], are {tuple(new.shape)} and {tuple(recorded.shape)}"
        )
    differences = (new.float() - recorded.float()).abs()
    if float(differences.max()) < least_difference:
        return np.zeros(new.shape[2:], np.uint8)
    per_step = reduce(torch.add, differences.unbind(1)).cpu().numpy()  # [S, H, W]
    return _to_bytes(np.sum([_minmax(step) for step in per_step], axis=0))


def paper_mask(difference: Bytes) -> Mask:
    """The paper's edit mask of a difference image; exact: Otsu's threshold, then OpenCV's 2x2 erosion and dilation.

    OpenCV anchors both at the lower right, so the result lies one position further down and right than the difference.
    """
    binary = difference > otsu(difference)
    eroded = ndimage.minimum_filter(binary, 2, mode="constant", cval=1)
    return np.asarray(ndimage.maximum_filter(eroded, 2, mode="constant", cval=0), bool)


def otsu(image: Bytes) -> int:
    """Otsu's threshold, 0..255; foreground is above it. 0 for a constant image.

    Exact: OpenCV's own recurrence in its own order, because rounding decides between equally good thresholds. (Builds
    with Intel's IPP use that one's, which may decide otherwise; on real differences both agree.)
    """
    counts = np.bincount(image.ravel(), minlength=256)
    scale = 1.0 / image.size
    mean = float(np.arange(256) @ counts) * scale
    threshold, best = 0, 0.0
    below, mean_below = 0.0, 0.0
    for level, share in enumerate((counts * scale).tolist()):
        mean_below *= below
        below += share
        above = 1.0 - below
        if min(below, above) < OTSU_LEAST_SHARE:
            continue
        mean_below = (mean_below + level * share) / below
        mean_above = (mean - below * mean_below) / above
        variance = below * above * (mean_below - mean_above) * (mean_below - mean_above)
        if variance > best:
            threshold, best = level, variance
    return threshold


def grown_mask(
    difference: Bytes,  # [H, W] from `difference_image`
    weak_ratio: float = MaskRule.weak_ratio,
) -> Mask:
    """The paper's mask, not moved by a position, grown into weaker differences that touch it. Our own rule."""
    threshold = otsu(difference)
    return hysteresis(_opened(difference > threshold), _opened(difference > weak_ratio * threshold))


def hysteresis(strong: Mask, weak: Mask) -> Mask:
    """All of `strong`, and of `weak` the components that touch it."""
    labels, _ = ndimage.label(strong | weak, NEIGHBOURS)
    return np.isin(labels, np.unique(labels[strong]))


def clean(mask: Mask, least: int | None = None, dilation: int = 1) -> Mask:
    """`mask` without components of fewer than `least` positions, holes filled, `dilation` positions added around.

    The largest component always stays: an edit that was asked for is never cleaned away. `least` is by default
    `MaskRule.least_ratio` of all positions.
    """
    least = MaskRule().least(mask.size) if least is None else least
    labels, num_components = ndimage.label(mask, NEIGHBOURS)
    if not num_components:
        return np.zeros_like(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept = sizes >= min(least, sizes.max())
    kept[0] = False  # also where `least` is 0
    return widen(ndimage.binary_fill_holes(kept[labels]), dilation)


def removed_region(
    maps: Tensor,  # [T, h, w] recorded cross-attention, averaged over heads, layers and steps; sums to 1 over T
    removed: Sequence[int],  # tokens of the source prompt that the edited prompt does not keep
    size: tuple[int, int],  # (H, W)
    word_ratio: float = MaskRule.word_ratio,
    weak_ratio: float = MaskRule.removed_weak_ratio,
) -> Mask:
    """Where removed or replaced words drew, bool [H, W]; empty if none was removed. Our own rule.

    The difference of the first steps misses what the old words drew where the new picture is plain (a forest's tips in
    the sky). How strongly a word drew is how far its map rises above its least value. "with" and "a" are hardly drawn
    beside a house, and scaled up they would cover half of the picture: words of less than `word_ratio` of the strongest
    are left out, and so is all that stays under an even share of attention, 1 / T.
    """
    if not removed:
        return np.zeros(size, bool)
    drawn = maps[list(removed)].float()
    strength = drawn.amax((1, 2)) - drawn.amin((1, 2))
    drawn = drawn[strength >= max(word_ratio * float(strength.max()), 1 / maps.shape[0])]
    region = np.zeros(size, bool)
    for word in drawn:
        image = _to_bytes(F.interpolate(word[None, None], size, mode="bilinear")[0, 0].cpu().numpy())
        threshold = otsu(image)
        region |= hysteresis(image > threshold, image > weak_ratio * threshold)
    return region


def edit_mask(
    difference: Bytes,  # [H, W] from `difference_image`
    maps: Tensor | None = None,  # [T, h, w], see `removed_region`; None: without what removed words drew
    removed: Sequence[int] = (),
    rule: MaskRule | None = None,
) -> Mask:
    """The detected edit mask, bool [H, W]: the paper's, grown into weaker differences that touch it, joined with the
    region of removed words, cleaned. Empty where nothing differs. Our own rule; `paper_mask` is the paper's.
    """
    rule = rule or MaskRule()
    mask = grown_mask(difference, rule.weak_ratio)
    if maps is not None and difference.any():
        mask |= removed_region(maps, removed, difference.shape, rule.word_ratio, rule.removed_weak_ratio)
    return clean(mask, rule.least(mask.size), rule.dilation)


def widen(
    mask: Mask,  # [H, W] or [B, H, W]
    by: int,
) -> Mask:
    """`mask` with every position within a square of `by` around an active one, image by image."""
    if by < 0:
        raise ValueError(f"by must be 0 or more latent positions, is {by}")
    size = (1,) * (mask.ndim - 2) + (2 * by + 1, 2 * by + 1)
    return np.asarray(ndimage.maximum_filter(mask, size, mode="constant", cval=0), bool)


def _minmax(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """`image` scaled to 0..1; zeros if it is constant."""
    low, high = image.min(), image.max()
    return (image - low) / (high - low) if high > low else np.zeros_like(image)


def _to_bytes(image: NDArray[np.floating]) -> Bytes:
    """`image` scaled to 0..255 and truncated, as the released code does."""
    return (255 * _minmax(image)).astype(np.uint8)


def _opened(binary: Mask) -> Mask:
    """The paper's 2x2 opening without OpenCV's shift; beyond the border counts as active."""
    square = np.ones((2, 2), bool)
    opened: Mask = ndimage.binary_dilation(ndimage.binary_erosion(binary, square, border_value=1), square)
    return opened
