"""The VAE's decoder where it is needed: diffusers' own weights, its convolutions on rows.

    decode         everything; keeps the mean and variance of its group norms, cell by cell
    decode_rows    some pixels of a changed latent; its norms are the recorded ones, computed cells put in their place

Layers at the latent's own resolution, where the middle's attention sees everything, are diffusers' modules, dense: they
are a small part of the work. From the first upsampling on there are only convolutions and norms, and rows shrink to the
pixels that are needed (`sparse_ops/shells.py`). SIGE's decoder does the same on tiles ("Efficient Spatially Sparse
Inference for Conditional GANs and Diffusion Models").

Approximate in one thing: beyond the latent's resolution, norms count what was not computed as it was recorded, though a
change moves that, too, a little ("Approximate Normalization", corrected: `sparse_ops/cells.py`). So a pixel that no
change reaches is the source's own, to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn

from service.errors import InputError
from sparse_ops import ops
from sparse_ops.cells import all_cells, complete_cells, of_all
from sparse_ops.segments import Segments
from sparse_ops.shells import Layer, Shell, make_shells

CELL = 4  # latent positions a side, or a part of that where it does not divide the picture


@dataclass(frozen=True, eq=False)
class Decoded:
    """Pixels, and the statistics under which they were decoded."""

    values: Tensor  # [N, 3], -1 .. 1 and beyond
    statistics: (
        Tensor  # float32 [norms, cells, 2, G]: mean and variance at each group norm above the latent's resolution
    )


def check_decoder(vae: Any) -> None:
    """InputError where the decoder is not made of what is walked through here."""
    kinds = set(vae.config.up_block_types)
    if kinds != {"UpDecoderBlock2D"} or vae.config.act_fn != "silu":
        raise InputError("model", f"the VAE must be made of UpDecoderBlock2D with silu, got {', '.join(sorted(kinds))}")


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Decoded:  # [1, C, h, w], unscaled
    """All pixels, in raster order. Exact: what diffusers' decoder gives."""
    return _walk(vae, latents, _Walk.of(latents))


@torch.no_grad()
def decode_rows(
    vae: Any,
    latents: Tensor,  # [1, C, h, w], unscaled
    needed: Tensor,  # bool [h * scale, w * scale]
    statistics: Tensor,  # [norms, cells, 2, G], of the source
) -> Decoded:
    """The needed pixels, in raster order. Under the same norms they are those of a dense decode."""
    shells = make_shells(needed.to(latents.device), layers_of(vae))
    return _walk(vae, latents, _Walk.of(latents, iter(shells), iter(statistics.to(latents.device))))


def layers_of(vae: Any) -> list[Layer]:
    """The convolutions above the latent's resolution, in the order of the data."""
    layers: list[Layer] = []
    for block in vae.decoder.up_blocks[1:]:
        layers += ["up", *["same"] * (2 * len(block.resnets))]  # type: ignore[list-item]  # two a resnet
    return [*layers, "same"]


@dataclass(eq=False)
class _Walk:
    """From convolution to convolution of one pass: which rows are there, what comes next, which statistics held."""

    places: Tensor  # integers [H, W]: of the row at each position of the present map, -1 where there is none
    cell: int  # positions a side, of the present map
    shells: Iterator[Shell] | None  # None: everything is computed
    recorded: Iterator[Tensor] | None  # None: everything is fresh
    statistics: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(
        cls, latents: Tensor, shells: Iterator[Shell] | None = None, recorded: Iterator[Tensor] | None = None
    ) -> _Walk:
        """From the latent's resolution on, of which all is there."""
        height, width = latents.shape[2:]
        return cls(_everywhere(height, width, latents.device), gcd(CELL, height, width), shells, recorded)

    def convolve(self, rows: Tensor, conv: nn.Conv2d, norm: nn.GroupNorm | None = None) -> tuple[Tensor, Shell | None]:
        """A stride-1 convolution, after norm and SiLU where a norm is given; and the shell that it computed."""
        normed = None if norm is None else self._norm(rows, norm)
        weights, (own, none) = (conv.weight, _bias(conv)), _one_image(len(rows), rows.device)
        if self.shells is not None:
            shell = next(self.shells)
            self.places = shell.places
            return ops.conv3x3(rows, [], shell.neighbors, *weights, norm=normed, images=(own, none)), shell
        if normed is not None:
            rows = nn.functional.silu(ops.normalise(rows, normed, own), inplace=True)
        return ops.conv3x3_dense(rows, (1, *self.places.shape), *weights), None

    def upsample(self, rows: Tensor, conv: nn.Conv2d) -> Tensor:
        """Nearest, doubled, and a convolution."""
        self.cell *= 2
        if self.shells is not None:
            return self.convolve(rows, conv)[0]
        height, width = self.places.shape
        self.places = _everywhere(2 * height, 2 * width, rows.device)
        size, doubled = (1, height, width), (2 * height, 2 * width)
        return ops.conv3x3_dense(rows, size, conv.weight, _bias(conv), upsample_to=doubled)

    def _norm(self, rows: Tensor, norm: nn.GroupNorm) -> ops.Norm:
        if self.shells is None:
            cells = all_cells(*self.places.shape, self.cell, rows.device)
        else:
            cells = complete_cells(self.places, self.cell)
        values = rows.index_select(0, cells.rows.flatten()).view(*cells.rows.shape, rows.shape[1])
        fresh = ops.group_norm_statistics(values, norm.num_groups)
        held = fresh if self.recorded is None else next(self.recorded).index_copy(0, cells.index, fresh)
        self.statistics.append(held)
        return ops.Norm(of_all(held)[None], norm.weight, norm.bias, norm.eps)


def _walk(vae: Any, latents: Tensor, walk: _Walk) -> Decoded:
    decoder = vae.decoder
    image = decoder.mid_block(decoder.conv_in(_entered(vae, latents)))
    first, *others = decoder.up_blocks
    for resnet in first.resnets:
        image = resnet(image, None)
    rows = image.permute(0, 2, 3, 1).flatten(0, 2)
    for below, block in zip([first, *others], others, strict=False):
        rows = walk.upsample(rows, below.upsamplers[0].conv)
        for resnet in block.resnets:
            rows = _resnet(rows, resnet, walk)
    values, _ = walk.convolve(rows, decoder.conv_out, decoder.conv_norm_out)
    return Decoded(values, torch.stack(walk.statistics))


def _resnet(rows: Tensor, resnet: Any, walk: _Walk) -> Tensor:
    hidden, first = walk.convolve(rows, resnet.conv1, resnet.norm1)
    hidden, second = walk.convolve(hidden, resnet.conv2, resnet.norm2)
    if first is not None and second is not None:
        rows = rows.index_select(0, first.centers.index_select(0, second.centers))
    if resnet.conv_shortcut is not None:
        rows = nn.functional.linear(rows, resnet.conv_shortcut.weight.flatten(1), resnet.conv_shortcut.bias)
    return hidden.add_(rows)


@lru_cache(maxsize=256)  # a device is waited for when they are made
def _one_image(num_rows: int, device: torch.device) -> tuple[Segments, Segments]:
    """Rows of one image, and no halo."""
    return Segments.of((0, num_rows), device), Segments.of((0, 0), device)


def _entered(vae: Any, latents: Tensor) -> Tensor:
    entered: Tensor = latents if vae.post_quant_conv is None else vae.post_quant_conv(latents)
    return entered


def _bias(conv: nn.Conv2d) -> Tensor:
    if conv.bias is None:
        raise InputError("model", "the VAE's convolutions must have biases")
    return conv.bias


def _everywhere(height: int, width: int, device: torch.device) -> Tensor:
    """The places of rows in raster order."""
    return torch.arange(height * width, device=device).view(height, width)
