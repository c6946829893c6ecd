"""The U-Net of a published checkpoint: a diffusers `unet/` folder, loaded strictly."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from service.engine.unet import UNet, UNetConfig


def load_unet(directory: Path, dtype: torch.dtype) -> UNet:
    """The network of a diffusers `unet/` folder: config.json and safetensors, whole or in shards, full or fp16.

    Strict: raises ValueError for a config, RuntimeError for weights that do not fit, FileNotFoundError.
    """
    with torch.device("meta"):
        unet = UNet(UNetConfig.from_diffusers(json.loads((directory / "config.json").read_text())))
    state = {
        name: tensor.to(dtype, memory_format=torch.channels_last if tensor.ndim == 4 else torch.preserve_format)
        for file in weight_files(directory)
        for name, tensor in load_file(file).items()
    }
    unet.load_state_dict(state, strict=True, assign=True)
    return unet.eval().requires_grad_(requires_grad=False)


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a diffusers folder, full precision before fp16; raises FileNotFoundError."""
    stem = "diffusion_pytorch_model"
    endings = ("safetensors", "safetensors.index.json", "fp16.safetensors", "safetensors.index.fp16.json")
    found = [file for ending in endings if (file := directory / f"{stem}.{ending}").exists()]
    if not found:
        raise FileNotFoundError(f"directory must hold {stem}[.fp16].safetensors or its index, got {directory}")
    if found[0].suffix == ".safetensors":
        return found[:1]
    return [directory / shard for shard in sorted(set(json.loads(found[0].read_text())["weight_map"].values()))]
