"""All settings: one frozen tree, read once from the environment and passed on as values.

`RETOUCH_PORT=8001 retouch serve`. A name that does not exist is refused: a setting that is silently ignored is worse
than none. `.env.example` lists all of them.
"""

from __future__ import annotations

import difflib
import os
from ipaddress import ip_address
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import InputError

PREFIX = "RETOUCH_"

Port = Annotated[int, Field(ge=1, le=65535)]
Budget = NonNegativeInt | Literal["auto"]  # bytes


class Settings(BaseSettings):
    """What can be configured, and the defaults."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    host: str = Field(
        "127.0.0.1", description="address to listen on; another one than loopback's needs keys, or RETOUCH_OPEN"
    )
    port: int = Field(8000, ge=0, le=65535, description="0 = any free port")
    api_keys: str = Field("", description="NAME:SHA256,NAME:SHA256 of the keys that may be used, see `retouch key`")
    key_jobs: NonNegativeInt = Field(8, description="jobs of one key at a time; 0 = no limit")
    key_requests_per_minute: NonNegativeInt = Field(600, description="requests of one key; 0 = no limit")
    open: bool = Field(default=False, description="without keys: whoever reaches the port may use it")
    hosts: str = Field("", description="without keys: names by which it is reached, besides localhost; comma between")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    log_prompts: bool = Field(default=False, description="whether the line of a request has its prompts")
    metrics: Port | Literal["auto", "open", "off"] = Field(
        "auto",
        description="port of its own for /metrics; open = on the main one, for whoever reaches it; off; auto = open on"
        " loopback without keys, else off",
    )

    model: str = Field(
        "postcard", min_length=1, description="diffusers directory or hub id; postcard is the embedded model"
    )
    device: str = Field("auto", description="cpu, cuda, cuda:1 ...; auto = cuda if there is one")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="the model computes in it; auto = float16 on CUDA, float32 on the CPU"
    )
    threads: PositiveInt | Literal["auto"] = Field(
        "auto", description="of torch; auto = physical cores, at most 8, one CPU left free"
    )
    cache_bytes: Budget = Field(
        "auto", description="memory for recorded activations; auto = half of what is free, on CUDA at most 8 GiB"
    )
    core_bytes: PositiveInt = Field(
        2**30, description="memory for pictures and their latents, of which the least recently used are forgotten"
    )
    device_cache_bytes: Budget = Field(
        "auto", description="memory of a GPU for those that are read often; auto = a quarter of what is free"
    )
    graph_bytes: int = Field(
        4 * 2**30, ge=0, description="memory of a GPU for captured passes (CUDA graphs); 0 = launch by launch"
    )
    disk_path: str = Field("", description="directory for recordings, of this service alone; empty = none are kept")
    disk_bytes: Budget = Field("auto", description="disk space for recordings; auto = half of what is free")
    redis_url: str = Field("", description="redis://HOST:6379 of a Redis 8 that workers share; empty = it is alone")
    worker: str = Field("", pattern="^[^/]*$", description="its name among those; empty = host and port")
    embedding_model: str = Field(
        "",
        description="directory or hub id of a sentence-embedding model, whose cosines are then compared; empty = the"
        " model's own text",
    )
    min_similarity: float = Field(
        0.8, ge=-1, le=1, description="cosine of prompts from which on an edit without a source takes a recorded one"
    )
    max_changed_words: int = Field(4, ge=0, description="removed and added together, for the same")
    storage_dtype: Literal["float16", "float32", "int8", "fp8"] = Field(
        "float16", description="recorded activations are kept in it; the 8-bit ones with a scale for each 64 channels"
    )
    record: Literal["inputs", "keys_values", "none"] = Field(
        "inputs",
        description="of self-attention: its inputs, its keys and values (more memory, less work), or none: changed rows"
        " then see each other only, as in the paper",
    )
    attention_every: PositiveInt = Field(1, description="of so many steps one records it, which the others read, too")
    rows_every: PositiveInt = Field(1, description="the same of block outputs, around changed rows")

    running_jobs: PositiveInt = Field(8, description="jobs that share the device at a time")
    queue_jobs: int = Field(32, ge=0, description="jobs that may wait beyond those; more are refused with 429")
    step_images: PositiveInt = Field(16, description="images of one network call; guidance makes two of each picture")
    step_seconds: PositiveFloat = Field(
        300.0, description="a device whose step takes longer hangs: its jobs fail, and /healthz asks for a restart"
    )

    max_pixels: PositiveInt = Field(2**20, description="largest picture, width times height: a step is never cut short")
    body_bytes: PositiveInt = Field(8 * 2**20, description="largest request body")
    bodies_bytes: PositiveInt = Field(
        64 * 2**20, description="memory for the bodies of all requests that are not answered yet; more get 503"
    )
    body_seconds: PositiveFloat = Field(30.0, description="in which a body must come; slower ones are refused with 408")
    send_seconds: PositiveFloat = Field(
        30.0, description="for which a client may take nothing of its answer; then its job is cancelled"
    )
    idempotency_bytes: NonNegativeInt = Field(
        64 * 2**20, description="memory for answers to requests with an Idempotency-Key, which are kept for an hour"
    )
    max_deadline_seconds: NonNegativeFloat = Field(
        0.0, description="longest deadline of a job, and that of one whose request has none; 0 = no limit"
    )
    drain_seconds: float = Field(30.0, ge=0, description="how long running jobs may go on after SIGTERM")

    @property
    def model_options(self) -> dict[str, Any]:
        """How the model is opened, by the names of `open_model`."""
        own = self.model_dump(include={"device", "dtype", "storage_dtype", "record", "attention_every", "rows_every"})
        return {**own, "num_threads": self.num_threads}

    @property
    def has_open_metrics(self) -> bool:
        """Whether the main port answers /metrics, to whoever asks."""
        is_private = is_loopback(self.host) and not self.api_keys  # who has keys may stand behind a proxy
        return self.metrics == "open" or (self.metrics == "auto" and is_private)

    @property
    def num_threads(self) -> int | None:
        """Of torch; None is its own number."""
        return None if self.threads == "auto" else self.threads


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it; of a name other than localhost that is not known."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_settings(**flags: Any) -> Settings:
    """The environment's settings; `flags` that are not None win over it. InputError names a wrong one."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            raise InputError(name, f"there is no such setting{_hint(name.upper(), known)}")
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        shown = name if flags.get(name) is not None else PREFIX + name.upper()
        raise InputError(shown, f"{first['msg']}, got {first['input']!r}") from error


def _hint(name: str, known: set[str]) -> str:
    """The prefix is no likeness: without it, names that are only a little alike are not suggested."""
    short = {full.removeprefix(PREFIX): full for full in known}
    similar = difflib.get_close_matches(name.removeprefix(PREFIX), short, 1)
    return f"; did you mean {short[similar[0]]}?" if similar else f"; there are {', '.join(sorted(known))}"
