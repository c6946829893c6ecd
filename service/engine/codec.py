"""Latents to pictures and back into the source: decode, paste, PNG."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from service.engine import decoder
from service.engine.masks import widen
from service.engine.weights import Model
from service.jobs import Decoding

Pixels = NDArray[np.uint8]  # [height, width, 3]

DENSE_RATIO = 0.4  # of the pixels; on a CPU decoding them as rows is then as slow as decoding all


@dataclass(frozen=True, eq=False)
class Picture:
    """Pixels, and what an edit of them needs to decode only what it changes."""

    pixels: Pixels
    statistics: Tensor  # float32 [norms, cells, 2, G] of the decoder's norms


def decode(model: Model, latents: Tensor) -> Picture:  # [1, 4, h, w]
    """The picture of a latent, all of it. Exact."""
    decoded = decoder.decode(model.vae, _unscaled(model, latents))
    height, width = (side * model.latent_scale for side in latents.shape[2:])
    return Picture(_to_bytes(decoded.values).reshape(height, width, 3), decoded.statistics.cpu())


def decode_edit(
    model: Model,
    latents: Tensor,  # [1, 4, h, w]
    source: Picture,
    edit_mask: NDArray[np.bool_],  # [h, w]
    paste_margin: int,
    decoding: Decoding,
) -> Picture:
    """The source, with the mask's pixels and those that are pasted around them decoded; see `decoder`, and `paste`.

    Dense is exact. Rows are quicker, and approximate in their norms: colours are off by a level of 255 or so
    (`loadtests/results/decoding.json`). Where rows would be most of the picture, all is decoded.
    """
    wide = widen(edit_mask, paste_margin)
    if decoding == "dense" or wide.mean() > DENSE_RATIO:
        whole = decode(model, latents)
        return Picture(paste(source.pixels, whole.pixels, edit_mask, paste_margin), whole.statistics)
    needed = np.kron(wide, np.ones((model.latent_scale,) * 2, bool))
    unscaled = _unscaled(model, latents)
    decoded = decoder.decode_rows(model.vae, unscaled, torch.from_numpy(needed), source.statistics)
    edited = source.pixels.copy()
    edited[needed] = _to_bytes(decoded.values)
    return Picture(paste(source.pixels, edited, edit_mask, paste_margin), decoded.statistics.cpu())


def paste(source: Pixels, edited: Pixels, edit_mask: NDArray[np.bool_], paste_margin: int) -> Pixels:
    """The edit inside the mask [h, w] (latent positions); over `paste_margin` positions around, the source blends in.

    Every other pixel is the source's. Approximate in that rim, where both nearly agree: its latents are the source's,
    but a decoder sees 13 to 17 positions far. A hard border would show as a seam.
    """
    scale = source.shape[0] // edit_mask.shape[0]
    if not edit_mask.any():
        return source
    left, top, right, bottom = bounding_box(widen(edit_mask, paste_margin), scale)
    box = slice(top, bottom), slice(left, right)  # beyond it nothing changes
    inside = np.kron(edit_mask, np.ones((scale, scale), bool))[box]
    distance = ndimage.distance_transform_cdt(~inside, "chessboard")  # 0 inside, then 1, 2, .. pixels
    weight = np.clip(1 - (distance - 0.5) / max(1, paste_margin * scale), 0, 1)
    weight[distance > paste_margin * scale] = 0
    blended, before = source.copy(), source[box]
    blended[box] = (before + weight[..., None] * (edited[box].astype(np.float64) - before)).round().astype(np.uint8)
    return blended


def _unscaled(model: Model, latents: Tensor) -> Tensor:
    config = model.vae.config
    shift = getattr(config, "shift_factor", None) or 0
    unscaled: Tensor = latents.to(model.device, model.vae.dtype) / config.scaling_factor + shift
    return unscaled


def _to_bytes(values: Tensor) -> NDArray[np.uint8]:  # [N, 3], -1 .. 1 and beyond
    pixels: NDArray[np.uint8] = ((values.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    return pixels


def bounding_box(edit_mask: NDArray[np.bool_], scale: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the mask in pixels; ValueError where it is empty."""
    rows, columns = np.flatnonzero(edit_mask.any(1)), np.flatnonzero(edit_mask.any(0))
    return tuple(int(edge) * scale for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))  # type: ignore[return-value]  # four of them


def to_png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of [H, W, 3] colours or [H, W] greys."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
