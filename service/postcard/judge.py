"""The judge: a small classifier that names what a picture shows. It measures; nothing in the product uses it."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from service.postcard.model import MODEL_DIRECTORY
from service.postcard.pictures import decode, encode, pixels_of, scene_of
from service.postcard.scenes import ATTRIBUTES
from service.postcard.training import Budget, Training

JUDGE_NAME = "judge.safetensors"  # in the model directory
SIZE = 128  # pixels a side that the judge looks at
NUM_RECONSTRUCTIONS = 1536  # training pictures that it also sees as the VAE gives them back
RECONSTRUCTION_RATIO = 0.5
LARGEST_SHIFT = 12  # of 128 pixels: a thing counts wherever it stands


class Judge(nn.Module):
    """A multi-label CNN: float32 samples [N, 3, 128, 128] in -1..1 to logits [N, attributes], as in `ATTRIBUTES`."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _layer(3, 24, 2),
            _layer(24, 48, 2),
            _layer(48, 48, 1),
            _layer(48, 96, 2),
            _layer(96, 96, 1),
            _layer(96, 96, 2),
        )
        self.head = nn.Linear(2 * 96, len(ATTRIBUTES))

    def forward(self, samples: Tensor) -> Tensor:
        """Logits of the attributes."""
        features = self.features(samples)
        logits: Tensor = self.head(torch.cat([features.amax((2, 3)), features.mean((2, 3))], 1))
        return logits

    @torch.no_grad()
    def attributes_of(
        self,
        pixels: Tensor,  # uint8 [pictures, 3, 256, 256]
    ) -> list[frozenset[str]]:
        """What each picture shows, in the words of `ATTRIBUTES`."""
        present = torch.cat([self(_looked_at(some)) > 0 for some in torch.split(pixels, 64)])
        return [frozenset(name for name, seen in zip(ATTRIBUTES, row, strict=True) if seen) for row in present.tolist()]


def load_judge(path: Path = MODEL_DIRECTORY / JUDGE_NAME) -> Judge:
    """The trained judge, in float32, ready to be asked."""
    judge = Judge()
    judge.load_state_dict({name: weight.float() for name, weight in load_file(path).items()})
    return judge.eval()


def save_judge(judge: Judge, path: Path) -> None:
    """Writes the weights in fp16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.half().cpu().contiguous() for name, weight in judge.state_dict().items()}, path)
    path.chmod(0o644)  # safetensors writes for the owner alone


def train_judge(
    vae: AutoencoderKL, *, num_pictures: int, batch: int, learning_rate: float, budget: Budget, scratch: Path
) -> Judge:
    """A judge trained on rendered pictures and on what the VAE makes of them, shifted, mirrored, blurred and noisy."""
    device = vae.device
    sharp = torch.cat([_looked_at(pixels_of([number])) for number in range(num_pictures)]).half()
    soft = reconstructions(vae, min(NUM_RECONSTRUCTIONS, num_pictures), scratch / "reconstructions.pt")
    labels = attribute_labels([scene_of(number).attributes for number in range(num_pictures)])
    judge = Judge().to(device)

    def loss_of_batch() -> Tensor:
        num_soft = round(batch * RECONSTRUCTION_RATIO)
        of_sharp, of_soft = torch.randint(num_pictures, (batch - num_soft,)), torch.randint(len(soft), (num_soft,))
        samples = torch.cat([sharp[of_sharp], soft[of_soft]]).float().to(device)
        wanted = labels[torch.cat([of_sharp, of_soft])].to(device)
        return F.binary_cross_entropy_with_logits(judge(disturbed(samples)), wanted)

    checkpoint = scratch / "checkpoints" / "judge.pt"
    training = Training(judge, learning_rate=learning_rate, budget=budget, checkpoint=checkpoint)
    training.run(loss_of_batch)
    return judge


def reconstructions(vae: AutoencoderKL, num_pictures: int, cache: Path) -> Tensor:
    """Training pictures encoded and decoded, at the judge's size: float16 [pictures, 3, 128, 128]; computed once."""
    if not cache.exists():
        batches = [range(first, min(first + 16, num_pictures)) for first in range(0, num_pictures, 16)]
        decoded = [decode(vae, encode(vae, pixels_of(numbers).to(vae.device))).cpu() for numbers in batches]
        cache.parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.cat([_looked_at(pixels) for pixels in decoded]).half(), cache)
    loaded: Tensor = torch.load(cache)
    return loaded


def disturbed(
    samples: Tensor,  # [N, 3, H, W]
) -> Tensor:
    """The batch mirrored or not, shifted, sometimes blurred, sometimes noisy, a little brighter or darker."""
    mirror, blur, brightness, noise = torch.rand(4).tolist()
    top, left = torch.randint(2 * LARGEST_SHIFT + 1, (2,)).tolist()
    if mirror < 0.5:
        samples = samples.flip(3)
    padded = F.pad(samples, (LARGEST_SHIFT,) * 4, mode="replicate")
    samples = padded[:, :, top : top + samples.shape[2], left : left + samples.shape[3]]
    if blur < 0.3:
        samples = F.avg_pool2d(samples, 3, 1, 1, count_include_pad=False)
    noisy: Tensor = samples * (0.9 + 0.2 * brightness) + max(0.0, 0.16 * (noise - 0.5)) * torch.randn_like(samples)
    return noisy


def attribute_labels(shown: list[frozenset[str]]) -> Tensor:
    """Sets of attributes as float32 zeros and ones, [pictures, attributes]."""
    return torch.tensor([[float(name in attributes) for name in ATTRIBUTES] for attributes in shown])


def recall_and_specificity(
    judged: Sequence[frozenset[str]], shown: Sequence[frozenset[str]]
) -> tuple[dict[str, float], dict[str, float]]:
    """For each attribute that is shown at all, the ratio judged right: of pictures with it, and of those without."""
    recalls, specificities = {}, {}
    for name in sorted(frozenset().union(*shown), key=ATTRIBUTES.index):
        with_it = [name in seen for seen, true in zip(judged, shown, strict=True) if name in true]
        without = [name not in seen for seen, true in zip(judged, shown, strict=True) if name not in true]
        recalls[name], specificities[name] = sum(with_it) / len(with_it), sum(without) / len(without)
    return recalls, specificities


def _layer(num_in: int, num_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU(inplace=True)
    )


def _looked_at(pixels: Tensor) -> Tensor:
    samples: Tensor = F.interpolate(pixels.float() / 127.5 - 1, size=(SIZE, SIZE), mode="area")
    return samples
