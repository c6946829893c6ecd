"""How many bytes each tier may take where nobody says: a part of what is free now."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

HOST_RATIO = 0.5  # of free memory: the model, its passes and others want the rest
DEVICE_RATIO = 0.25  # of what is free when the model is loaded: activations of a batch take most
DISK_RATIO = 0.5
LOCKED_BYTES = 8 << 30  # at most: locked pages are all taken at the start, some GB a second, and are lost to all others

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def host_budget(meminfo: Path = MEMINFO, cgroup: Path = CGROUP, *, pinned: bool = False) -> int:
    """Of free memory, which for a container is what it may still take; `pinned`: for pages that are locked."""
    num_bytes = int(HOST_RATIO * min(_available(meminfo), _allowed(cgroup)))
    return min(num_bytes, LOCKED_BYTES) if pinned else num_bytes


def device_budget(device: torch.device) -> int:
    """Of a GPU's free memory; 0 for another device."""
    return int(DEVICE_RATIO * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0


def disk_budget(directory: Path) -> int:
    """Of the free bytes of a directory's file system, what lies in the directory included; 0 where there is none."""
    there = next((path for path in (directory, *directory.absolute().parents) if path.is_dir()), None)
    if there is None:
        return 0
    own = sum(path.stat().st_size for path in directory.iterdir() if path.is_file()) if there == directory else 0
    return int(DISK_RATIO * (shutil.disk_usage(there).free + own))


def _available(meminfo: Path) -> int:
    """What the system could give away without swapping; free pages where it does not say."""
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _allowed(cgroup: Path) -> int:
    """What a container may still take; without a limit more than there can be."""
    limit, current = cgroup / "memory.max", cgroup / "memory.current"
    if not (limit.is_file() and current.is_file()) or limit.read_text().strip() == "max":
        return 1 << 62
    return max(0, int(limit.read_text()) - int(current.read_text()))
