"""A Stable Diffusion checkpoint, loaded: our U-Net, and diffusers' and transformers' own for all else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import AutoencoderKL

from service.engine.recording import Format
from service.engine.unet import UNet, load_unet
from service.errors import InputError

EMBEDDED = Path(__file__).parent.parent / "postcard" / "model"
_FILES = ["*.json", "*.txt", "*.safetensors"]  # what a snapshot of a hub repository needs; never pickles


@dataclass(frozen=True)
class Defaults:
    """What a checkpoint draws best with; `retouch.json` beside its `model_index.json` may say it."""

    width: int  # pixels
    height: int  # pixels
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    guidance_rescale: float = 0.0
    words: tuple[str, ...] = ()  # all words it knows; empty = not told


@dataclass(frozen=True, eq=False)
class Model:
    """Everything that draws. Nothing in it changes while it is used."""

    name: str
    fingerprint: str  # digest of its files: recordings of another model never match
    unet: UNet
    vae: Any  # AutoencoderKL
    tokenizers: tuple[Any, ...]  # one, for XL two
    text_encoders: tuple[Any, ...]
    sampler_config: Mapping[str, Any]
    index: Mapping[str, Any]  # model_index.json
    defaults: Defaults
    device: torch.device
    dtype: torch.dtype
    format: Format  # of its recordings

    @property
    def latent_scale(self) -> int:
        """Pixels of one latent position, in each direction."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def num_levels(self) -> int:
        """Resolutions of the U-Net."""
        return len(self.unet.cfg.channels)


def load_model(
    source: str | Path = EMBEDDED,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    form: Format | None = None,
) -> Model:
    """Loads a diffusers directory, or fetches a hub repository first. InputError says what is missing or unknown."""
    directory = find_model(source)
    index = _json(directory / "model_index.json")
    names = [name for name in ("", "_2") if f"text_encoder{name}" in index]
    return Model(
        name=directory.name if Path(source).is_dir() else str(source),
        fingerprint=_fingerprint(directory),
        unet=_unet(directory, dtype).to(device),
        vae=AutoencoderKL.from_pretrained(directory / "vae", torch_dtype=dtype).to(device).eval().requires_grad_(False),
        tokenizers=tuple(transformers.CLIPTokenizer.from_pretrained(directory / f"tokenizer{name}") for name in names),
        text_encoders=tuple(
            getattr(transformers, index[f"text_encoder{name}"][1])
            .from_pretrained(directory / f"text_encoder{name}", dtype=dtype)
            .to(device)
            .eval()
            .requires_grad_(False)
            for name in names
        ),
        sampler_config=_json(directory / "scheduler" / "scheduler_config.json"),
        index=index,
        defaults=_defaults(directory),
        device=torch.device(device),
        dtype=dtype,
        format=form or Format(),
    )


def find_model(source: str | Path) -> Path:
    """The directory of a model; a hub repository is fetched first. InputError where there is neither."""
    path = Path(source)
    if path.is_dir():
        return path
    if path.is_absolute() or str(source).startswith("."):
        raise InputError("model", f"there is no directory {str(source)!r}")
    from huggingface_hub import snapshot_download  # noqa: PLC0415  # only for those who name a hub repository
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(str(source), allow_patterns=_FILES))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError("model", f"{str(source)!r} is no directory here, and the hub says: {error}") from error


def _unet(directory: Path, dtype: torch.dtype) -> UNet:
    try:
        return load_unet(directory / "unet", dtype).eval().requires_grad_(False)
    except ValueError as error:
        raise InputError("model", f"{directory.name!r} has a U-Net that is not supported: {error}") from error


def _defaults(directory: Path) -> Defaults:
    scale = 2 ** (len(_json(directory / "vae" / "config.json")["block_out_channels"]) - 1)
    sample_size = _json(directory / "unet" / "config.json")["sample_size"]
    height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
    own = directory / "retouch.json"
    told = _json(own) if own.is_file() else {}
    return Defaults(
        **{"width": width * scale, "height": height * scale} | told | {"words": tuple(told.get("words", ()))}
    )


def _fingerprint(directory: Path) -> str:
    """Small files whole; of weights the first MiB (it has the header) and the size."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.suffix in {".json", ".txt", ".safetensors"}:
            digest.update(f"{path.relative_to(directory)} {path.stat().st_size}".encode())
            with path.open("rb") as file:
                digest.update(file.read(1 << 20))
    return digest.hexdigest()[:16]


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError("model", f"a diffusers directory is needed: {path.parent.name}/{path.name} is missing")
    read: dict[str, Any] = json.loads(path.read_text())
    return read
