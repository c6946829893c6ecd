"""Cases of what comes out of a recording and goes into one: rows gathered, from device or host, and rows in 8 bits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

from loadtests.kernels.case import Case, Output, Wire
from loadtests.kernels.scene import Scene
from sparse_ops import cuda
from sparse_ops.launch import why_not
from sparse_ops.positions import Positions
from sparse_ops.quantise import BLOCK, VALUES, Kind, dequantise, quantise

TENSORS_OF_HALO, TENSORS_OF_ATTENTION = 13, 5  # as wide as the network, side by side, at the highest resolution


def of_mask(scene: Scene) -> Iterator[Case]:
    """What a step reads, and what it keeps."""
    wires: tuple[Wire, ...] = ("memory", "pinned") if scene.device.type == "cuda" else ("memory",)
    kinds: tuple[Kind | None, ...] = (None, "int8", "fp8")
    for kind, wire, role in product(kinds, wires, ("halo", "rest")):
        yield gather(scene, role, kind, wire)
    yield from (quantisation(scene, kind) for kind in ("int8", "fp8"))


def gather(scene: Scene, role: str, kind: Kind | None, wire: Wire) -> Case:
    """What a step reads of its recording at the highest resolution: all tensors of each position, side by side."""
    plan = scene.plans[0]
    tensors = TENSORS_OF_HALO if role == "halo" else TENSORS_OF_ATTENTION
    width = -(-scene.widths.channels * tensors // BLOCK) * BLOCK
    positions: Positions = plan.halo if role == "halo" else plan.rest
    source, scales = scene.random(2 * plan.height * plan.width, width), None
    if kind is not None:
        source, scales = quantise(source, kind)
    if wire == "pinned":
        source, scales = _pinned(source), None if scales is None else _pinned(scales)
    held = source, scales  # where it is read from
    on_device = source.to(scene.device), None if scales is None else scales.to(scene.device)
    out = torch.empty(len(positions), width, dtype=scene.dtype, device=scene.device)

    def by_torch() -> Tensor:
        rows = _selected(on_device[0], positions.index)
        if on_device[1] is None:
            return rows
        return dequantise(rows, _selected(on_device[1], positions.index), scene.dtype)

    def ours() -> Tensor:
        if why_not(scene.device) is not None:
            return by_torch()
        cuda.gather_rows(held[0], positions.index, slice(0, width), held[1], out)
        return out

    stored = held[0][:1].nbytes + (0 if held[1] is None else held[1][:1].nbytes)  # of a row
    written = 0 if wire == "pinned" else out.nbytes
    target = torch.empty_like(on_device[0])
    where = "the device" if wire == "memory" else "pinned"
    return Case(
        "gather_rows" + ("" if kind is None else f" {kind}"),
        f"{scene.name}, {len(positions)} {role} rows of {width} channels, from {where}",
        ours,
        by_torch,
        lambda: target.copy_(held[0], non_blocking=True),
        num_bytes=len(positions) * stored + written,
        wire=wire,
        is_exact=True,
    )


def quantisation(scene: Scene, kind: Kind) -> Case:
    """What a recorded edit keeps of its own rows."""
    rows = scene.random(len(scene.plans[0].rows), scene.widths.channels)
    values = torch.empty_like(rows, dtype=VALUES[kind])
    scales = torch.empty(len(rows), -(-rows.shape[1] // BLOCK), dtype=torch.float16, device=scene.device)

    def ours() -> Output:
        if why_not(scene.device) is not None:
            return quantise(rows, kind)
        cuda.quantise_rows(rows, values, scales)
        return values, scales

    return Case(
        f"quantise_rows {kind}",
        f"{scene.name}, {len(rows)} rows of {rows.shape[1]} channels",
        ours,
        lambda: quantise(rows, kind),
        lambda: quantise(rows, kind),
        num_bytes=rows.nbytes + values.nbytes + scales.nbytes,
        is_exact=True,
    )


def _pinned(rows: Tensor) -> Tensor:
    return rows.cpu().view(torch.uint8).pin_memory().view(rows.dtype)


def _selected(rows: Tensor, index: Tensor) -> Tensor:
    """Rows by their index: as bytes, since not every type can be selected from."""
    return rows.view(torch.uint8).index_select(0, index).view(rows.dtype)
