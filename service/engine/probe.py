"""Detection by probes: what the new words would change in the picture that is there.

The paper draws the first steps of the new prompt and compares where they lead ("Target Area Capture"). They begin in
noise, where nothing is decided: two places are found for one house. A probe shows the *recorded* latents of a step to
the network under the new words. What it takes the finished picture to be (predicted x0) differs from what it does under
the old words just where they matter to this picture, for added, removed and replaced things alike. (DiffEdit compares
predictions, too, of one noised image.) What the old words predict is recorded.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cache_store.store import Recording
from service.engine.call import Call
from service.engine.canvas import Canvas
from service.engine.denoise import ask
from service.engine.read_text import ReadText
from service.engine.reading import Source
from service.engine.receipts import Tally
from service.engine.sampling import constant_channels, guide, make_sampler, num_branches, predicted_original
from service.jobs import Event, Sampling

PROBE_RATIOS = (0.1, 0.2, 0.3)  # of the steps: the composition is there, and may still change


def probe_steps(num_inference_steps: int) -> list[int]:
    """The steps whose recorded latents are shown, ascending, at least one."""
    last = num_inference_steps - 1
    return sorted({min(last, round(ratio * num_inference_steps)) for ratio in PROBE_RATIOS})


@dataclass(frozen=True, eq=False)
class Probe:
    """The recorded latents of a few steps, to be shown to the network under any words."""

    canvas: Canvas
    latents: Tensor  # [steps + 1, 4, h, w], recorded
    sampler: Any

    @classmethod
    def of(cls, canvas: Canvas, latents: Tensor) -> Probe:
        """`latents` as a recording's core holds them."""
        sampling = canvas.sampling
        sampler = make_sampler(canvas.model, sampling.sampler, sampling.num_inference_steps)
        return cls(canvas, latents.to(canvas.model.device), sampler)

    @property
    def steps(self) -> list[int]:
        """Those of `probe_steps`."""
        return probe_steps(self.canvas.sampling.num_inference_steps)

    def under(
        self, prompts: Sequence[tuple[ReadText, Sampling]], tally: Tally
    ) -> Generator[Call | Event, Tensor | None, list[Tensor]]:
        """Predicted x0 [S, 4, h, w] under each of the prompts, by a dense call for each step and prompt.

        They wait for nothing of each other, but each is as large as any step: what fits beside it is the batcher's.
        """
        originals, num_calls = [], len(prompts) * len(self.steps)
        on_device = self.sampler.timesteps.to(self.latents.device)  # the network's; the sampler's own stay here
        for number, (text, sampling) in enumerate(prompts):
            predictions = []
            for place, step in enumerate(self.steps):
                call = self._call(text, step, on_device[step], number * len(self.steps) + place, num_calls)
                predictions.append((yield from ask(call, tally, self.canvas)))
            originals.append(self._originals(predictions, sampling))
        return originals

    def recorded(self, recording: Recording, sampling: Sampling, tally: Tally) -> Tensor:
        """The same as it was recorded, under the source's own prompt; of a picture that was drawn, not edited."""
        _, _, height, width = self.latents.shape
        branches, predictions = num_branches(sampling), []
        for step in self.steps:
            source = Source(recording, step, self.canvas.model.format)
            rows = source.rows("prediction", torch.arange(branches * height * width))
            predictions.append(rows.to(self.latents).view(branches, height, width, -1).permute(0, 3, 1, 2))
            tally.read(source.num_bytes)
        return self._originals(predictions, sampling)

    def _call(self, text: ReadText, step: int, timestep: Tensor, number: int, num_calls: int) -> Call:
        """Recorded latents of one step under a text, all guidance branches."""
        model, branches = self.canvas.model, num_branches(self.canvas.sampling)
        sample = self.sampler.scale_model_input(self.latents[step, None], self.sampler.timesteps[step])
        constant = constant_channels(model, sample)
        if constant is not None:
            sample = torch.cat([sample, constant], 1)
        return Call(
            sample=sample.to(model.dtype).expand(branches, -1, -1, -1),
            timestep=timestep.expand(branches),
            text=text,
            active=self.canvas.everything,
            source=None,
            target=None,
            format=model.format,
            stage="detect",
            step=number,
            num_steps=num_calls,
        )

    def _originals(self, predictions: Sequence[Tensor], sampling: Sampling) -> Tensor:
        """x0 of the prediction of each step, [S, 4, h, w]."""
        rescale = self.canvas.model.defaults.guidance_rescale
        originals = [
            predicted_original(
                self.sampler,
                guide(prediction, sampling.guidance_scale, rescale),
                self.sampler.timesteps[step],
                self.latents[step, None],
            )
            for step, prediction in zip(self.steps, predictions, strict=True)
        ]
        return torch.cat(originals)
