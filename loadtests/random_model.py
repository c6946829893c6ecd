"""A model directory of a published size with random weights, where no checkpoint can be fetched: times are the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from loadtests.shapes import CONFIGS, NUM_TOKENS
from service.postcard.model import MODEL_DIRECTORY

VAE_CHANNELS = (128, 256, 512, 512)
TEXT_LAYERS = 23


def write_random_model(
    directory: Path,
    device: torch.device,
    config: Mapping[str, Any] = CONFIGS["sd2.1"],  # of the U-Net
    vae_channels: Sequence[int] = VAE_CHANNELS,
    text_layers: int = TEXT_LAYERS,
    seed: int = 0,
) -> None:
    """Stable Diffusion 2.1 in float16, with the tokenizer and the sampler's schedule of postcard."""
    tokenizer = CLIPTokenizer.from_pretrained(MODEL_DIRECTORY / "tokenizer", model_max_length=NUM_TOKENS)
    text_channels, groups = config["cross_attention_dim"], min(32, vae_channels[0] // 2)
    text = CLIPTextConfig(
        hidden_size=text_channels, intermediate_size=4 * text_channels, num_hidden_layers=text_layers,
        num_attention_heads=max(1, text_channels // 64), hidden_act="gelu", max_position_embeddings=NUM_TOKENS,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    vae = {
        "block_out_channels": tuple(vae_channels), "layers_per_block": 2, "latent_channels": 4,
        "norm_num_groups": groups, "down_block_types": ("DownEncoderBlock2D",) * len(vae_channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(vae_channels), "force_upcast": False,
    }  # fmt: skip
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float16)
    try:
        with device:
            parts = UNet2DConditionModel(**config), AutoencoderKL(**vae), CLIPTextModel(text)
    finally:
        torch.set_default_dtype(torch.float32)
    scheduler = DDIMScheduler.from_pretrained(MODEL_DIRECTORY, subfolder="scheduler")
    StableDiffusionPipeline(
        unet=parts[0], vae=parts[1], text_encoder=parts[2], tokenizer=tokenizer, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(directory)  # fmt: skip
    (directory / "retouch.json").write_text(json.dumps({"num_inference_steps": 50}), encoding="utf-8")
