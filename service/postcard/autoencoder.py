"""The VAE: both halves on crops, then its decoder alone on whole pictures."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from service.postcard.pictures import encode, pixels_of, to_samples
from service.postcard.training import Budget, Training

CROP = 64  # pixels a side
KL_WEIGHT = 1e-6
DECODER_NOISE = 0.02  # of unscaled latents: the decoder also meets latents that no encoder made


def train_autoencoder(
    vae: AutoencoderKL, *, num_pictures: int, batch: int, learning_rate: float, budget: Budget, scratch: Path
) -> None:
    """Trains both halves on crops, in place, and sets the scaling factor that gives latents a unit deviation."""
    pixels = pixels_of(range(num_pictures))

    def loss_of_batch() -> Tensor:
        samples = to_samples(random_crops(pixels, batch).to(vae.device))
        with torch.autocast(vae.device.type, torch.bfloat16, enabled=vae.device.type == "cuda"):
            posterior = vae.encode(samples).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        loss: Tensor = reconstruction_loss(decoded.float(), samples) + KL_WEIGHT * posterior.kl().mean()
        return loss

    checkpoint = scratch / "checkpoints" / "autoencoder.pt"
    training = Training(vae, learning_rate=learning_rate, budget=budget, checkpoint=checkpoint)
    training.run(loss_of_batch)
    training.use_average()
    latents = encode(vae, pixels[:256].to(vae.device))
    vae.register_to_config(scaling_factor=1 / latents.std().item())


def train_decoder(
    vae: AutoencoderKL, *, num_pictures: int, batch: int, learning_rate: float, budget: Budget, scratch: Path
) -> None:
    """Trains the decoder alone on whole pictures, in place; latents stay as they are.

    Group norms over a crop are not those over a picture, and it is whole pictures that are decoded in use.
    """
    pixels = pixels_of(range(num_pictures))
    latents = torch.cat([encode(vae, some.to(vae.device)).cpu() for some in torch.split(pixels, 64)])
    vae.encoder.requires_grad_(requires_grad=False)
    vae.quant_conv.requires_grad_(requires_grad=False)

    def loss_of_batch() -> Tensor:
        chosen = torch.randint(num_pictures, (batch,))
        noisy = latents[chosen] + DECODER_NOISE * torch.randn_like(latents[chosen])
        with torch.autocast(vae.device.type, torch.bfloat16, enabled=vae.device.type == "cuda"):
            decoded = vae.decode(noisy.to(vae.device, memory_format=torch.channels_last)).sample
        return reconstruction_loss(decoded.float(), to_samples(pixels[chosen].to(vae.device)))

    checkpoint = scratch / "checkpoints" / "decoder.pt"
    training = Training(vae, learning_rate=learning_rate, budget=budget, checkpoint=checkpoint)
    training.run(loss_of_batch)
    training.use_average()
    vae.requires_grad_(requires_grad=True)


def reconstruction_loss(
    decoded: Tensor,  # [N, 3, H, W]
    samples: Tensor,  # [N, 3, H, W]
) -> Tensor:
    """Absolute and squared error, and the absolute error of both gradients: edges are all that flat pictures have."""
    error = decoded - samples
    gradients = error.diff(dim=3).abs().mean() + error.diff(dim=2).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + 0.5 * gradients


def random_crops(
    pixels: Tensor,  # [pictures, 3, H, W]
    batch: int,
) -> Tensor:
    """`batch` squares of `CROP` pixels, each from a random place of a random picture."""
    limit_y, limit_x = pixels.shape[2] - CROP + 1, pixels.shape[3] - CROP + 1
    places = zip(
        torch.randint(len(pixels), (batch,)).tolist(),
        torch.randint(limit_y, (batch,)).tolist(),
        torch.randint(limit_x, (batch,)).tolist(),
        strict=True,
    )
    return torch.stack([pixels[i, :, y : y + CROP, x : x + CROP] for i, y, x in places])
