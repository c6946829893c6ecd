"""Under which conditions something was measured: kept beside every result."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]


def conditions(device: torch.device, seed: int) -> dict[str, Any]:
    """Machine, versions, commit, date, threads, load and seed, as plain data."""
    return {
        "machine": machine(device),
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
        "python": platform.python_version(),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),  # before: nothing else should have run
        "seed": seed,
    }


def machine(device: torch.device) -> str:
    """The GPU's name, or the CPU's with its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def commit() -> str | None:
    """The commit that is checked out, with a plus where files differ from it; None outside of a checkout."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return None

    def told(*words: str) -> str:
        return subprocess.run([git, "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603  # fixed words

    return told("rev-parse", "--short", "HEAD") + ("+" if told("status", "--porcelain", "--untracked-files=no") else "")
