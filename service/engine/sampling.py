"""How a picture is drawn step by step: settings, first noise, sampler, guidance."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from service.engine.weights import Model
from service.errors import ConflictError, InputError
from service.jobs import SAMPLERS, Sampler, Sampling, SamplingRequest

FREE_BESIDE_A_SOURCE = {"guidance_scale", "negative_prompt"}  # all else is the source's: its latents are compared with


def resolve(model: Model, request: SamplingRequest) -> Sampling:
    """The user's settings, completed by the model's own. InputError names a value that cannot be."""
    defaults = model.defaults
    complete: dict[str, Any] = {
        "seed": 0,
        "num_inference_steps": defaults.num_inference_steps,
        "guidance_scale": defaults.guidance_scale,
        "sampler": "ddim",
        "width": defaults.width,
        "height": defaults.height,
        "negative_prompt": "",
    }
    sampling = _sampling(complete | request.given())
    _check(model, sampling)
    return sampling


def beside(source: Sampling, request: SamplingRequest) -> Sampling:
    """The settings of an edit: the source's, but for what may differ. ConflictError names what differs and may not."""
    for name, value in request.given().items():
        own = getattr(source, name)
        if name not in FREE_BESIDE_A_SOURCE and value != own:
            raise ConflictError(name, f"is the source's, {own!r}; {value!r} was given beside it")
    edited = _sampling(asdict(source) | request.given())
    if num_branches(edited) != num_branches(source):
        raise ConflictError(
            "guidance_scale", f"must stay {'above' if source.guidance_scale > 1 else 'at most'} 1 like the source's"
        )
    return edited


def _sampling(named: dict[str, Any]) -> Sampling:
    return Sampling(**named | {"guidance_scale": float(named["guidance_scale"])})  # 7 and 7.0 are one image


def num_branches(sampling: Sampling) -> int:
    """U-Net images of one picture: with guidance the unconditional one comes first."""
    return 2 if sampling.guidance_scale > 1 else 1


def _check(model: Model, sampling: Sampling) -> None:
    if sampling.num_inference_steps < 1:
        raise InputError("num_inference_steps", f"must be at least 1, got {sampling.num_inference_steps}")
    if sampling.num_inference_steps > (most := int(model.sampler_config["num_train_timesteps"])):
        raise InputError("num_inference_steps", f"must be at most {most}, got {sampling.num_inference_steps}")
    if sampling.sampler not in SAMPLERS:
        raise InputError("sampler", f"must be one of {', '.join(SAMPLERS)}, got {sampling.sampler!r}")
    for name in ("width", "height"):
        size = getattr(sampling, name)
        if size < model.latent_scale or size % model.latent_scale:
            raise InputError(name, f"must be a positive multiple of {model.latent_scale}, got {size}")
    if model.max_pixels is not None and sampling.width * sampling.height > model.max_pixels:
        asked = f"{sampling.width}x{sampling.height}"
        raise InputError("width", f"times height must be at most {model.max_pixels} pixels here, got {asked}")


def first_latents(model: Model, sampling: Sampling) -> Tensor:  # [1, 4, h, w], float32
    """Noise of the seed, the same on every device."""
    scale = model.latent_scale
    shape = (1, model.vae.config.latent_channels, sampling.height // scale, sampling.width // scale)
    return torch.randn(shape, generator=torch.Generator().manual_seed(sampling.seed)).to(model.device)


@torch.no_grad()
def constant_channels(model: Model, latents: Tensor) -> Tensor | None:  # [1, 4 or 5, h, w]
    """What U-Nets of more input channels get beside the latents, when they draw from a prompt alone.

    9 (in-painting): everything is masked, and the masked picture is grey. 8 (InstructPix2Pix): no picture, zeros.
    """
    missing = model.unet.cfg.in_channels - latents.shape[1]
    if missing == 0:
        return None
    blank = torch.zeros_like(latents)
    if missing == latents.shape[1]:
        return blank
    if missing != latents.shape[1] + 1:
        raise InputError("model", f"a U-Net of {model.unet.cfg.in_channels} input channels is not supported")
    scale = model.latent_scale
    grey = latents.new_zeros(1, 3, latents.shape[2] * scale, latents.shape[3] * scale)
    masked = model.vae.encode(grey.to(model.vae.dtype)).latent_dist.mean.float() * model.vae.config.scaling_factor
    return torch.cat([blank[:, :1] + 1, masked], 1)


def make_sampler(model: Model, name: Sampler, num_inference_steps: int) -> Any:
    """A fresh sampler for one job: diffusers' DDIM, or DPM-Solver++ (2M, second order)."""
    if name == "ddim":
        # where the checkpoint's own sampler knows no clipping, DDIM's default would clip latents to -1 .. 1
        sampler = DDIMScheduler.from_config({"clip_sample": False, **model.sampler_config})
    else:
        sampler = DPMSolverMultistepScheduler.from_config(
            model.sampler_config, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint"
        )
    sampler.set_timesteps(num_inference_steps)  # on the host, as its coefficients: a step then waits for no device
    return sampler


def guide(prediction: Tensor, scale: float, rescale: float) -> Tensor:  # [B, C, H, W] -> [1, C, H, W]
    """Classifier-free guidance of (unconditional, conditional); `rescale` pulls it to the conditional's deviation.

    Rescaling: "Common Diffusion Noise Schedules and Sample Steps are Flawed", section 3.4.
    """
    if len(prediction) == 1:
        return prediction
    unconditional, conditional = prediction.chunk(2)
    guided = unconditional + scale * (conditional - unconditional)
    if not rescale:
        return guided
    return rescale * guided * (conditional.std() / guided.std()) + (1 - rescale) * guided


def predicted_original(sampler: Any, prediction: Tensor, timestep: Tensor, latents: Tensor) -> Tensor:
    """x0 as the model sees it at this step (the formula of the sampler's prediction type)."""
    alpha: Tensor = sampler.alphas_cumprod[int(timestep)].to(latents)
    kind = sampler.config.prediction_type
    if kind == "v_prediction":
        return alpha.sqrt() * latents - (1 - alpha).sqrt() * prediction
    return (latents - (1 - alpha).sqrt() * prediction) / alpha.sqrt() if kind == "epsilon" else prediction
