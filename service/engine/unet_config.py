"""The shape of a Stable Diffusion U-Net, as diffusers' config.json tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# What other diffusers U-Nets may ask for and this one does not do: it must have its neutral value.
_NEUTRAL = {
    "center_input_sample": False, "flip_sin_to_cos": True, "freq_shift": 0, "downsample_padding": 1,
    "mid_block_scale_factor": 1, "act_fn": "silu", "only_cross_attention": False, "dual_cross_attention": False,
    "class_embed_type": None, "num_class_embeds": None, "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False, "resnet_out_scale_factor": 1.0, "time_embedding_type": "positional",
    "time_embedding_dim": None, "time_embedding_act_fn": None, "timestep_post_act": None,
    "time_cond_proj_dim": None, "conv_in_kernel": 3, "conv_out_kernel": 3, "attention_type": "default",
    "class_embeddings_concat": False, "mid_block_only_cross_attention": None, "cross_attention_norm": None,
    "encoder_hid_dim": None, "encoder_hid_dim_type": None, "reverse_transformer_layers_per_block": None,
    "num_attention_heads": None,
}  # fmt: skip


@dataclass(frozen=True)
class UNetConfig:
    """The shape of the network; tuples have one entry for each resolution, highest first."""

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    num_layers: int
    num_heads: tuple[int, ...]
    num_transformer_layers: tuple[int, ...]  # 0 = no attention at this resolution
    num_mid_transformer_layers: int
    context_channels: int
    num_groups: int
    eps: float
    linear_projection: bool
    added_time_channels: int | None  # SDXL: size and crop are embedded with the pooled text
    added_channels: int | None

    @classmethod
    def from_diffusers(cls, config: Mapping[str, Any]) -> UNetConfig:
        """Reads `unet/config.json`; raises ValueError naming what is not supported."""
        for name, neutral in _NEUTRAL.items():
            if config.get(name, neutral) != neutral:
                raise ValueError(f"{name} must be {neutral!r}, got {config[name]!r}")
        if config.get("addition_embed_type") not in (None, "text_time"):
            raise ValueError(f"addition_embed_type must be None or 'text_time', got {config['addition_embed_type']!r}")
        mirrored = tuple(kind.replace("Up", "Down") for kind in reversed(config["up_block_types"]))
        if mirrored != tuple(config["down_block_types"]):
            raise ValueError(f"up_block_types must mirror down_block_types, got {config['up_block_types']}")
        channels = tuple(config["block_out_channels"])

        def each(value: int | Sequence[int]) -> tuple[int, ...]:
            return (value,) * len(channels) if isinstance(value, int) else tuple(value)

        layers = each(config.get("transformer_layers_per_block", 1))
        return cls(
            in_channels=config["in_channels"],
            out_channels=config["out_channels"],
            channels=channels,
            num_layers=config["layers_per_block"],
            num_heads=each(config["attention_head_dim"]),  # diffusers' name is wrong, and published so
            num_transformer_layers=tuple(
                n if kind.startswith("CrossAttn") else 0
                for n, kind in zip(layers, config["down_block_types"], strict=True)
            ),
            num_mid_transformer_layers=layers[-1] if config["mid_block_type"] == "UNetMidBlock2DCrossAttn" else 0,
            context_channels=config["cross_attention_dim"],
            num_groups=config["norm_num_groups"],
            eps=config["norm_eps"],
            linear_projection=config["use_linear_projection"],
            added_time_channels=config.get("addition_time_embed_dim"),
            added_channels=config.get("projection_class_embeddings_input_dim"),
        )
