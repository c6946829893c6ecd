"""Masks as people give and see them: pictures in which white changes."""

from __future__ import annotations

import numpy as np
from PIL import Image

from service.engine.masks import Bytes, Mask
from service.errors import InputError
from service.jobs import MaskMode


def user_mask(
    image: Image.Image,  # of the picture's size or of the latents'; white = changes, transparent = black
    size: tuple[int, int],  # (H, W) of the latents
    scale: int = 8,  # pixels of the picture per latent position
) -> Mask:
    """A user's mask in latent positions, bool [H, W]: active where any of its pixels is at least half white."""
    height, width = size
    if image.size == (width, height):
        scale = 1
    elif image.size != (width * scale, height * scale):
        picture, latents = f"{width * scale}x{height * scale}", f"{width}x{height}"
        came = f"{image.width}x{image.height}"
        raise InputError("edit_mask", f"must be {picture} pixels (the picture) or {latents} (its latents), is {came}")
    return np.asarray(_white(image).reshape(height, scale, width, scale).any(axis=(1, 3)))


def combine(detected: Mask | None, given: Mask | None, mode: MaskMode) -> Mask:
    """The mask of an edit from the detected and the user's one; what `mode` does not need may be None."""
    if given is None and mode != "detect":
        raise InputError("edit_mask", f"is needed for mask_mode {mode!r}")
    if detected is None and mode != "given":
        raise ValueError(f"detected must be a mask for mode {mode!r}, is None")
    masks = {"detect": [detected], "given": [given], "union": [detected, given]}[mode]
    return np.asarray(np.stack([mask for mask in masks if mask is not None]).any(0))


def to_png_array(mask: Mask, scale: int = 8) -> Bytes:
    """The mask as grey pixels, uint8 [H * scale, W * scale], 255 = changes."""
    return np.kron(mask, np.full((scale, scale), 255, np.uint8)).astype(np.uint8)


def _white(image: Image.Image) -> Mask:
    """Which pixels are at least half white and not fully transparent, bool [height, width]."""
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow would clip them to 8 instead of scaling
        return np.asarray(np.asarray(image) >= 1 << 15)
    luminance, alpha = image.convert("LA").split()
    return np.asarray((np.asarray(luminance) >= 128) & (np.asarray(alpha) > 0))
