"""What a picture is drawn on: the sizes of its resolutions, and what a recording of it holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from cache_store.store import Draft, Recording, Store
from service.engine.call import Active, everything
from service.engine.macs import MacModel
from service.engine.maps import KeepMaps, Moved, Words
from service.engine.masks import num_detection_steps
from service.engine.rates import RATES
from service.engine.recording import FORMAT, Column, columns_of, kept_positions, layout_of, words_level
from service.engine.sampling import num_branches
from service.engine.unet import UNetConfig
from service.engine.weights import Model
from service.engine.writing import Target
from service.jobs import Sampling
from sparse_ops.plan import Plan


def never(step: int) -> None:
    """At no step."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """What a picture of this model and these settings is drawn on: its sizes, and what a recording of it holds."""

    model: Model
    sampling: Sampling
    sizes: tuple[tuple[int, int], ...]  # (h, w) of each resolution, highest first
    columns: tuple[Column, ...]
    macs: MacModel

    @classmethod
    def of(cls, model: Model, sampling: Sampling) -> Canvas:
        """Measures the network once for each size."""
        h, w = sampling.height // model.latent_scale, sampling.width // model.latent_scale
        sizes = tuple((math.ceil(h / 2**level), math.ceil(w / 2**level)) for level in range(model.num_levels))
        num_tokens = model.tokenizers[0].model_max_length
        columns = columns_of(model.unet, h, w, num_tokens, model.format.keep_inputs)
        return cls(model, sampling, sizes, columns, _macs(model.unet.cfg, h, w, num_tokens))

    @property
    def num_map_steps(self) -> int:
        """First steps whose cross-attention maps are kept: those that a detection compares."""
        return num_detection_steps(self.sampling.num_inference_steps)

    def count_macs(self, plans: Sequence[Plan]) -> int:
        """Multiplications of one call, those included that make keys and values of recorded attention inputs."""
        return self.macs.count(plans, recorded_inputs=self.model.format.keep_inputs)

    @property
    def everything(self) -> Active:
        """All positions of all resolutions: dense."""
        return everything(self.sizes, num_branches(self.sampling))

    @property
    def dense_seconds(self) -> float:
        """What drawing it takes, roughly: what a recording is worth, among those of all sizes and numbers of steps."""
        num_macs = self.sampling.num_inference_steps * self.macs.dense(num_branches(self.sampling))
        return num_macs / RATES[self.model.device.type][0]

    def draft(
        self,
        store: Store,
        recording_id: str,
        parent: Recording | None = None,
        active: tuple[Tensor, ...] = (),
        *,
        with_maps: bool = True,
    ) -> Draft:
        """A new recording; of a parent's child only active rows are kept. Maps serve detections by steps."""
        num_map_steps = self.num_map_steps if with_maps else 0
        num_steps, branches = self.sampling.num_inference_steps, num_branches(self.sampling)
        layout = layout_of(self.columns, self.model.format, num_steps, num_map_steps, branches)
        kept = kept_positions(layout, active) if parent else None
        draft = store.create(recording_id, layout, parent, kept, seconds_saved=self.dense_seconds)
        draft.put(FORMAT, self.model.format.told)
        return draft

    def words(self, base: Tensor | None = None) -> Words:
        """Where tokens look, to be filled while it is drawn; `base` [T, h, w] where nothing is computed."""
        level = words_level(self.columns)
        return Words(level, self.sizes[level], self.macs.num_tokens, base)

    def keep_maps(
        self, draft: Draft, words: Words, moved: Callable[[int], Moved] | None = None
    ) -> Callable[[int], KeepMaps | None]:
        """What records maps at each step, in the first half of the steps: later ones look at detail."""
        last = max(self.num_map_steps, self.sampling.num_inference_steps // 2)

        def keep(step: int) -> KeepMaps | None:
            target = Target(draft, step, self.model.format)
            return KeepMaps(target, words, moved(step) if moved else None) if step < last else None

        return keep


@lru_cache(maxsize=32)
def _macs(cfg: UNetConfig, height: int, width: int, num_tokens: int) -> MacModel:
    return MacModel.of(cfg, height, width, num_tokens)
