"""A Stable Diffusion checkpoint, loaded: our U-Net, and diffusers' and transformers' own for all else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
import transformers
from diffusers import AutoencoderKL

from service.engine.checkpoint import load_unet
from service.engine.decoder import check_decoder
from service.engine.recording import Format
from service.engine.unet import UNet
from service.errors import InputError
from sparse_ops.launch import DTYPES, why_not

EMBEDDED = Path(__file__).parent.parent / "postcard" / "model"
SMALL_BYTES = 256 << 20  # of a model whose files are all hashed whole
_FOLDERS = ("unet", "vae", "text_encoder*", "tokenizer*", "scheduler")
_SUFFIXES = (".json", ".txt", ".safetensors")  # never pickles
FETCHED = ["model_index.json", "retouch.json", *(f"{folder}/*{end}" for folder in _FOLDERS for end in _SUFFIXES)]


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
    max_pixels: int | None = None  # of a picture; None: as many as fit into memory

    @property
    def latent_scale(self) -> int:
        """Pixels of one latent position, in each direction."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def without_kernels(self) -> str | None:
        """Why our kernels do not compute it, but plain torch; None where they do."""
        if self.dtype not in DTYPES:
            return f"kernels compute in float16 and bfloat16, not in {str(self.dtype).removeprefix('torch.')}"
        return why_not(self.device)

    @property
    def num_levels(self) -> int:
        """Resolutions of the U-Net."""
        return len(self.unet.cfg.channels)


def load_model(
    source: str | Path = EMBEDDED,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    form: Format | None = None,
    max_pixels: int | None = None,
) -> Model:
    """Loads a diffusers directory, or fetches a hub repository first. InputError says what is missing or unknown."""
    directory = find_model(source)
    index = _json(directory / "model_index.json")
    encoders = _encoder_classes(index)
    defaults = _defaults(directory)
    with _part(directory, "unet") as folder:
        unet = load_unet(folder, dtype)
    with _part(directory, "vae") as folder:
        vae = AutoencoderKL.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)
        check_decoder(vae)
        # XL's overflows in float16. Its pipeline alone asks for it: the key's default is true, and most configs omit it
        if len(encoders) > 1 and vae.config.force_upcast and dtype is torch.float16:
            vae = vae.float()
    tokenizers, text_encoders = [], []
    for suffix, name in encoders.items():
        with _part(directory, f"tokenizer{suffix}", "tokenizer.json", "vocab.json") as folder:
            tokenizers.append(transformers.CLIPTokenizer.from_pretrained(folder))
        with _part(directory, f"text_encoder{suffix}") as folder:
            text_encoders.append(getattr(transformers, name).from_pretrained(folder, dtype=dtype, use_safetensors=True))
    return Model(
        name=_name(source, directory),
        fingerprint=_fingerprint(directory),
        unet=unet.to(device).eval().requires_grad_(False),
        vae=vae.to(device, memory_format=torch.channels_last).eval().requires_grad_(False),
        tokenizers=tuple(tokenizers),
        text_encoders=tuple(encoder.to(device).eval().requires_grad_(False) for encoder in text_encoders),
        sampler_config=_json(directory / "scheduler" / "scheduler_config.json"),
        index=index,
        defaults=defaults,
        device=torch.device(device),
        dtype=dtype,
        format=form or Format(),
        max_pixels=max_pixels,
    )


def _name(source: str | Path, directory: Path) -> str:
    """What people call it."""
    if directory == EMBEDDED:
        return "postcard"
    return directory.name if Path(source).is_dir() else str(source)


def find_model(source: str | Path, field: str = "model", fetched: Sequence[str] = FETCHED) -> Path:
    """The directory of a model; of a hub repository what is `fetched` first. InputError where there is neither.

    `field` is what the one who named it calls it.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if path.is_absolute() or str(source).startswith("."):
        raise InputError(field, f"there is no directory {str(source)!r}")
    from huggingface_hub import snapshot_download  # noqa: PLC0415  # only for those who name a hub repository
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(str(source), allow_patterns=list(fetched), ignore_patterns=["*non_ema*"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(field, f"there is no directory {str(source)!r}; the hub says: {_line(error)}") from error


@contextmanager
def _part(directory: Path, name: str, *either: str) -> Iterator[Path]:
    """A folder of the model, while it is read; InputError names it and what is wrong in it.

    It must hold one of `either`: transformers makes a tokenizer of nothing where the files are missing.
    """
    folder = directory / name
    if not folder.is_dir():
        raise InputError("model", f"a diffusers directory is needed: {directory.name}/{name} is missing")
    if either and not any((folder / file).is_file() for file in either):
        raise InputError("model", f"{directory.name}/{name} must hold {' or '.join(either)}")
    try:
        yield folder
    except Exception as error:  # torch, safetensors, diffusers and transformers each raise their own
        raise InputError("model", f"{directory.name}/{name} cannot be read: {_line(error)}") from error


def _encoder_classes(index: Mapping[str, Any]) -> dict[str, str]:
    """The class of each text encoder, by its suffix; a part that a model has not is null."""
    parts = {suffix: index.get(f"text_encoder{suffix}") for suffix in ("", "_2")}
    named = {suffix: part[1] for suffix, part in parts.items() if isinstance(part, list) and len(part) == 2 and part[1]}
    if not named:
        raise InputError("model", "model_index.json names no text_encoder")
    return named


def _defaults(directory: Path) -> Defaults:
    channels = _entry(directory / "vae" / "config.json", "block_out_channels")
    scale = 2 ** (len(channels) - 1)
    sample_size = _entry(directory / "unet" / "config.json", "sample_size")
    height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
    own = directory / "retouch.json"
    told = _json(own) if own.is_file() else {}
    known = {field.name for field in fields(Defaults)}
    if unknown := sorted(set(told) - known):
        raise InputError(
            "model", f"retouch.json must hold some of {', '.join(sorted(known))}, got {', '.join(unknown)}"
        )
    return Defaults(
        **{"width": width * scale, "height": height * scale} | told | {"words": tuple(told.get("words", ()))}
    )


def _fingerprint(directory: Path) -> str:
    """Of all files, whole if they are less than 256 MiB together.

    Of the files of a larger model the sizes and the first MiB, which has the header and some weights: two models that
    differ only beyond it count as one.
    """
    files = [path for path in sorted(directory.rglob("*")) if path.suffix in _SUFFIXES]
    sizes = [path.stat().st_size for path in files]
    num_bytes = -1 if sum(sizes) < SMALL_BYTES else 1 << 20  # -1 = all
    digest = hashlib.sha256()
    for path, size in zip(files, sizes, strict=True):
        digest.update(f"{path.relative_to(directory)} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(num_bytes))
    return digest.hexdigest()[:16]


def _entry(path: Path, key: str) -> Any:
    config = _json(path)
    if key not in config:
        raise InputError("model", f"{path.parent.name}/{path.name} must say {key}")
    return config[key]


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError("model", f"a diffusers directory is needed: {path.parent.name}/{path.name} is missing")
    try:
        read = json.loads(path.read_text())
    except ValueError as error:
        raise InputError("model", f"{path.parent.name}/{path.name} is no JSON: {_line(error)}") from error
    if not isinstance(read, dict):
        raise InputError("model", f"{path.parent.name}/{path.name} must be a JSON object, got {shorten(str(read), 80)}")
    return read


def _line(error: Exception) -> str:
    """What another library says, as one line."""
    return shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")
