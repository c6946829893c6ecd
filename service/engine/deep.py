"""Deep features: what the highest resolution receives from below, kept from one step for the next ones.

    deep_every = 3    step 0    all resolutions; what the highest one receives from below is kept
                      step 1    the highest one alone, given that: a shallow step
                      step 2    the same
                      step 3    all resolutions ...

An edit computes the same rows in all of its steps, so its job keeps rows [N, C] and nothing else. A pass has one depth:
shallow calls share passes with shallow ones only.

Approximate: what is given is as old as the last complete step (Ma et al., "DeepCache: Accelerating Diffusion Models for
Free", CVPR 2024; they skip layers of the highest resolution, too).
"""

from __future__ import annotations

from dataclasses import dataclass

from sparse_ops.context import Activation


@dataclass(eq=False)
class Deep:
    """Of one job: its complete steps fill it, the shallow ones read it."""

    features: Activation | None = None  # [N, C] of all its images, at the highest resolution
