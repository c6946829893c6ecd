"""What a generation keeps of itself, step by step.

    plane            a row is                      columns
    rows.L           a position of resolution L    block outputs and conv1 outputs, before norm and SiLU
    attention.L      a position of resolution L    inputs of self-attention (or keys and values)
    prediction       a latent position             what the U-Net predicted, float32
    statistics       an image                      mean and variance of every group norm, float32
    maps.L           a position of resolution L    cross-attention maps of the conditional image, first steps only
    scales:rows.L    as rows.L                     of rows in 8 bits: a scale for each 64 channels; attention.L likewise

Both guidance branches are images of their own: a plane's rows are branch after branch. Which columns there are is not
written down anywhere: the network runs once on the meta device and a writer notes what it is given.

Of n steps in a row a plane may be kept once, of the one in the middle, which the others read:

    attention_every = 3    step     0  1  2  3  4  5  6
                           kept        0        1     2      `keeps`; of the last steps at least one
                           reads    0  0  0  1  1  1  2      `place`

Statistics and predictions are small, and are kept of each step. Approximate: what is read is up to n / 2 steps off.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from math import ceil
from typing import Literal

import torch
from torch import Tensor

from cache_store.layout import Layout, Plane
from cache_store.store import Recording
from service.engine.unet import UNet
from sparse_ops.context import Context
from sparse_ops.plan import dense_plans
from sparse_ops.positions import Positions
from sparse_ops.quantise import BLOCK, Kind

Storage = Literal["float32", "float16", "int8", "fp8"]

MAX_MAP_POSITIONS = 48 * 48  # cross-attention maps of higher resolutions are many bytes and say no more
FORMAT = "format"  # what the blob is called that says it
SCALES = "scales:"  # what the plane of a quantised plane's scales is called by


@dataclass(frozen=True)
class Column:
    """One tensor that the network keeps at each step."""

    plane: str
    key: str
    width: int
    num_rows: int  # of one image


@dataclass(frozen=True)
class Format:
    """How recordings are kept."""

    storage: Storage = "float16"  # of activations; statistics and predictions stay float32, maps half or single
    keep_inputs: bool = True  # of self-attention its inputs, projected again when read; False: keys and values
    keep_attention: bool = True  # False: neither; edits then attend to the rows that they compute only
    attention_every: int = 1  # of so many steps one keeps self-attention's
    rows_every: int = 1  # of so many steps one keeps block and conv1 outputs

    def __post_init__(self) -> None:
        """ValueError for steps that nobody can count."""
        for name in ("attention_every", "rows_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def kind(self) -> Kind | None:
        """How activations are quantised; None where they are not."""
        return "int8" if self.storage == "int8" else "fp8" if self.storage == "fp8" else None

    @property
    def dtype(self) -> torch.dtype:
        """Of what is not quantised."""
        return torch.float32 if self.storage == "float32" else torch.float16

    def every(self, plane: str) -> int:
        """Of so many steps in a row one keeps this plane."""
        return {"attention": self.attention_every, "rows": self.rows_every}.get(_kind_of(plane), 1)

    def place(self, plane: str, step: int) -> int:
        """Where the rows of a plane that a step reads lie among those kept."""
        return step // self.every(plane)

    def keeps(self, plane: str, step: int, num_steps: int) -> bool:
        """Whether they are the step's own: it is the middle one of those that read them."""
        every = self.every(plane)
        return step == min(self.place(plane, step) * every + every // 2, num_steps - 1)

    @property
    def told(self) -> bytes:
        """What a recording says of how it is kept."""
        return json.dumps(asdict(self), sort_keys=True).encode()


@cache
def _kind_of(plane: str) -> str:
    """What is kept in a plane, or what its scales are of."""
    return plane.removeprefix(SCALES).partition(".")[0]


@lru_cache(maxsize=32)
def columns_of(unet: UNet, height: int, width: int, num_tokens: int, keep_inputs: bool) -> tuple[Column, ...]:  # noqa: FBT001  # a cache wants plain arguments
    """All columns of one step for latents of this size: the network's own word, from a run on the meta device."""
    cfg = unet.cfg
    plans = [plan.to("meta") for plan in dense_plans(1, height, width, len(cfg.channels))]
    scribe = _Scribe(len(plans))
    context = Context(plans, writer=scribe, watch=scribe, keep_inputs=keep_inputs)
    with torch.device("meta"), torch.no_grad():
        added = None
        if cfg.added_channels and cfg.added_time_channels:
            added = (torch.empty(1, cfg.added_channels - 6 * cfg.added_time_channels), torch.empty(1, 6))
        sample, text = torch.empty(1, cfg.in_channels, height, width), torch.empty(1, num_tokens, cfg.context_channels)
        unet = UNet(cfg)
        unet(sample, torch.empty(1), unet.read(text, added), context)
    return tuple(scribe.columns.values())


class _Scribe:
    """A writer, and a watch, that only note what they are given."""

    def __init__(self, num_levels: int) -> None:
        self.levels = tuple(range(num_levels))
        self.columns: dict[str, Column] = {}

    def rows(self, key: str, level: int, values: Tensor, positions: Positions) -> None:
        kind = "attention" if key.endswith("attn1") else "rows"
        plane = "prediction" if key == "noise" else f"{kind}.{level}"
        self.columns[key] = Column(plane, key, values.shape[1], positions.per_image)

    def statistics(self, key: str, values: Tensor) -> None:
        self.columns[key] = Column("statistics", key, values[0].numel(), 1)

    def __call__(self, key: str, level: int, maps: Tensor) -> None:
        self.columns[key] = Column(f"maps.{level}", key, maps[0].numel(), len(maps))


def layout_of(columns: Sequence[Column], form: Format, num_steps: int, num_map_steps: int, num_branches: int) -> Layout:
    """The planes of a recording of so many steps."""
    planes: dict[str, Plane] = {}
    for name in dict.fromkeys(column.plane for column in columns):
        own = [column for column in columns if column.plane == name]
        is_map = name.startswith("maps")
        if is_map and (own[0].num_rows > MAX_MAP_POSITIONS or not num_map_steps):
            continue
        if name.startswith("attention") and not form.keep_attention:
            continue
        widths = {column.key: column.width for column in own}
        num_kept = ceil(num_steps / form.every(name))
        if form.kind and name.startswith(("rows", "attention")):
            planes[name] = Plane.of(own[0].num_rows * num_branches, widths, torch.uint8, num_kept)
            num_scales = {key: ceil(width / BLOCK) for key, width in widths.items()}
            planes[SCALES + name] = Plane.of(own[0].num_rows * num_branches, num_scales, torch.float16, num_kept)
            continue
        planes[name] = Plane.of(
            num_rows=own[0].num_rows * (1 if is_map else num_branches),
            widths=widths,
            dtype=torch.float32 if name in {"prediction", "statistics"} else form.dtype,
            num_steps=num_map_steps if is_map else num_kept,
        )
    return planes


def is_readable(recording: Recording, form: Format) -> bool:
    """Whether a recording has rows, kept in this format: under other settings its bytes would mean something else."""
    return recording.activations is not None and recording.blob(FORMAT) == form.told


def words_level(columns: Sequence[Column]) -> int:
    """Where attention tells best what a word drew: the second of the resolutions of at most 48 x 48, or the lowest.

    At the highest one it is diffuse (Prompt-to-Prompt looks at 16 x 16 of 64 x 64 latents, too).
    """
    maps = {int(c.plane.removeprefix("maps.")): c.num_rows for c in columns if c.plane.startswith("maps.")}
    small = [level for level in sorted(maps) if maps[level] <= MAX_MAP_POSITIONS]
    return small[:2][-1] if small else max(maps)


def kept_positions(layout: Layout, active: Sequence[Tensor]) -> dict[str, Tensor | None]:  # bool [branches, H, W] each
    """Which rows of each plane an edit keeps: those that it computes. None is all."""
    kept: dict[str, Tensor | None] = {}
    for name in layout:
        kind, _, level = name.removeprefix(SCALES).partition(".")
        if kind in {"rows", "attention", "prediction"}:
            computed = active[int(level or 0)]
            kept[name] = None if bool(computed.all()) else computed.flatten().nonzero().squeeze(1)
    return kept


def planes_of(layout: Layout) -> dict[str, tuple[str, slice]]:
    """Where each key lies: its plane, and its columns there."""
    own = {name: plane for name, plane in layout.items() if not name.startswith(SCALES)}
    return {key: (name, columns) for name, plane in own.items() for key, columns in plane.columns.items()}
