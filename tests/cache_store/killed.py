"""A program that is killed: at each of its calls to the system once, each time in a directory of its own.

    python killed.py DIRECTORY

In DIRECTORY/N it records, edits and deletes, and at the N-th call (a write also in its middle) it is killed by SIGKILL.
In DIRECTORY/N.told stands what it was told is on the disk, or gone from it, before. It loads its libraries once: each
run is a fork of the same process, which has no other threads then.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from cache_store.layout import Layout, Plane
from cache_store.store import Recording, Store
from cache_store.tiers.disk import Disk

LAYOUT: Layout = {
    "rows": Plane.of(64, {"a": 24, "b": 40}, torch.float16, num_steps=2),
    "norms": Plane.of(1, {"norm": 32}, torch.float32, num_steps=1),
}
KEPT = torch.arange(0, 64, 3)
GUARD_SECONDS = 60


class Mortal:
    """The operating system for a process whose calls are numbered."""

    def __init__(self, last: int) -> None:
        self.num_left = last

    def write(self, fd: int, data: memoryview) -> int:
        """As os.write; killed before it or half-way."""
        self.live()
        if self.num_left == 0:
            os.write(fd, data[: len(data) // 2])
        self.live()
        return os.write(fd, data)

    def live(self) -> None:
        """One call more, or none."""
        if self.num_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.num_left -= 1

    def __getattr__(self, call: str) -> Any:
        def function(*arguments: Any) -> Any:
            self.live()
            return getattr(os, call)(*arguments)

        return function


class Life:
    """What is done to one store, and what is told of it."""

    def __init__(self, directory: Path, system: Any) -> None:
        self.store = Store(1 << 20, disk=Disk(directory, 1 << 20, system=system))
        self.told = directory.with_suffix(".told")

    def live(self) -> None:
        """From an empty directory to one of several recordings, of which some come and go."""
        self.record("root", 1.0)
        self.record("edit", 2.0, "root")
        self.delete("root")  # its rows stay, for the edit
        self.record("other", 3.0)
        self.record("deep", 4.0, "edit")
        self.tell("perhaps other")
        self.store.evict("other")
        self.record("other", 3.0)  # again, over the core that is there
        self.delete("deep")
        self.delete("edit")  # and with it the rows of the root
        self.store.close(GUARD_SECONDS)

    def record(self, name: str, value: float, parent_id: str | None = None) -> None:
        """Rows of one value, or some rows among a parent's; waits until they are on the disk."""
        parent = self.store.open(parent_id) if parent_id else None
        with self.store.create(name, LAYOUT, parent, {"rows": KEPT} if parent else None) as draft:
            for step in range(2):
                draft.write(step, "rows", None, torch.full((len(KEPT) if parent else 64, 64), value))
            draft.write(0, "norms", None, torch.full((1, 32), value))
            draft.put("own", str(value).encode())
            draft.put("others", _text(parent, "others") if parent else str(value).encode())
            draft.put("latents", torch.full((500,), value))
            draft.commit()
        if parent:
            parent.close()
        self.store.settle(GUARD_SECONDS)
        self.tell(f"there {name}")

    def delete(self, name: str) -> None:
        """When it returns it is gone for ever."""
        self.tell(f"perhaps {name}")
        self.store.delete(name)
        self.tell(f"gone {name}")
        self.store.settle(GUARD_SECONDS)

    def tell(self, line: str) -> None:
        """For who comes after."""
        with self.told.open("a") as file:
            file.write(f"{line}\n")


def _text(recording: Recording, name: str) -> bytes:
    blob = recording.blob(name)
    return blob if isinstance(blob, bytes) else b""


def main(directory: Path) -> None:
    """Dies at call 0, 1, 2 ... until it lives to the end."""
    torch.set_num_threads(1)
    number = 0
    while _dies(directory / str(number), number):
        number += 1


def _dies(directory: Path, number: int) -> bool:
    pid = os.fork()
    if pid == 0:
        Life(directory, Mortal(number)).live()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
