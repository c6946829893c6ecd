"""Latents to pictures and back into the source: decode, paste, PNG."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from service.engine.weights import Model

Pixels = NDArray[np.uint8]  # [height, width, 3]


@torch.no_grad()
def decode(model: Model, latents: Tensor) -> Pixels:  # [1, 4, h, w] -> [h * scale, w * scale, 3]
    """The picture of a latent: the whole VAE decoder, dense. Exact."""
    config = model.vae.config
    unscaled = latents.to(model.device, model.vae.dtype) / config.scaling_factor + (
        getattr(config, "shift_factor", None) or 0
    )
    picture = model.vae.decode(unscaled).sample[0].float().clamp(-1, 1)
    pixels: Pixels = ((picture + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return pixels


def paste(source: Pixels, edited: Pixels, edit_mask: NDArray[np.bool_], paste_margin: int) -> Pixels:
    """The edit inside the mask [h, w] (latent positions); over `paste_margin` positions around, the source blends in.

    Every other pixel is the source's. Approximate in that rim, where both nearly agree: its latents are the source's,
    but a decoder sees 13 to 17 positions far and its norms see everything. A hard border would show as a seam.
    """
    scale = source.shape[0] // edit_mask.shape[0]
    if not edit_mask.any():
        return source
    inside = np.kron(edit_mask, np.ones((scale, scale), bool))
    distance = ndimage.distance_transform_cdt(~inside, "chessboard")  # 0 inside, then 1, 2, .. pixels
    weight = np.clip(1 - (distance - 0.5) / max(1, paste_margin * scale), 0, 1)
    weight[distance > paste_margin * scale] = 0
    blended: Pixels = (source + weight[..., None] * (edited.astype(np.float64) - source)).round().astype(np.uint8)
    return blended


def bounding_box(edit_mask: NDArray[np.bool_], scale: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the mask in pixels; ValueError where it is empty."""
    rows, columns = np.flatnonzero(edit_mask.any(1)), np.flatnonzero(edit_mask.any(0))
    return tuple(int(edge) * scale for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))  # type: ignore[return-value]  # four of them


def to_png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of [H, W, 3] colours or [H, W] greys."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def from_png(png: bytes) -> Pixels:
    """[H, W, 3] of a PNG of our own."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
