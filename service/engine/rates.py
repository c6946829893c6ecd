"""How quickly devices compute and read, roughly: for choices, where ratios count. loadtests/ measures."""

from __future__ import annotations

RATES = {"cpu": (7e10, 1e10), "cuda": (4e14, 4e12)}  # multiplications and bytes a second
