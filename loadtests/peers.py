"""What others do with a U-Net today: diffusers as it is, compiled, with tokens merged, with features kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from loadtests.contest import CallStep, LeftOutError
from loadtests.inputs import Inputs, shared

MERGE_RATIO = 0.5  # of tomesd: half of the tokens of the highest resolution, its default
KEEP_INTERVAL = 3  # of DeepCache: every third call is a whole one
COMPILE_MODE = "reduce-overhead"


def eager(theirs: UNet2DConditionModel, inputs: Inputs) -> CallStep:
    """Diffusers' own: torch's attention, channels last."""
    return lambda _: _call(theirs, inputs, inputs.timestep)


def compiled(theirs: UNet2DConditionModel, inputs: Inputs, mode: str = COMPILE_MODE) -> CallStep:
    """The same through torch.compile."""
    if inputs.sample.device.type != "cuda":
        raise LeftOutError("compiling for a CPU says nothing of a GPU")
    network = torch.compile(theirs, mode=mode)

    def call(_: int) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # torch's
        return _call(network, inputs, inputs.timestep)

    return call


def tomesd(theirs: UNet2DConditionModel, inputs: Inputs) -> CallStep:
    """Token merging."""
    merging = _package("tomesd")
    network = merging.apply_patch(shared(theirs), ratio=MERGE_RATIO)
    return lambda _: _call(network, inputs, inputs.timestep)


def deepcache(theirs: UNet2DConditionModel, inputs: Inputs) -> CallStep:
    """Features of the lower resolutions kept from one step for the next ones."""
    network = shared(theirs)
    steps = torch.arange(1000)
    helper = _package("DeepCache").DeepCacheSDHelper(SimpleNamespace(unet=network, scheduler=_Steps(steps)))
    helper.set_params(cache_interval=KEEP_INTERVAL, cache_branch_id=0)
    helper.enable()
    return lambda step: _call(network, inputs, steps[step])  # on the host, where it looks its step up


PEERS: Mapping[str, Callable[[UNet2DConditionModel, Inputs], CallStep]] = {
    "eager": eager,
    "compile": compiled,
    "tomesd": tomesd,
    "deepcache": deepcache,
}


def peers(compile_mode: str) -> Mapping[str, Callable[[UNet2DConditionModel, Inputs], CallStep]]:
    """All of them."""
    return {**PEERS, "compile": partial(compiled, mode=compile_mode)}


def settings(compile_mode: str) -> dict[str, str]:
    """What each is, for those who read results."""
    return {
        "eager": "diffusers, channels last, torch's scaled_dot_product_attention, cudnn.benchmark",
        "compile": f"the same, torch.compile(mode={compile_mode!r})",
        "tomesd": f"the same, tomesd.apply_patch(ratio={MERGE_RATIO})",
        "deepcache": f"the same, DeepCacheSDHelper(cache_interval={KEEP_INTERVAL}, cache_branch_id=0)",
    }


class _Steps(SimpleNamespace):
    """What DeepCache wants of a scheduler."""

    def __init__(self, timesteps: Tensor) -> None:
        super().__init__(timesteps=timesteps)


def _call(network: Callable[..., Any], inputs: Inputs, timestep: Tensor) -> Tensor:
    noise: Tensor = network(
        inputs.sample, timestep, inputs.embeds, added_cond_kwargs=inputs.added_conditions, return_dict=False
    )[0]
    return noise


def _package(name: str) -> Any:
    if find_spec(name) is None:
        raise LeftOutError(f"{name} is not installed: pip install 'retouch[peers]'")
    try:
        return __import__(name)
    except Exception as error:  # made for older versions of what it imports
        raise LeftOutError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
