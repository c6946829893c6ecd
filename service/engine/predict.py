"""The predictions of several jobs by one pass of the network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from service.engine.batch import Batch, Watching
from service.engine.call import Call
from service.engine.graphs import Graphs
from service.engine.read_text import ReadText
from service.engine.staging import Staging
from service.engine.unet import UNet
from service.engine.writing import BatchWriter
from sparse_ops.context import Context


@torch.no_grad()
def predict(
    unet: UNet, calls: Sequence[Call], graphs: Graphs | None = None
) -> list[Tensor]:  # [B, C, H, W], float32, for each call
    """By a captured pass where there is one, else launch by launch. ValueError where the calls' shapes differ."""
    batch = Batch.of(calls)
    noise = None if graphs is None else graphs.predict(unet, batch)
    if noise is None:
        noise = _predict(unet, batch)
    batch.hand_over()
    return list(torch.split(noise.float(), batch.num_images))


def _predict(unet: UNet, batch: Batch) -> Tensor:
    plans, writer = batch.plans, _writer(batch)
    context = Context(
        plans,
        batch.reader(plans),
        writer,
        batch.controls,
        Watching(batch.watched, lambda key, level, maps: batch.keep_maps(key, level, maps, plans)),
        keep_inputs=batch.format.keep_inputs,
        deep=batch.deep,
        keep_deep=batch.keep_deep if batch.keeps_deep else None,
    )
    noise: Tensor = unet(batch.sample, batch.timestep, ReadText.joined(batch.texts), context)
    if isinstance(writer, Staging):
        writer.send(batch.targets, batch.num_images, plans)
    return noise


def _writer(batch: Batch) -> BatchWriter | Staging | None:
    if batch.kept_in is None:
        return None
    if batch.sample.is_cuda:
        return Staging(batch.kept_in, batch.format.kind)
    return BatchWriter(batch.targets, batch.num_images)
