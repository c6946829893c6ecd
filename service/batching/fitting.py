"""Rates that are never negative, fitted to what was seen lately; a few things that were seen wrong do no harm.

What is made small is how far predictions are from what was seen as ratios, |log(predicted / seen)|, beyond `TOLERATED`
by its size and not by its square (Huber): a job that took a hundred times as long pulls no more than one that took
twice as long. What was seen long ago counts less. So one outlier moves little, and a machine that has become slower is
believed as soon as most of what counts says so.

Rates that the data do not tell apart, such as those of calls and of multiplications where all jobs are alike, stay in
the proportions of the first guess: they count as `TRUST` of an observation. Its scale is what was seen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]

TOLERATED = 0.05  # of a ratio's logarithm: timings of equal jobs differ by about as much
MEMORY = 0.9  # weight of an observation relative to the next newer one
TRUST = 1e-5
NOTHING = 1e-9
LEAST = 1e-3  # of what was seen: a prediction below that is no worse
NUM_ROUNDS = 20  # of reweighting; later ones change nothing that is seen


def fit(
    features: Array,  # [N, K], not negative, the newest last
    seen: Array,  # [N], positive
    first: Array,  # [K], positive: the guess before anything was seen
    start: Array | None = None,  # [K]: where to begin, None = at the guess
) -> Array:  # [K]
    """Rates, so that features x rates is near what was seen."""
    memory = np.asarray(MEMORY ** np.arange(len(seen))[::-1], np.float64)
    scaled = first * _median(seen / (features @ first), memory)
    guess = np.eye(len(first)) * np.sqrt(TRUST)
    rates: Array = scaled if start is None else start
    for _ in range(NUM_ROUNDS):
        weight = np.sqrt(memory * _weights(features @ rates, seen))
        data = features * scaled * weight[:, None]
        rates = scaled * nnls(np.concatenate([data, guess]), np.concatenate([seen * weight, guess.diagonal()]))[0]
    return rates


def _median(
    values: Array,  # [N]
    weights: Array,  # [N]
) -> float:
    """Half of the weight is on either side of it."""
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(below, below[-1] / 2)])


def _weights(
    predicted: Array,  # [N], not negative
    seen: Array,  # [N], positive
) -> Array:  # [N]
    """Of squared residuals, so that their slope is that of the loss of log(predicted / seen)."""
    predicted = np.maximum(predicted, LEAST * seen)
    distance = np.abs(np.log(predicted / seen))
    pull = np.minimum(distance, TOLERATED)
    return np.where(distance > NOTHING, pull / (predicted * np.abs(predicted - seen) + NOTHING), 1 / predicted**2)
