"""Tiny networks of the three Stable Diffusion families, with random weights in which every branch matters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from service.engine.unet import UNet, UNetConfig
from sparse_ops.context import Activation, Context, Control, Watch
from sparse_ops.plan import Plan, active_positions, dense_plans, make_plans
from sparse_ops.positions import Capacity, Positions, exact

Blocks = tuple[int | None, ...]
Step = dict[str, Tensor]  # one step of one image: maps [H * W, C] and statistics [2, G]

_SD = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (16, 24, 32, 32), "norm_num_groups": 8, "cross_attention_dim": 20,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "sd1": _SD | {"attention_head_dim": 4},
    "sd2": _SD | {"attention_head_dim": (1, 2, 4, 4), "use_linear_projection": True, "upcast_attention": True},
    "sdxl": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (16, 24, 32), "norm_num_groups": 8, "cross_attention_dim": 20,
        "attention_head_dim": (2, 3, 4), "use_linear_projection": True, "transformer_layers_per_block": (1, 2, 3),
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 12 + 6 * 8,
    },
    "convolutions": {
        "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2,
        "mid_block_type": "UNetMidBlock2D", "block_out_channels": (8, 16), "layers_per_block": 1,
        "norm_num_groups": 4, "cross_attention_dim": 20,
    },
}  # fmt: skip


class MemoryWriter:
    """One step in memory; rows that are not written come from the parent recording."""

    def __init__(self, batch: int, parents: Sequence[Step] | None = None) -> None:
        self.images: list[Step] = [{} for _ in range(batch)]
        self.parents = parents

    def rows(self, key: str, level: int, values: Tensor, positions: Positions) -> None:
        del level
        for number, (image, part) in enumerate(zip(self.images, positions.images(), strict=True)):
            assert key not in image, f"{key} is kept twice"
            parent = values.new_empty(positions.per_image, values.shape[1])
            image[key] = parent if self.parents is None else self.parents[number][key].clone()
            image[key][positions.local(number)] = values[part]

    def statistics(self, key: str, values: Tensor) -> None:
        for image, value in zip(self.images, values, strict=True):
            assert key not in image, f"{key} is kept twice"
            image[key] = value


class MemoryReader:
    """Reads each image of a batch from its own step of its own recording."""

    def __init__(self, images: Sequence[Step]) -> None:
        self.images = images

    def rows(self, key: str, positions: Positions) -> Tensor:
        read = torch.cat([
            self.images[number][key].index_select(0, positions.local(number))
            for number, count in enumerate(positions.counts())
            if count
        ])  # fmt: skip
        return torch.cat([read, read.new_zeros(len(positions) - len(read), read.shape[1])])  # of padding anything

    def keys(self, key: str, plan: Plan) -> Tensor:
        known = next(image[key] for image in self.images if key in image)
        joined = known.new_zeros(len(plan.keys), known.shape[1])
        for number, (count, end) in enumerate(zip(plan.attended.counts(), plan.keys.offsets[1:], strict=True)):
            if count:
                joined[end - count : end] = self.images[number][key].index_select(0, plan.attended.local(number))
        return joined

    def statistics(self, key: str) -> Tensor:
        known = next(image[key] for image in self.images if key in image)
        return torch.stack([image.get(key, torch.full_like(known, torch.nan)) for image in self.images])


@dataclass
class Case:
    """One network twice, and what a batch of two images needs."""

    theirs: UNet2DConditionModel
    ours: UNet
    sample: Tensor
    timestep: Tensor
    text: Tensor
    added: tuple[Tensor, Tensor] | None

    @property
    def num_levels(self) -> int:
        return len(self.ours.cfg.channels)

    def inputs(self, images: slice = slice(None), **other: Any) -> dict[str, Any]:
        """Arguments of `ours` for some of the images, some of them replaced."""
        named = {"sample": self.sample, "timestep": self.timestep, "text": self.text, "added": self.added} | other
        added = named.pop("added")
        cut = {name: value[images] for name, value in named.items()}
        return cut | {"added": added and tuple(value[images] for value in added)}

    def reference(self, run: Callable[..., Any] | None = None, **other: Any) -> Tensor:
        """The prediction of diffusers, or what `run` makes of its arguments."""
        given = self.inputs(**other)
        kwargs = given["added"] and dict(zip(("text_embeds", "time_ids"), given["added"], strict=True))
        call = run or (lambda *args, **named: self.theirs(*args, **named).sample)
        return call(given["sample"], given["timestep"], given["text"], added_cond_kwargs=kwargs)

    def call(self, inputs: dict[str, Any], ctx: Context, unet: UNet | None = None) -> Tensor:
        """Our prediction for the arguments of `inputs`."""
        unet = unet or self.ours
        return unet(inputs["sample"], inputs["timestep"], unet.read(inputs["text"], inputs["added"]), ctx)

    def dense(self, images: slice = slice(None), controls: Sequence[Control | None] = (), **other: Any) -> Tensor:
        """Our dense prediction."""
        inputs = self.inputs(images, **other)
        batch, _, *size = inputs["sample"].shape
        return self.call(inputs, Context(dense_plans(batch, *size, self.num_levels), controls=controls))

    def record(self, *, keep_inputs: bool = True) -> tuple[Tensor, list[Step]]:
        """Our dense prediction, and a recording of every resolution for each image."""
        batch, _, *size = self.sample.shape
        writer = MemoryWriter(batch)
        ctx = Context(dense_plans(batch, *size, self.num_levels), writer=writer, keep_inputs=keep_inputs)
        return self.call(self.inputs(), ctx), writer.images

    def sparse(
        self,
        edit_mask: Tensor,
        recordings: Sequence[Step],
        *,
        blocks: Blocks | None = None,
        attend_recorded: bool = True,
        images: slice = slice(None),
        writer: MemoryWriter | None = None,
        controls: Sequence[Control | None] = (),
        watch: Watch | None = None,
        keep_inputs: bool = True,
        capacity: Capacity = exact,
        deep: Activation | None = None,
        keep_deep: Callable[[Activation], None] | None = None,
        **other: Any,
    ) -> Tensor:
        """Our sparse prediction; of the highest resolution alone where it is given what comes from below."""
        plans = make_plans(active_positions(edit_mask[images], self.num_levels, blocks), attend_recorded, capacity)
        plans = plans[:1] if deep else plans
        ctx = Context(
            plans, MemoryReader(recordings[images]), writer, controls, watch, keep_inputs, deep, keep_deep
        )  # fmt: skip
        return self.call(self.inputs(images, **other), ctx)

    def writer(self, parents: Sequence[Step] | None = None) -> MemoryWriter:
        """Keeps one step of both images."""
        return MemoryWriter(2, parents)

    def edited(self, edit_mask: Tensor) -> dict[str, Any]:
        """Another latent inside the masks, and another prompt."""
        sample = torch.where(edit_mask[:, None], torch.randn_like(self.sample), self.sample)
        added = self.added and (torch.randn_like(self.added[0]), self.added[1])
        return {"sample": sample, "text": torch.randn_like(self.text), "added": added}


@cache
def _build(family: str, height: int, width: int, in_channels: int) -> Case:
    torch.manual_seed(0)
    theirs = UNet2DConditionModel(**FAMILIES[family], in_channels=in_channels).eval().requires_grad_(False)
    for name, parameter in theirs.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5)  # unit gain
        else:
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
    ours = UNet(UNetConfig.from_diffusers(theirs.config)).eval().requires_grad_(False)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    added = (torch.randn(2, 12), torch.randn(2, 6)) if family == "sdxl" else None
    sample = torch.randn(2, in_channels, height, width)
    return Case(theirs, ours, sample, torch.tensor([701, 34]), torch.randn(2, 7, 20), added)


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    """One thread, for a busy machine; the same random numbers whichever tests run."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    return


@pytest.fixture
def build() -> Callable[..., Case]:
    """Makes a network of one family: "sd1", "sd2", "sdxl" or "convolutions" (no attention)."""
    return lambda family, height=24, width=32, in_channels=4: _build(family, height, width, in_channels)


@pytest.fixture(params=["sd1", "sd2", "sdxl"])
def case(request: pytest.FixtureRequest) -> Case:
    """One of the three families."""
    return _build(request.param, 24, 32, 4)


@pytest.fixture
def edit_mask() -> Tensor:
    """Two different fragmented masks for 24 x 32."""
    masks = torch.zeros(2, 24, 32, dtype=torch.bool)
    masks[0, 5:11, 7:12] = masks[0, 17, 29] = masks[0, 0, 0] = True
    masks[1, 3:20, 20:31] = masks[1, 23, 31] = True
    return masks
