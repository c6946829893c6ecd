"""The VAE's decoder where it is needed: diffusers' own weights, its convolutions on rows.

    decode         everything; keeps the mean and variance of its group norms
    decode_rows    some pixels of a changed latent, under the statistics of the picture that it was changed from

Layers at the latent's own resolution, where the middle's attention sees everything, are diffusers' modules, dense: they
are a small part of the work. From the first upsampling on there are only convolutions and norms, and rows shrink to the
pixels that are needed (`sparse_ops/shells.py`). SIGE's decoder does the same on tiles ("Efficient Spatially Sparse
Inference for Conditional GANs and Diffusion Models").

Approximate in one thing: norms beyond the latent's resolution are those of the source picture ("Approximate
Normalization"). So a pixel that no change reaches is the source's own, to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from service.errors import InputError
from sparse_ops import ops
from sparse_ops.shells import Layer, Shell, make_shells


@dataclass(frozen=True, eq=False)
class Decoded:
    """Pixels, and the statistics under which they were decoded."""

    values: Tensor  # [N, 3], -1 .. 1 and beyond
    statistics: Tensor  # float32 [norms, 2, G]: mean and variance of each group norm above the latent's resolution


def check_decoder(vae: Any) -> None:
    """InputError where the decoder is not made of what is walked through here."""
    kinds = set(vae.config.up_block_types)
    if kinds != {"UpDecoderBlock2D"} or vae.config.act_fn != "silu":
        raise InputError("model", f"the VAE must be made of UpDecoderBlock2D with silu, got {', '.join(sorted(kinds))}")


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Decoded:  # [1, C, h, w], unscaled
    """All pixels, in raster order. Exact: what diffusers' decoder gives."""
    return _walk(vae, latents, _Walk(_size(latents)))


@torch.no_grad()
def decode_rows(
    vae: Any,
    latents: Tensor,  # [1, C, h, w], unscaled
    needed: Tensor,  # bool [h * scale, w * scale]
    statistics: Tensor,  # [norms, 2, G], of the source
) -> Decoded:
    """The needed pixels, in raster order."""
    shells = make_shells(needed.to(latents.device), layers_of(vae))
    return _walk(vae, latents, _Walk(_size(latents), iter(shells), iter(statistics.to(latents.device))))


def layers_of(vae: Any) -> list[Layer]:
    """The convolutions above the latent's resolution, in the order of the data."""
    layers: list[Layer] = []
    for block in vae.decoder.up_blocks[1:]:
        layers += ["up", *["same"] * (2 * len(block.resnets))]  # type: ignore[list-item]  # two a resnet
    return [*layers, "same"]


@dataclass(eq=False)
class _Walk:
    """From convolution to convolution of one pass: where each computes, and which statistics hold."""

    size: tuple[int, int]  # of the map that comes next
    shells: Iterator[Shell] | None = None  # None: everything is computed
    recorded: Iterator[Tensor] | None = None  # None: norms are fresh
    statistics: list[Tensor] = field(default_factory=list)  # those that held so far

    def convolve(self, rows: Tensor, conv: nn.Conv2d, norm: nn.GroupNorm | None = None) -> tuple[Tensor, Shell | None]:
        """A stride-1 convolution, after norm and SiLU where a norm is given; and the shell that it computed."""
        affine = None if norm is None else self._affine(rows, norm)
        shell = next(self.shells) if self.shells is not None else None
        weights = conv.weight, _bias(conv)
        if shell is not None:
            sources = ops.conv_sources(rows, rows[:0], affine, (0, len(rows)), (0, 0))
            return ops.conv3x3(sources, shell.neighbors, *weights), shell
        if affine is not None:
            rows = nn.functional.silu(ops.scale_and_shift(rows, affine, (0, len(rows))), inplace=True)
        return ops.conv3x3_dense(rows, (1, *self.size), *weights), None

    def upsample(self, rows: Tensor, conv: nn.Conv2d) -> Tensor:
        """Nearest, doubled, and a convolution."""
        low, self.size = self.size, (2 * self.size[0], 2 * self.size[1])
        if self.shells is not None:
            return self.convolve(rows, conv)[0]
        return ops.conv3x3_dense(rows, (1, *low), conv.weight, _bias(conv), upsample_to=self.size)

    def _affine(self, rows: Tensor, norm: nn.GroupNorm) -> Tensor:
        fresh = self.recorded is None
        held = ops.group_norm_statistics(rows[None], norm.num_groups)[0] if fresh else next(self.recorded)  # type: ignore[arg-type]  # not None here
        self.statistics.append(held)
        return ops.group_norm_affine(held[None], norm.weight, norm.bias, norm.eps)


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


def _entered(vae: Any, latents: Tensor) -> Tensor:
    entered: Tensor = latents if vae.post_quant_conv is None else vae.post_quant_conv(latents)
    return entered


def _bias(conv: nn.Conv2d) -> Tensor:
    if conv.bias is None:
        raise InputError("model", "the VAE's convolutions must have biases")
    return conv.bias


def _size(latents: Tensor) -> tuple[int, int]:
    return latents.shape[2], latents.shape[3]
