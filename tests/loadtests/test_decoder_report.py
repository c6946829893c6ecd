"""The decoder's count of multiplications is that of a run."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from loadtests import decoder
from loadtests.shapes import synthetic_masks
from service.engine.decoder import decode, decode_rows


def test_multiplications_are_those_of_a_run(monkeypatch):
    monkeypatch.setattr(decoder, "SCALE", 4)
    vae = decoder.AutoencoderKL(
        block_out_channels=(8, 8, 16), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, mid_block_add_attention=False,  # torch does not count it on a CPU
    )  # fmt: skip
    latents, mask = torch.randn(1, 4, 12, 12), synthetic_masks(12)["mask_15"]
    with FlopCounterMode(display=False) as whole:
        statistics = decode(vae, latents).statistics
    everything = torch.ones(12, 12, dtype=torch.bool)
    assert decoder.count(vae, decoder.rows_of(vae, everything, 0), 144) == whole.get_total_flops() // 2
    needed = mask.repeat_interleave(4, 0).repeat_interleave(4, 1)
    with FlopCounterMode(display=False) as sparse:
        decode_rows(vae, latents, needed, statistics)
    assert decoder.count(vae, decoder.rows_of(vae, mask, 0), 144) == sparse.get_total_flops() // 2


def test_the_published_decoder_is_as_large_as_it_is_known_to_be():
    """2877 GMAC at 768 pixels, of which the latent's own resolution takes 314, and its upsampling 87."""
    vae, size = decoder.published(), 96
    rows = decoder.rows_of(vae, torch.ones(size, size, dtype=torch.bool), 0)
    assert decoder.count(vae, rows, size**2) // 10**9 == 2877
    assert decoder.count(vae, [0] * len(rows), size**2) // 10**9 == 314


def test_less_is_multiplied_for_smaller_masks():
    result = decoder.measure(synthetic_masks(16), 16, 1)
    assert list(result["sparse_gmac"].values()) == sorted(result["sparse_gmac"].values())
    assert max(result["sparse_gmac"].values()) < result["dense_gmac"]


def test_rows_of_small_squares_are_timed_beside_a_dense_decode():
    result = decoder.measure_seconds(num_rounds=1)
    assert list(result["ratios"]) == [0.04, 0.1, 0.19, 0.32, 0.39, 0.47, 0.66]
    assert result["conditions"]["threads"] == 1
