# mypy: disable-error-code="no-any-return"
"""The U-Net of Stable Diffusion 1.x, 2.x and XL on rows, with diffusers' parameter names.

It runs in the order of the data and asks its context (`sparse_ops/context.py`) what to compute and what to read.
Every activation is rows [N, C], channels last; a dense resolution is one whose rows are all positions.
Modules have no mode and no state; they are for inference, and work in place. (To mypy, calling one gives Any.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.engine.read_text import ReadText
from service.engine.unet_config import UNetConfig
from sparse_ops import ops
from sparse_ops.context import Activation, Context

__all__ = ["UNet", "UNetConfig"]
Child = TypeVar("Child", bound=nn.Module)


def children(modules: Iterable[Child]) -> Sequence[Child]:
    """An nn.ModuleList, typed by what it holds."""
    return cast("Sequence[Child]", nn.ModuleList(modules))


class GroupNorm(nn.GroupNorm):
    """Group norm, which the context answers as a scale and a shift."""

    path: str


class Conv1x1(nn.Conv2d):
    """A linear layer whose published weight is [O, C, 1, 1]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [N, C] -> [N, O]."""
        return F.linear(rows, self.weight.flatten(1), self.bias)


class Conv3x3(nn.Conv2d):
    """3x3 convolution of activations side by side, after group norm and SiLU where a norm is given."""

    path: str
    bias: nn.Parameter

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 3, stride, 1)

    def forward(  # type: ignore[override]  # rows, not images
        self,
        rows: Tensor,  # [N, C], the values of `inputs` side by side
        inputs: Sequence[Activation],
        norm: GroupNorm,
        ctx: Context,
        *,
        embedding: Tensor | None = None,  # [B, O], added to each image's outputs
        residual: Tensor | None = None,  # [N, O], added
    ) -> Tensor:  # [N, O]
        """The stride-1 convolution; the resampling ones belong to their modules below."""
        level = inputs[0].level
        plan = ctx.plans[level]
        normed = ctx.norm(norm.path, norm, rows, level)
        if plan.same is None:
            activated = F.silu(ops.normalise(rows, normed, plan.rows), inplace=True)
            return ops.conv3x3_dense(
                activated, plan.size, self.weight, self.bias, embedding=embedding, residual=residual
            )  # fmt: skip
        return ops.conv3x3(
            rows, ctx.recorded(inputs, plan.halo), plan.same, self.weight, self.bias,
            norm=normed, images=(plan.rows, plan.halo), embedding=embedding, residual=residual,
        )  # fmt: skip


class Downsample(nn.Module):
    """To the next lower resolution; low rows that the computed rows do not reach are read."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv3x3(channels, channels, stride=2)

    def forward(self, x: Activation, ctx: Context) -> Activation:
        """Rows of one resolution -> rows of the next lower one."""
        plan, weights = ctx.plans[x.level], (self.conv.weight, self.conv.bias)
        if plan.down is None:
            values = ops.conv3x3_dense(x.values, plan.size, *weights, stride=2)
            low = Activation(values, self.conv.path, x.level + 1)
        else:
            values = ops.conv3x3(x.values, ctx.recorded([x], plan.halo), plan.down.neighbors, *weights)
            low = Activation(values, self.conv.path, x.level + 1)
            if len(plan.down.fill):
                filled = torch.cat([low.values, *ctx.recorded([low], plan.down.fill)])
                low = replace(low, values=filled.index_select(0, plan.down.order))
        ctx.keep(low)
        return low


class Upsample(nn.Module):
    """Nearest, then 3x3, to the next higher resolution: high rows read low rows directly."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv3x3(channels, channels)

    def forward(self, x: Activation, ctx: Context) -> Activation:
        """Rows of one resolution -> rows of the next higher one."""
        plan, above, weights = ctx.plans[x.level], ctx.plans[x.level - 1], (self.conv.weight, self.conv.bias)
        if plan.up is None:
            values = ops.conv3x3_dense(x.values, plan.size, *weights, upsample_to=(above.height, above.width))
        else:
            values = ops.conv3x3(x.values, ctx.recorded([x], plan.halo), plan.up, *weights)
        high = Activation(values, self.conv.path, x.level - 1)
        ctx.keep(high)
        return high


class Resnet(nn.Module):
    """Two convolutions, the time embedding between them, and a way past them."""

    path: str

    def __init__(self, cfg: UNetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(cfg.num_groups, in_channels, cfg.eps)
        self.conv1 = Conv3x3(in_channels, out_channels)
        self.time_emb_proj = nn.Linear(4 * cfg.channels[0], out_channels)
        self.norm2 = GroupNorm(cfg.num_groups, out_channels, cfg.eps)
        self.conv2 = Conv3x3(out_channels, out_channels)
        self.conv_shortcut = Conv1x1(in_channels, out_channels) if in_channels != out_channels else None

    def forward(self, inputs: Sequence[Activation], embedding: Tensor, ctx: Context) -> Activation:
        """`embedding` [B, 4 * channels[0]] has gone through SiLU."""
        level = inputs[0].level
        rows = ops.side_by_side([x.values for x in inputs])
        hidden = self.conv1(rows, inputs, self.norm1, ctx, embedding=self.time_emb_proj(embedding))
        between = Activation(hidden, self.conv1.path, level)  # a child's halo needs the time embedding in it
        ctx.keep(between)
        past = self.conv_shortcut(rows) if self.conv_shortcut else rows
        return Activation(self.conv2(hidden, [between], self.norm2, ctx, residual=past), self.path, level)


class Attention(nn.Module):
    """Multi-head attention of rows to rows, or to a text."""

    path: str

    def __init__(self, channels: int, num_heads: int, context_channels: int | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_channels or channels, channels, bias=False)
        self.to_v = nn.Linear(context_channels or channels, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, rows: Tensor, level: int, ctx: Context, text: ReadText | None = None) -> Tensor:
        """Rows [N, C] -> [N, C]."""
        queries = Activation(self.to_q(rows), self.path, level)
        if text is not None:
            return self.to_out(ctx.cross_attention(queries, *text.keys_values[self.path], self.num_heads))
        keys, values = ctx.keys_values(replace(queries, values=rows), self.project)
        plan = ctx.plans[level]
        return self.to_out(ops.attention(queries.values, plan.rows, keys, values, plan.keys, num_heads=self.num_heads))

    def project(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of what is attended."""
        return self.to_k(source), self.to_v(source)


class Gate(nn.Module):
    """Half of the channels gates the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 8 * channels)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [N, C] -> [N, 4 C]."""
        return ops.geglu(self.proj(rows))


class FeedForward(nn.Module):
    """What a transformer does to each row alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Gate(channels), nn.Identity(), nn.Linear(4 * channels, channels))

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [N, C] -> [N, C]."""
        return self.net(rows)


class TransformerLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward."""

    def __init__(self, channels: int, num_heads: int, context_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, num_heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, num_heads, context_channels)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, rows: Tensor, level: int, text: ReadText, ctx: Context) -> Tensor:
        """Rows [N, C] -> [N, C]."""
        rows = self.attn1(self.norm1(rows), level, ctx).add_(rows)
        rows = self.attn2(self.norm2(rows), level, ctx, text).add_(rows)
        return self.ff(self.norm3(rows)).add_(rows)


class Transformer(nn.Module):
    """Transformer layers between two projections, and a way past them."""

    path: str

    def __init__(self, cfg: UNetConfig, level: int, num_layers: int) -> None:
        super().__init__()
        channels = cfg.channels[level]
        project = nn.Linear if cfg.linear_projection else Conv1x1
        self.norm = GroupNorm(cfg.num_groups, channels, 1e-6)
        self.proj_in = project(channels, channels)
        self.transformer_blocks = children(
            TransformerLayer(channels, cfg.num_heads[level], cfg.context_channels) for _ in range(num_layers)
        )
        self.proj_out = project(channels, channels)

    def forward(self, x: Activation, text: ReadText, ctx: Context) -> Activation:
        """All on the computed rows; only self-attention reads others."""
        norm = ctx.norm(self.norm.path, self.norm, x.values, x.level)
        rows = self.proj_in(ops.normalise(x.values, norm, ctx.plans[x.level].rows))
        for layer in self.transformer_blocks:
            rows = layer(rows, x.level, text, ctx)
        return Activation(self.proj_out(rows).add_(x.values), self.path, x.level)


class Embedding(nn.Module):
    """Two linear layers."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_channels, channels)
        self.linear_2 = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels] -> [B, channels]."""
        return self.linear_2(F.silu(self.linear_1(x)))


class Block(nn.Module):
    """The resnets and transformers of one resolution, and the way to the next one."""

    def __init__(
        self,
        cfg: UNetConfig,
        level: int,
        ins: Sequence[int],  # input channels of each resnet
        depths: Sequence[int],  # transformer layers after each resnet; 0 = none
    ) -> None:
        super().__init__()
        self.resnets = children(Resnet(cfg, channels, cfg.channels[level]) for channels in ins)
        self.attentions = children(Transformer(cfg, level, depth) for depth in depths if depth)
        self.downsamplers: Sequence[Downsample] = children([])
        self.upsamplers: Sequence[Upsample] = children([])

    def layer(
        self, i: int, inputs: Sequence[Activation], embedding: Tensor, text: ReadText, ctx: Context
    ) -> Activation:
        """One resnet, and its transformer if there is one."""
        x = self.resnets[i](inputs, embedding, ctx)
        if i < len(self.attentions):
            x = self.attentions[i](x, text, ctx)
        ctx.keep(x)
        return x


class UNet(nn.Module):
    """Predicts the noise (or velocity) of each image of a batch, at its own timestep, for its own text."""

    def __init__(self, cfg: UNetConfig) -> None:
        super().__init__()
        self.cfg = cfg
        top, lowest = cfg.channels[0], len(cfg.channels) - 1
        self.conv_in = Conv3x3(cfg.in_channels, top)
        self.time_embedding = Embedding(top, 4 * top)
        self.add_embedding = Embedding(cfg.added_channels, 4 * top) if cfg.added_channels else None
        skips = [top]
        down_blocks, up_blocks = [], []
        for level, channels in enumerate(cfg.channels):
            ins = [skips[-1]] + [channels] * (cfg.num_layers - 1)
            block = Block(cfg, level, ins, [cfg.num_transformer_layers[level]] * cfg.num_layers)
            skips += [channels] * cfg.num_layers
            if level < lowest:
                block.downsamplers = children([Downsample(channels)])
                skips.append(channels)
            down_blocks.append(block)
        below = cfg.channels[-1]
        mid_depths = [cfg.num_mid_transformer_layers, 0] if cfg.num_mid_transformer_layers else [0]
        for level in reversed(range(lowest + 1)):
            channels = cfg.channels[level]
            ins = [first + skips.pop() for first in [below] + [channels] * cfg.num_layers]
            block = Block(cfg, level, ins, [cfg.num_transformer_layers[level]] * (cfg.num_layers + 1))
            if level > 0:
                block.upsamplers = children([Upsample(channels)])
            up_blocks.append(block)
            below = channels
        self.down_blocks = children(down_blocks)
        self.mid_block = Block(cfg, lowest, [cfg.channels[-1]] * len(mid_depths), mid_depths)
        self.up_blocks = children(up_blocks)
        self.conv_norm_out = GroupNorm(cfg.num_groups, top, cfg.eps)
        self.conv_out = Conv3x3(top, cfg.out_channels)
        for path, module in self.named_modules():
            if isinstance(module, Attention | Conv3x3 | GroupNorm | Resnet | Transformer):
                module.path = path
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # ops.conv3x3 reads the weights so

    @torch.no_grad()
    def read(
        self,
        text: Tensor,  # [B, T, context_channels]
        added: tuple[Tensor, Tensor] | None = None,  # XL: pooled text [B, P], time ids [B, 6]
    ) -> ReadText:
        """What depends on the texts alone. ValueError where the network needs `added` and has none."""
        crossing = [module for module in self.modules() if isinstance(module, TransformerLayer)]
        keys_values = {layer.attn2.path: layer.attn2.project(text) for layer in crossing}
        if self.add_embedding is None:
            return ReadText(keys_values, None)
        if added is None:
            raise ValueError("added must be (pooled text, time ids) for this network, got None")
        pooled, time_ids = added
        times = ops.sinusoid(time_ids.flatten(), self.cfg.added_time_channels or 0).view(len(pooled), -1)
        return ReadText(keys_values, self.add_embedding(torch.cat([pooled, times.to(text.dtype)], 1)))

    @torch.no_grad()
    def forward(
        self,
        sample: Tensor,  # [B, in_channels, H, W], all positions
        timestep: Tensor,  # [B]
        text: ReadText,  # of B images, from `read`
        ctx: Context,
    ) -> Tensor:  # [B, out_channels, H, W]
        """The prediction; where a sparse pass computes nothing, the recorded one."""
        embedding = self.time_embedding(ops.sinusoid(timestep, self.cfg.channels[0]).to(sample.dtype))
        embedding = F.silu(embedding if text.embedding is None else embedding + text.embedding)
        x = self._resolution(0, self._enter(sample, ctx), embedding, text, ctx)
        noise = ctx.output(Activation(self.conv_out(x.values, [x], self.conv_norm_out, ctx), "noise", 0))
        return noise.view(len(sample), *sample.shape[2:], -1).permute(0, 3, 1, 2)

    def _resolution(self, level: int, x: Activation, embedding: Tensor, text: ReadText, ctx: Context) -> Activation:
        """The layers of a resolution on the way down and, after all that is below it, on the way up."""
        down, up, skips = self.down_blocks[level], self.up_blocks[-1 - level], [x]
        for index in range(self.cfg.num_layers):
            x = down.layer(index, [x], embedding, text, ctx)
            skips.append(x)
        if ctx.deep is not None and level + 1 == len(ctx.plans):
            x = ctx.deep
        else:
            x = self._below(level, x, embedding, text, ctx)
        if level == 0 and ctx.keep_deep is not None:
            ctx.keep_deep(x)
        for index in range(self.cfg.num_layers + 1):
            x = up.layer(index, [x, skips.pop()], embedding, text, ctx)
        return x

    def _below(self, level: int, x: Activation, embedding: Tensor, text: ReadText, ctx: Context) -> Activation:
        """What a resolution receives from the next lower one; the lowest from the middle."""
        if level + 1 == len(self.down_blocks):
            for index in range(len(self.mid_block.resnets)):
                x = self.mid_block.layer(index, [x], embedding, text, ctx)
            return x
        (down,), (up,) = self.down_blocks[level].downsamplers, self.up_blocks[-2 - level].upsamplers
        return up(self._resolution(level + 1, down(x, ctx), embedding, text, ctx), ctx)

    def _enter(self, sample: Tensor, ctx: Context) -> Activation:
        """The first convolution reads the sample itself: it is known everywhere, no recording needed."""
        plan, weights = ctx.plans[0], (self.conv_in.weight, self.conv_in.bias)
        everywhere = sample.permute(0, 2, 3, 1).flatten(0, 2)
        if plan.same is None:
            rows = ops.conv3x3_dense(everywhere, plan.size, *weights)
        else:
            rows, halo = (everywhere.index_select(0, x.index) for x in (plan.rows, plan.halo))
            rows = ops.conv3x3(rows, [halo], plan.same, *weights)
        x = Activation(rows, self.conv_in.path, 0)
        ctx.keep(x)
        return x
