"""Under which conditions something was measured: kept beside every result."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "diffusers", "transformers", "triton", "cupy-cuda13x", "tomesd", "deepcache")
CLOCKS = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw,utilization.gpu"


def conditions(device: torch.device, seed: int) -> dict[str, Any]:
    """Machine, versions, commit, date, threads, load and seed, as plain data; of a GPU its driver and clocks."""
    return {
        "machine": machine(device),
        "versions": versions(),
        "python": platform.python_version(),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),  # before: nothing else should have run
        "seed": seed,
    } | ({"clocks": clocks()} if device.type == "cuda" else {})


def versions() -> dict[str, str]:
    """Of the packages that matter, those that are installed."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def clocks() -> dict[str, str] | None:
    """What the driver tells of the GPU just now, before something is measured or after it; None where it cannot."""
    told = shutil.which("nvidia-smi")
    if told is None:
        return None
    words = [told, f"--query-gpu={CLOCKS}", "--format=csv,noheader", "--id=0"]
    asked = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603  # fixed words
    values = asked.stdout.strip().split(", ")
    return dict(zip(CLOCKS.split(","), values, strict=False)) if asked.returncode == 0 else None


def save(result: dict[str, Any], program: str, directory: Path) -> Path:
    """Keeps a result as PROGRAM-DEVICE-DATE.json, say unet-h200-2026-11-25.json; returns where."""
    words = str(result["machine"]).lower().replace("nvidia", "").split()
    device = "cpu" if words[-1] == "cores" else words[0]
    path = directory / f"{program}-{device}-{result['date']}.json"
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def machine(device: torch.device) -> str:
    """The GPU's name, or the CPU's with its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def commit() -> str | None:
    """The commit that is checked out, with a plus where files differ from it.

    Outside of a checkout, on a machine to which files were only copied, what the variable COMMIT says, or None.
    """
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return os.environ.get("COMMIT")

    def told(*words: str) -> str:
        return subprocess.run([git, "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603  # fixed words

    return told("rev-parse", "--short", "HEAD") + ("+" if told("status", "--porcelain", "--untracked-files=no") else "")
