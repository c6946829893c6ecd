"""The U-Net and the text encoder, trained together on cached latents: v-prediction, zero terminal SNR."""

from pathlib import Path

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from service.postcard.model import SCHEDULE, Postcard
from service.postcard.pictures import cached_latents, caption_ids
from service.postcard.tokenizer import token_ids
from service.postcard.training import Budget, Training

UNCONDITIONAL_RATIO = 0.1  # captions left out, for classifier-free guidance
LARGEST_WEIGHT_SNR = 5.0
LEAST_WEIGHT = 0.25  # at high noise it is decided where a thing stands and that there is one of it


def train_denoiser(
    postcard: Postcard, *, num_pictures: int, batch: int, learning_rate: float, budget: Budget, scratch: Path
) -> None:
    """Trains the U-Net and the text encoder in place; they end with their averaged weights.

    Latents are cached and checkpoints kept below `scratch`; with a checkpoint there, training goes on from it.
    """
    device = postcard.unet.device
    latents = cached_latents(postcard.vae, num_pictures, scratch / "latents").to(device, torch.float32)
    latents = latents * postcard.vae.config.scaling_factor
    ids = caption_ids(postcard.tokenizer, num_pictures).to(device)
    empty = torch.tensor(token_ids(postcard.tokenizer, [""]), device=device)
    noising = noising_schedule(device)

    def loss_of_batch() -> Tensor:
        chosen = torch.randint(num_pictures, (batch,), device=device)
        text = ids[chosen, torch.randint(ids.shape[1], (batch,), device=device)]
        text = torch.where(torch.rand(batch, 1, device=device) < UNCONDITIONAL_RATIO, empty, text)
        return denoising_loss(postcard, latents[chosen], text, noising)

    networks = nn.ModuleDict({"unet": postcard.unet, "text_encoder": postcard.text_encoder})
    training = Training(
        networks, learning_rate=learning_rate, budget=budget, checkpoint=scratch / "checkpoints" / "denoiser.pt"
    )
    training.run(loss_of_batch)
    training.use_average()


def denoising_loss(
    postcard: Postcard,
    latents: Tensor,  # [N, 4, H, W], scaled
    text: Tensor,  # [N, tokens] ids
    noising: DDPMScheduler,
) -> Tensor:
    """Mean squared error of v at random timesteps, weighted by min(SNR, 5) (Hang et al., 2023) with a least weight."""
    device = latents.device
    timesteps = torch.randint(noising.config.num_train_timesteps, (len(latents),), device=device)
    noise = torch.randn_like(latents)
    noisy = noising.add_noise(latents, noise, timesteps).contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        predicted = postcard.unet(noisy, timesteps, postcard.text_encoder(text)[0]).sample
    error = (predicted.float() - noising.get_velocity(latents, noise, timesteps)).square().mean((1, 2, 3))
    alphas = noising.alphas_cumprod.to(device)[timesteps]
    snr = alphas / (1 - alphas)
    weight = (snr.clamp(max=LARGEST_WEIGHT_SNR) / (snr + 1)).clamp(min=LEAST_WEIGHT)
    loss: Tensor = (weight * error).mean() / weight.mean()
    return loss


def noising_schedule(device: torch.device) -> DDPMScheduler:
    """The schedule that the sampler's configuration (`model.SCHEDULE`) undoes."""
    schedule = DDPMScheduler(**SCHEDULE)
    schedule.alphas_cumprod = schedule.alphas_cumprod.to(device)
    return schedule
