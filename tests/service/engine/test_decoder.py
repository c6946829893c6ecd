"""The decoder on rows is diffusers' decoder."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch

from service.engine.codec import decode as decode_picture
from service.engine.codec import decode_edit
from service.engine.decoder import check_decoder, decode, decode_rows, layers_of
from service.errors import InputError


@pytest.fixture(params=[True, False], ids=["attention", "convolutions"])
def vae(request):
    made = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 16), norm_num_groups=4, latent_channels=4, layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        mid_block_add_attention=request.param,
    )  # fmt: skip
    for name, parameter in made.named_parameters():
        if "norm" in name:
            parameter.data.normal_(1.0 if name.endswith("weight") else 0.0, 0.2)
    return made.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def as_rows(image):
    return image[0].permute(1, 2, 0).flatten(0, 1)


def test_decoding_everything_equals_diffusers(vae):
    latents = torch.randn(1, 4, 12, 9)
    decoded = decode(vae, latents)
    torch.testing.assert_close(decoded.values, as_rows(vae.decode(latents).sample), atol=1e-5, rtol=1e-5)
    assert decoded.statistics.shape == (13, 2, 4)  # two a resnet, of two blocks with three, and the last


def test_needed_pixels_equal_the_whole_picture_under_the_same_statistics(vae):
    latents = torch.randn(1, 4, 12, 9)
    whole, needed = decode(vae, latents), torch.zeros(48, 36, dtype=torch.bool)
    needed[5:17, 30:] = needed[40, 3] = True
    some = decode_rows(vae, latents, needed, whole.statistics)
    torch.testing.assert_close(some.values, whole.values[needed.flatten()], atol=1e-5, rtol=1e-5)
    assert torch.equal(some.statistics, whole.statistics)


def test_statistics_of_another_picture_matter(vae):
    latents, needed = torch.randn(1, 4, 12, 9), torch.ones(48, 36, dtype=torch.bool)
    other = decode(vae, 3 + torch.randn(1, 4, 12, 9))
    some = decode_rows(vae, latents, needed, other.statistics)
    assert (some.values - decode(vae, latents).values).abs().max() > 1e-2


def test_layers_are_counted_from_the_first_upsampling(vae):
    assert layers_of(vae) == ["up", *["same"] * 6, "up", *["same"] * 6, "same"]


def test_a_decoder_of_other_blocks_is_refused():
    other = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("AttnDownEncoderBlock2D",) * 2,
        up_block_types=("AttnUpDecoderBlock2D",) * 2,
    )  # fmt: skip
    with pytest.raises(InputError, match="UpDecoderBlock2D with silu, got AttnUpDecoderBlock2D"):
        check_decoder(other)


@pytest.mark.parametrize("size", [2, 12])
def test_an_unchanged_latent_decodes_to_the_source(sd2, size):
    """Whatever the mask, on rows (2) and dense (12): to rounding."""
    latents = torch.randn(1, 4, 16, 16)
    source, edit_mask = decode_picture(sd2.model, latents), np.zeros((16, 16), bool)
    edit_mask[2 : 2 + size, 3 : 3 + size] = True
    edited = decode_edit(sd2.model, latents, source, edit_mask, 1, "rows")
    assert np.abs(edited.pixels.astype(int) - source.pixels).max() <= 1
    torch.testing.assert_close(edited.statistics, source.statistics)


def test_an_edit_is_decoded_under_its_sources_statistics(sd2):
    latents, other = torch.randn(2, 1, 4, 16, 16)
    edit_mask = np.zeros((16, 16), bool)
    edit_mask[4:8, 4:8] = True
    source = decode_picture(sd2.model, latents)
    changed = torch.where(torch.from_numpy(edit_mask), other, latents)
    edited = decode_edit(sd2.model, changed, source, edit_mask, 1, "rows")
    assert torch.equal(edited.statistics, source.statistics)
    assert not np.array_equal(edited.pixels[16:32, 16:32], source.pixels[16:32, 16:32])
    far = np.ones((64, 64), bool)
    far[12:36, 12:36] = False
    assert np.array_equal(edited.pixels[far], source.pixels[far])


def test_dense_decoding_is_exact_inside_the_mask(sd2):
    latents, other = torch.randn(2, 1, 4, 16, 16)
    edit_mask = np.zeros((16, 16), bool)
    edit_mask[4:8, 4:8] = True
    changed = torch.where(torch.from_numpy(edit_mask), other, latents)
    source, whole = decode_picture(sd2.model, latents), decode_picture(sd2.model, changed)
    edited = decode_edit(sd2.model, changed, source, edit_mask, 1, "dense")
    assert np.array_equal(edited.pixels[16:32, 16:32], whole.pixels[16:32, 16:32])
    assert torch.equal(edited.statistics, whole.statistics)
