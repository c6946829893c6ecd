"""The model that a worker draws with, found and opened."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal

import torch
import transformers

from service.engine.recording import Format, Storage
from service.engine.weights import EMBEDDED, Model, find_model, load_model
from service.errors import InputError

log = logging.getLogger(__name__)

MAX_DEFAULT_THREADS = 8  # more do not pay for small networks, and disturb the neighbours


def open_model(
    source: str,
    *,
    device: str = "auto",
    num_threads: int | None = None,
    dtype: str = "auto",
    storage_dtype: Storage = "float16",
    record: Literal["inputs", "keys_values", "none"] = "inputs",
    attention_every: int = 1,
    rows_every: int = 1,
    max_pixels: int | None = None,
) -> Model:
    """Load a model onto a device. InputError where there is no such device, or the model is not whole.

    `source` is a diffusers directory, a hub id, or `postcard`, the embedded model. `device` is torch's name or `auto`
    (CUDA if there is one). `num_threads` None is torch's own number, the physical cores or OMP_NUM_THREADS, but at
    most 8, and one CPU is left free. `dtype`, torch's name, is what the model computes in; `auto` is float16 on CUDA,
    else float32. `storage_dtype` is what recordings are kept in, `record` what they keep of self-attention,
    `attention_every` and `rows_every` of how many steps one keeps it and the rows. `max_pixels` bounds the pictures
    that may be asked for.
    """
    place = find_device(device)
    if dtype == "auto":
        dtype = "float16" if place.type == "cuda" else "float32"
    form = Format(storage_dtype, record != "keys_values", record != "none", attention_every, rows_every)
    transformers.utils.logging.disable_progress_bar()  # weights load in a second, and logs stay
    torch.set_num_threads(num_threads or _default_threads())
    model = load_model(_source(source), place, getattr(torch, dtype), form, max_pixels)
    if place.type == "cuda" and model.without_kernels:
        log.warning("%s computes with plain torch operators: %s", place, model.without_kernels)
    return model


def check_model(source: str, device: str) -> None:
    """InputError where there is no such model, or no such device; a hub repository is fetched."""
    find_device(device)
    find_model(_source(source))


def find_device(name: str) -> torch.device:
    """The device of this name; `auto` is CUDA if there is one. InputError where there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in {"cpu", "cuda"}:
        raise InputError("device", f"must be auto, cpu, cuda or cuda:NUMBER, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError("device", f"there is no {name!r} here: torch sees {torch.cuda.device_count()} CUDA devices")
    return device if device.type == "cpu" else torch.device("cuda", device.index or 0)  # one name for one device


def _default_threads() -> int:
    """One CPU stays free: threads meet after every operator, so if one has to wait for a CPU all crawl (10 times)."""
    return max(1, min(MAX_DEFAULT_THREADS, torch.get_num_threads(), (os.cpu_count() or 1) - 1))


def _source(source: str) -> str | Path:
    return EMBEDDED if source == "postcard" else source
