"""One operator at one shape: what computes it, what it means, and what it must cost at least."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Output = Tensor | tuple[Tensor, ...]
Wire = Literal["memory", "pinned"]

ERROR_RATIO = (
    1e-3  # of the norm, fp16: results, activated rows and probabilities are rounded once, 2^-11 / sqrt(3) each
)
WORST_RATIO = 2**-8  # of the largest value, for any single one
BFLOAT16_FACTOR = 8  # it has three bits fewer


@dataclass(frozen=True, eq=False)
class Case:
    """One operator at one shape."""

    operator: str
    shape: str
    ours: Callable[[], Output]
    reference: Callable[[], Output]  # in float32, or of the same bits
    dense: Callable[[], object] | None  # torch's own over the whole map; None where there is none
    num_bytes: int  # that must cross `wire`: each input once, each output once
    multiply_adds: int = 0
    wire: Wire = "memory"
    is_exact: bool = False  # the same bits are asked for


class WrongResultError(Exception):
    """An operator does not compute what it should; the text says which and by how much."""


def check(case: Case) -> float:
    """The error of our result by the norm of what it should be. Raises WrongResultError."""
    ours, expected = (x if isinstance(x, tuple) else (x,) for x in (case.ours(), case.reference()))
    error = 0.0
    for out, meant in zip(ours, expected, strict=True):
        if out.shape != meant.shape:
            raise WrongResultError(f"{case.operator} {case.shape}: {list(out.shape)}, should be {list(meant.shape)}")
        if case.is_exact:
            if not torch.equal(out.view(torch.uint8), meant.view(torch.uint8)):
                raise WrongResultError(f"{case.operator} {case.shape}: the bits are not the reference's")
            continue
        factor = BFLOAT16_FACTOR if out.dtype == torch.bfloat16 else 1
        off = (out.float() - meant.float()).abs_()
        by_norm = float(off.norm() / meant.float().norm())
        worst = float(off.max() / meant.abs().max())
        if not (by_norm <= factor * ERROR_RATIO and worst <= factor * WORST_RATIO):  # a NaN is neither
            raise WrongResultError(
                f"{case.operator} {case.shape}: off by {by_norm:.1e} of the norm, {worst:.1e} of the largest at worst"
            )
        error = max(error, by_norm)
    return error
