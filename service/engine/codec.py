"""Latents to pictures and back into the source: decode, paste, PNG."""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from service.engine import decoder
from service.engine.masks import Mask, widen
from service.engine.weights import Model
from service.jobs import Decoding

Pixels = NDArray[np.uint8]  # [height, width, 3]

# of the pixels, above which decoding all is as quick as rows: on a GPU it always is, as rows are many small launches
DENSE_RATIO = {"cpu": 0.4, "cuda": 0.0}


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
    edit_mask: Mask,  # [h, w]
    paste_margin: int,
    decoding: Decoding,
) -> Picture:
    """The source, with the mask's pixels and those that are pasted around them decoded; see `decoder`, and `paste`.

    Dense is exact. Rows are quicker, and approximate in their norms: colours are off by a level of 255 or so
    (`loadtests/results/decoding.json`). Where rows would not be quicker, all is decoded.
    """
    wide = widen(edit_mask, paste_margin)
    if decoding == "dense" or wide.mean() > DENSE_RATIO[model.device.type]:
        whole = decode(model, latents)
        return Picture(paste(source.pixels, whole.pixels, edit_mask, paste_margin), whole.statistics)
    needed = np.kron(wide, np.ones((model.latent_scale,) * 2, bool))
    unscaled = _unscaled(model, latents)
    decoded = decoder.decode_rows(model.vae, unscaled, torch.from_numpy(needed), source.statistics)
    edited = source.pixels.copy()
    edited[needed] = _to_bytes(decoded.values)
    return Picture(paste(source.pixels, edited, edit_mask, paste_margin), decoded.statistics.cpu())


def paste(source: Pixels, edited: Pixels, edit_mask: Mask, paste_margin: int) -> Pixels:
    """The edit inside the mask [h, w] (latent positions); over `paste_margin` positions around, the source blends in.

    Every other pixel is the source's. Approximate in that rim, where both nearly agree: its latents are the source's,
    but a decoder sees 13 to 17 positions far. A hard border would show as a seam.
    """
    if not edit_mask.any():
        return source
    scale, pasted = source.shape[0] // edit_mask.shape[0], source.copy()
    cells, fresh = _in_cells(pasted, scale), _in_cells(edited, scale)
    cells[edit_mask] = fresh[edit_mask]
    for ring in range(1, paste_margin + 1):
        rim = widen(edit_mask, ring) & ~widen(edit_mask, ring - 1)
        weight = 1 - (_distances(edit_mask, rim, ring, scale) - 0.5) / (paste_margin * scale)
        before = cells[rim].astype(np.float64)
        cells[rim] = (before + weight[..., None] * (fresh[rim] - before)).round()
    return pasted


def _in_cells(pixels: Pixels, scale: int) -> NDArray[np.uint8]:  # a view [h, w, scale, scale, 3]
    """The pixels of each latent position."""
    height, width, channels = pixels.shape
    return pixels.reshape(height // scale, scale, width // scale, scale, channels).swapaxes(1, 2)


def _distances(mask: Mask, rim: Mask, ring: int, scale: int) -> NDArray[np.int_]:  # [N, scale, scale]
    """How many pixels, diagonals too, those of the rim's positions are from the mask, which is `ring` positions off.

    Nearer there is none, and whatever is farther off has no nearer pixel: the edge of that square is all that counts.
    """
    rows, columns = np.nonzero(rim)
    around = np.pad(mask, ring)
    distances = np.full((len(rows), scale, scale), ring * scale)
    along = {offset: _along(offset, scale) for offset in range(-ring, ring + 1)}
    for down, right in product(along, along):
        if ring in (abs(down), abs(right)):
            away = np.maximum(along[down][:, None], along[right])
            there = around[rows + ring + down, columns + ring + right]
            distances[there] = np.minimum(distances[there], away)
    return distances


def _along(offset: int, scale: int) -> NDArray[np.int_]:  # [scale]
    """Pixels from each of a position to the nearest one of another position in the same row."""
    inside = np.arange(scale)
    if offset > 0:
        return offset * scale - inside
    return inside - (offset + 1) * scale + 1 if offset else np.zeros_like(inside)


def _unscaled(model: Model, latents: Tensor) -> Tensor:
    config = model.vae.config
    shift = getattr(config, "shift_factor", None) or 0
    unscaled: Tensor = latents.to(model.device, model.vae.dtype) / config.scaling_factor + shift
    return unscaled


def _to_bytes(values: Tensor) -> NDArray[np.uint8]:  # [N, 3], -1 .. 1 and beyond
    pixels: NDArray[np.uint8] = ((values.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    return pixels


def bounding_box(edit_mask: Mask, scale: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the mask in pixels; ValueError where it is empty."""
    rows, columns = np.flatnonzero(edit_mask.any(1)), np.flatnonzero(edit_mask.any(0))
    return tuple(int(edge) * scale for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))  # type: ignore[return-value]  # four of them


def to_png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of [H, W, 3] colours or [H, W] greys."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
