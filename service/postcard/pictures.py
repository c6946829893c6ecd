"""Numbered pictures: what number i shows is fixed by i alone, so a data set is nothing but a range of numbers."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from service.postcard.drawing import render
from service.postcard.scenes import Scene, caption, sample_scene, with_strange_word
from service.postcard.tokenizer import token_ids

CAPTIONS_PER_PICTURE = 4
STRANGE_WORD_RATIO = 0.1  # captions that hold a word unknown to the model
ENCODE_BATCH = 16
PICTURES_PER_FILE = 1000


def scene_of(number: int, *, held_out: bool = False) -> Scene:
    """The scene of picture `number`, of the training set or of the held-out one."""
    return sample_scene(_rng(number, held_out), held_out=held_out)


def picture_of(number: int, *, held_out: bool = False) -> np.ndarray:
    """Picture `number`: uint8 [256, 256, 3]."""
    rng = _rng(number, held_out)
    return np.asarray(render(sample_scene(rng, held_out=held_out), rng))


def captions_of(number: int) -> list[str]:
    """Captions of training picture `number`, a few of them with a strange word in them."""
    rng = random.Random(f"captions {number}")
    texts = [caption(scene_of(number), rng) for _ in range(CAPTIONS_PER_PICTURE)]
    return [with_strange_word(text, rng) if rng.random() < STRANGE_WORD_RATIO else text for text in texts]


def pixels_of(numbers: Sequence[int], *, held_out: bool = False) -> Tensor:
    """These pictures as uint8 [pictures, 3, 256, 256]."""
    stacked = np.stack([picture_of(number, held_out=held_out) for number in numbers])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


def to_samples(pixels: Tensor) -> Tensor:
    """uint8 pixels as the VAE takes them: float32 in -1..1, channels last."""
    return (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def to_pixels(samples: Tensor) -> Tensor:
    """What the VAE gave, as uint8 pixels."""
    return ((samples.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Means of the latents, unscaled, float32 [pictures, 4, 32, 32], on the pixels' device."""
    batches = torch.split(pixels, ENCODE_BATCH)
    return torch.cat([vae.encode(to_samples(batch)).latent_dist.mean.float() for batch in batches])


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """uint8 pixels [pictures, 3, 256, 256] of unscaled latents."""
    return torch.cat([to_pixels(vae.decode(batch).sample) for batch in torch.split(latents, ENCODE_BATCH)])


def cached_latents(vae: AutoencoderKL, num_pictures: int, cache: Path) -> Tensor:
    """Unscaled latents of the training pictures, float16 [pictures, 4, 32, 32]; computed once."""
    cache.mkdir(parents=True, exist_ok=True)
    parts = []
    for first in range(0, num_pictures, PICTURES_PER_FILE):
        numbers = range(first, min(first + PICTURES_PER_FILE, num_pictures))
        path = cache / f"latents-{numbers.start}-{numbers.stop}.pt"
        if not path.exists():
            batches = [numbers[i : i + ENCODE_BATCH] for i in range(0, len(numbers), ENCODE_BATCH)]
            latents = [encode(vae, pixels_of(batch).to(vae.device)).half().cpu() for batch in batches]
            partial = path.with_suffix(".tmp")
            torch.save(torch.cat(latents), partial)
            partial.replace(path)
        parts.append(torch.load(path))
    return torch.cat(parts)


def caption_ids(tokenizer: CLIPTokenizer, num_pictures: int) -> Tensor:
    """Token ids of the training pictures' captions: int64 [pictures, CAPTIONS_PER_PICTURE, tokens]."""
    captions = [text for number in range(num_pictures) for text in captions_of(number)]
    return torch.tensor(token_ids(tokenizer, captions)).view(num_pictures, CAPTIONS_PER_PICTURE, -1)


def _rng(number: int, held_out: bool) -> random.Random:  # noqa: FBT001  # private; named at every public edge
    return random.Random(f"{'held-out' if held_out else 'training'} {number}")
