"""What a generation keeps of itself, step by step, and how an edit reads it.

    plane            a row is                      columns
    rows.L           a position of resolution L    block outputs and conv1 outputs, before norm and SiLU
    attention.L      a position of resolution L    inputs of self-attention (or keys and values)
    prediction       a latent position             what the U-Net predicted, float32
    statistics       an image                      mean and variance of every group norm, float32
    maps.L           a position of resolution L    cross-attention maps of the conditional image, first steps only
    scales:rows.L    as rows.L                     of rows in 8 bits: a scale for each 64 channels; attention.L likewise

Both guidance branches are images of their own: a plane's rows are branch after branch. Which columns there are is not
written down anywhere: the network runs once on the meta device and a writer notes what it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from math import ceil
from typing import Literal

import torch
from torch import Tensor

from cache_store.layout import Layout, Plane
from cache_store.store import Draft, Recording
from service.engine.unet import UNet
from sparse_ops.context import Context
from sparse_ops.plan import Plan, Positions, dense_plans
from sparse_ops.quantise import BLOCK, Kind, dequantise, quantise

Storage = Literal["float32", "float16", "int8", "fp8"]
VALUES: dict[Kind, torch.dtype] = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}

MAX_MAP_POSITIONS = 48 * 48  # cross-attention maps of higher resolutions are many bytes and say no more
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

    @property
    def kind(self) -> Kind | None:
        """How activations are quantised; None where they are not."""
        return "int8" if self.storage == "int8" else "fp8" if self.storage == "fp8" else None

    @property
    def dtype(self) -> torch.dtype:
        """Of what is not quantised."""
        return torch.float32 if self.storage == "float32" else torch.float16


@lru_cache(maxsize=32)
def columns_of(unet: UNet, height: int, width: int, num_tokens: int, keep_inputs: bool) -> tuple[Column, ...]:  # noqa: FBT001  # a cache wants plain arguments
    """All columns of one step for latents of this size: the network's own word, from a run on the meta device."""
    cfg = unet.cfg
    plans = [plan.to("meta") for plan in dense_plans(1, height, width, len(cfg.channels))]
    scribe = _Scribe()
    context = Context(plans, writer=scribe, controls=(scribe,), keep_inputs=keep_inputs)
    with torch.device("meta"), torch.no_grad():
        added = None
        if cfg.added_channels and cfg.added_time_channels:
            added = (torch.empty(1, cfg.added_channels - 6 * cfg.added_time_channels), torch.empty(1, 6))
        sample, text = torch.empty(1, cfg.in_channels, height, width), torch.empty(1, num_tokens, cfg.context_channels)
        unet = UNet(cfg)
        unet(sample, torch.empty(1), unet.read(text, added), context)
    return tuple(scribe.columns.values())


class _Scribe:
    """A writer, and a control, that only note what they are given."""

    def __init__(self) -> None:
        self.columns: dict[str, Column] = {}

    def rows(self, key: str, level: int, values: Tensor, positions: Positions) -> None:
        kind = "attention" if key.endswith("attn1") else "rows"
        plane = "prediction" if key == "noise" else f"{kind}.{level}"
        self.columns[key] = Column(plane, key, values.shape[1], positions.per_image)

    def statistics(self, key: str, values: Tensor) -> None:
        self.columns[key] = Column("statistics", key, values[0].numel(), 1)

    def __call__(self, key: str, level: int, maps: Tensor, positions: Tensor) -> Tensor:
        self.columns[key] = Column(f"maps.{level}", key, maps.shape[0] * maps.shape[2], len(positions))
        return maps


def layout_of(columns: Sequence[Column], form: Format, num_steps: int, num_map_steps: int, num_branches: int) -> Layout:
    """The planes of a recording of so many steps."""
    planes: dict[str, Plane] = {}
    for name in dict.fromkeys(column.plane for column in columns):
        own = [column for column in columns if column.plane == name]
        is_map = name.startswith("maps")
        if is_map and own[0].num_rows > MAX_MAP_POSITIONS:
            continue
        widths = {column.key: column.width for column in own}
        if form.kind and name.startswith(("rows", "attention")):
            planes[name] = Plane.of(own[0].num_rows * num_branches, widths, torch.uint8, num_steps)
            num_scales = {key: ceil(width / BLOCK) for key, width in widths.items()}
            planes[SCALES + name] = Plane.of(own[0].num_rows * num_branches, num_scales, torch.float16, num_steps)
            continue
        planes[name] = Plane.of(
            num_rows=own[0].num_rows * (1 if is_map else num_branches),
            widths=widths,
            dtype=torch.float32 if name in {"prediction", "statistics"} else form.dtype,
            num_steps=num_map_steps if is_map else num_steps,
        )
    return planes


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


@dataclass(eq=False)
class Source:
    """One step of an open recording, as a reader wants it; counts what is read of it."""

    recording: Recording
    step: int
    num_bytes: int = 0

    def rows(self, plane: str, positions: Tensor, key: str | None = None) -> Tensor:
        """Recorded rows [N, width]; see `Recording.rows`."""
        rows = self.recording.rows(self.step, plane, positions, key)
        self.num_bytes += rows.numel() * rows.element_size()
        return rows

    def floats(self, plane: str, positions: Tensor, key: str | None, kind: Kind | None, dtype: torch.dtype) -> Tensor:
        """The same as numbers: quantised rows are scaled back."""
        rows = self.rows(plane, positions, key)
        layout = self.recording.activations.layout if self.recording.activations else {}
        if kind is None or SCALES + plane not in layout:
            return rows.to(dtype)
        scales = self.rows(SCALES + plane, positions, key)
        values = rows.view(VALUES[kind])
        widths = [layout[plane].width_of(one) for one in ([key] if key else layout[plane].columns)]
        if not any(width % BLOCK for width in widths[:-1]):  # blocks of the row are blocks of its tensors
            return dequantise(values, scales, dtype)
        of_values = torch.split(values, widths, 1)
        of_scales = torch.split(scales, [ceil(width / BLOCK) for width in widths], 1)
        parts = zip(of_values, of_scales, strict=True)
        return torch.cat([dequantise(part, its_scales, dtype) for part, its_scales in parts], 1)


@dataclass(frozen=True, eq=False)
class Target:
    """One step of a draft, as a writer wants it."""

    draft: Draft
    step: int

    def keep(self, plane: str, key: str, rows: Tensor, kind: Kind | None) -> None:
        """One tensor's rows, quantised where the plane has scales."""
        layout = self.draft.activations.layout if self.draft.activations else {}
        if kind is None or SCALES + plane not in layout:
            self.draft.write(self.step, plane, key, rows)
            return
        values, scales = quantise(rows, kind)
        self.draft.write(self.step, plane, key, values.view(torch.uint8))
        self.draft.write(self.step, SCALES + plane, key, scales)


class BatchReader:
    """Reads each image of a batch from its own step of its own recording.

    Halo rows and attention rows of a resolution are gathered once for all their columns; the network then gets views.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        sources: Sequence[Source | None],
        num_images: Sequence[int],
        like: Tensor,  # its dtype and device are the network's
        kind: Kind | None = None,  # how recordings are quantised
    ) -> None:
        self._sources = sources
        self._spans = list(pairwise(accumulate(num_images, initial=0)))
        self._like = like
        self._kind = kind
        self._whole = {id(positions) for plan in plans for positions in (plan.halo, plan.attended, plan.rest)}
        self._planes = _planes([source.recording for source in sources if source])
        self._gathered: dict[tuple[str, int], Tensor] = {}

    def rows(self, key: str, positions: Positions) -> Tensor:
        """Recorded rows [M, C] of one tensor."""
        plane, columns = self._planes[key]
        if id(positions) not in self._whole:
            return self._gather(plane, positions, key)
        if (plane, id(positions)) not in self._gathered:
            self._gathered[plane, id(positions)] = self._gather(plane, positions, None)
        return self._gathered[plane, id(positions)][:, columns]

    def statistics(self, key: str, image: int) -> Tensor:
        """Recorded mean and variance [2, G] of one norm of one image."""
        call = next(number for number, (begin, end) in enumerate(self._spans) if begin <= image < end)
        if ("statistics", call) not in self._gathered:
            begin, end = self._spans[call]
            rows = self._read(call, "statistics", torch.arange(end - begin), None)
            self._gathered["statistics", call] = rows.to(self._like.device)
        rows = self._gathered["statistics", call][image - self._spans[call][0], self._planes[key][1]]
        return rows.view(2, -1)

    def _gather(self, plane: str, positions: Positions, key: str | None) -> Tensor:
        parts = []
        for call, (begin, end) in enumerate(self._spans):
            first, last = positions.offsets[begin], positions.offsets[end]
            if first < last:
                local = positions.index[first:last].cpu().long() - begin * positions.per_image
                parts.append(self._read(call, plane, local, key))
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(self._like)

    def _read(self, call: int, plane: str, positions: Tensor, key: str | None) -> Tensor:
        source = self._sources[call]
        if source is None:
            raise ValueError(f"call {call} of the batch is sparse, but has no recording to read from")
        dtype = torch.float32 if plane == "statistics" else self._like.dtype
        return source.floats(plane, positions, key, self._kind, dtype)


class BatchWriter:
    """Keeps what each image of a batch computes in its own step of its own draft."""

    def __init__(self, targets: Sequence[Target | None], num_images: Sequence[int], kind: Kind | None = None) -> None:
        self._kind = kind
        spans = pairwise(accumulate(num_images, initial=0))
        self._targets = [
            (target, span) for target, span in zip(targets, spans, strict=True) if target and target.draft.activations
        ]
        self._planes = {id(target): _planes_of(target.draft.activations.layout) for target, _ in self._targets}  # type: ignore[union-attr]  # they have some

    def rows(self, key: str, level: int, values: Tensor, positions: Positions) -> None:  # noqa: ARG002  # the key tells the level
        """Keeps fresh rows [N, C]."""
        for target, (begin, end) in self._targets:
            part = values[positions.offsets[begin] : positions.offsets[end]]
            target.keep(self._planes[id(target)][key][0], key, part, self._kind)

    def statistics(self, key: str, values: Tensor) -> None:
        """Keeps mean and variance [B, 2, G]."""
        for target, (begin, end) in self._targets:
            target.draft.write(target.step, "statistics", key, values[begin:end].flatten(1))


def _planes(recordings: Sequence[Recording]) -> Mapping[str, tuple[str, slice]]:
    """Where each key lies; all recordings of a batch are of one model and format."""
    activations = next((recording.activations for recording in recordings if recording.activations), None)
    return _planes_of(activations.layout) if activations else {}


def _planes_of(layout: Layout) -> dict[str, tuple[str, slice]]:
    own = {name: plane for name, plane in layout.items() if not name.startswith(SCALES)}
    return {key: (name, columns) for name, plane in own.items() for key, columns in plane.columns.items()}
