"""Weights from a diffusers folder: whole, sharded, or fp16; strictly, and channels last."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from service.engine.checkpoint import load_unet
from service.engine.unet import Conv3x3

NAME = "diffusion_pytorch_model"


def has_weights_in_place(unet, case):
    theirs = case.theirs.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in unet.state_dict().items())


def test_a_folder_that_diffusers_saved_loads_strictly(case, tmp_path):
    case.theirs.save_pretrained(tmp_path)
    unet = load_unet(tmp_path, torch.float32)
    assert not unet.training
    assert not any(parameter.requires_grad for parameter in unet.parameters())
    assert has_weights_in_place(unet, case)


def test_shards_are_joined(build, tmp_path):
    case = build("sd2")
    case.theirs.save_pretrained(tmp_path, max_shard_size="200KB")
    assert not (tmp_path / f"{NAME}.safetensors").exists()
    assert has_weights_in_place(load_unet(tmp_path, torch.float32), case)


@pytest.mark.parametrize("shard", ["10GB", "200KB"])
def test_the_fp16_variant_is_found(build, tmp_path, shard):
    case = build("sd2")
    case.theirs.save_pretrained(tmp_path, variant="fp16", max_shard_size=shard)
    assert has_weights_in_place(load_unet(tmp_path, torch.float32), case)


def test_full_precision_is_preferred_to_fp16(build, tmp_path):
    case = build("sd2")
    case.theirs.save_pretrained(tmp_path)
    save_file({}, tmp_path / f"{NAME}.fp16.safetensors")
    assert has_weights_in_place(load_unet(tmp_path, torch.float32), case)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolution_weights_lie_channels_last_and_stay_so(build, tmp_path, dtype):
    """So that the gather-GEMM reads them in place."""
    build("sd1").theirs.save_pretrained(tmp_path)
    for unet in (load_unet(tmp_path, dtype), load_unet(tmp_path, torch.float32).to(dtype)):
        weights = [module.weight for module in unet.modules() if isinstance(module, Conv3x3)]
        assert all(weight.dtype == dtype for weight in weights)
        assert all(weight.permute(0, 2, 3, 1).is_contiguous() for weight in weights)


def test_a_missing_weight_is_refused(build, tmp_path):
    build("sd1").theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / f"{NAME}.safetensors")
    del state["conv_in.weight"]
    save_file(state, tmp_path / f"{NAME}.safetensors")
    with pytest.raises(RuntimeError, match=r"conv_in\.weight"):
        load_unet(tmp_path, torch.float32)


def test_a_folder_without_weights_is_named(build, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(dict(build("sd1").theirs.config)))
    with pytest.raises(FileNotFoundError, match=rf"{NAME}\[\.fp16\]\.safetensors or its index, got {tmp_path}"):
        load_unet(tmp_path, torch.float32)
