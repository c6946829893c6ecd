"""The model directory: five parts in diffusers' layout, made new, loaded for training, written for use."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from service.postcard.scenes import WORDS
from service.postcard.tokenizer import MAX_LENGTH, write_tokenizer

MODEL_DIRECTORY = Path(__file__).parent / "model"
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "clip_sample": False,
    "steps_offset": 1,
}
DEFAULTS = {"num_inference_steps": 20, "guidance_scale": 4.0, "guidance_rescale": 0.5, "words": list(WORDS)}


@dataclass(frozen=True)
class Widths:
    """Channels of the networks at their resolutions."""

    vae: tuple[int, int, int, int] = (24, 48, 96, 128)
    unet: tuple[int, int, int] = (64, 128, 192)
    head: int = 64
    text: int = 128


@dataclass(frozen=True)
class Postcard:
    """The parts that are trained, float32, and the tokenizer."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL

    def to(self, device: torch.device) -> "Postcard":
        """The same parts, moved to `device`, convolutions channels last."""
        self.text_encoder.to(device)
        self.unet.to(device, memory_format=torch.channels_last)
        self.vae.to(device, memory_format=torch.channels_last)
        return self


def new_postcard(directory: Path, widths: Widths) -> Postcard:
    """Untrained parts; the tokenizer's files are written below `directory` and loaded from there."""
    write_tokenizer(directory / "tokenizer", WORDS)
    tokenizer = CLIPTokenizer.from_pretrained(directory / "tokenizer")
    return Postcard(tokenizer, _new_text_encoder(tokenizer, widths), _new_unet(widths), _new_vae(widths))


def load_postcard(directory: Path) -> Postcard:
    """The parts of a model directory, in float32 whatever they are stored as."""
    return Postcard(
        CLIPTokenizer.from_pretrained(directory / "tokenizer"),
        CLIPTextModel.from_pretrained(directory / "text_encoder", dtype=torch.float32),
        UNet2DConditionModel.from_pretrained(directory / "unet", dtype=torch.float32),
        AutoencoderKL.from_pretrained(directory / "vae", dtype=torch.float32),
    )


def save_postcard(postcard: Postcard, directory: Path) -> None:
    """Writes a directory that `StableDiffusionPipeline.from_pretrained` loads.

    The U-Net and the VAE are written in fp16. The text encoder stays float32: diffusers loads its own parts as float32
    unless told otherwise, transformers loads a part as it is stored, and the two must agree.
    """
    unet, vae = (
        copy.deepcopy(part).half().to("cpu", memory_format=torch.contiguous_format)
        for part in (postcard.unet, postcard.vae)
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=copy.deepcopy(postcard.text_encoder).cpu(),
        tokenizer=postcard.tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULE, timestep_spacing="trailing"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(directory)
    write_tokenizer(directory / "tokenizer", WORDS)  # diffusers writes it as one tokenizer.json only
    (directory / "retouch.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n", encoding="utf-8")
    for path in directory.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes for the owner alone


def _new_text_encoder(tokenizer: CLIPTokenizer, widths: Widths) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=widths.text,
            intermediate_size=4 * widths.text,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            hidden_act="gelu",
        )
    )


def _new_unet(widths: Widths) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=widths.unet,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=widths.text,
        attention_head_dim=tuple(width // widths.head for width in widths.unet),
        use_linear_projection=True,
        norm_num_groups=16,
    )


def _new_vae(widths: Widths) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=widths.vae,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=256,
    )
