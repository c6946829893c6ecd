"""The build of the kernels' test programs: a `.cpp` beside this file, with the `.cu` it includes, for the CPU.

A program is built once for each set of sources and flags: the executable's name ends in their digest. Sources are
copied into a folder of their own first, so that a mutation (a kernel with one line changed) is built like any other.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parents[1] / "sparse_ops" / "kernels"

COMMON = (
    "-std=c++17", "-march=x86-64-v3", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-pthread", "-include", "cudacpu.h",
    "-I.",
)  # fmt: skip
FLAVOURS = {
    "fp16": ("-O2",),
    "bf16": ("-O2", "-DROWS_BF16"),
    "asan": ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "tsan": ("-O1", "-g", "-fsanitize=thread"),
    "library-fp16": ("-O2", "-shared", "-fPIC"),  # for ctypes
    "library-bf16": ("-O2", "-shared", "-fPIC", "-DROWS_BF16"),
}
# Two entries of each kernel instead of all: enough to see a race or a mutation, and fast to build.
TWO_ENTRIES = {
    "conv_rows": ("CONV_ROWS_TILES(X)=X(64x64x32, 64, 64, 32, 2, 2, 4) X(64x64x64, 64, 64, 64, 2, 2, 3)",),
    "attention_rows": ("ATTENTION_ROWS_ENTRIES(X)=X(48, 4) X(64, 4)",),
}
SANITIZERS = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=0",  # a fiber's stack is not the thread's
    "TSAN_OPTIONS": "halt_on_error=1 exitcode=66",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def find_source(name: str) -> Path:
    """A file that the programs include by name: a test's header beside this one, or a kernel."""
    return next(path for folder in (HERE, KERNELS) if (path := folder / name).is_file())


def read_sources(program: str, changed: Mapping[str, str]) -> dict[str, str]:
    """`program`, the shim, and all that they include in quotes, by name; `changed` texts instead of the files'."""
    sources: dict[str, str] = {}
    wanted = [program, "cudacpu.h"]
    while wanted:
        name = wanted.pop()
        if name not in sources:
            sources[name] = changed[name] if name in changed else find_source(name).read_text()
            wanted += re.findall(r'^#include "(.+)"', sources[name], re.MULTILINE)
    return sources


def mutate(name: str, old: str, new: str, times: int = 1) -> dict[str, str]:
    """What `build(changed=...)` takes: the file's text, `old`, which stands in it `times` times, replaced by `new`."""
    text = find_source(name).read_text()
    assert text.count(old) == times, f"{name} has {text.count(old)} times {old!r}"
    return {name: text.replace(old, new)}


class Programs:
    """Test programs in `folder`, built when first asked for and kept for the next run."""

    mutate = staticmethod(mutate)
    two_entries = TWO_ENTRIES

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def build(
        self,
        program: str,  # "conv_rows": tests/kernels/conv_rows.cpp
        flavour: str = "fp16",  # a key of FLAVOURS
        *,
        define: Iterable[str] = (),  # "NAME=text" for the preprocessor
        changed: Mapping[str, str] | None = None,  # file name -> text that replaces the file's
        label: str = "",  # what the executable is called beside others with the same program and flavour
    ) -> Path:
        """The executable. Only the newest of each program, flavour and label is kept."""
        sources = read_sources(f"{program}.cpp", changed or {})
        flags = [*COMMON, *FLAVOURS[flavour], *(f"-D{text}" for text in define)]
        flags += ["-w"] if changed else []  # a mutation may leave a variable unused
        digest = hashlib.sha256(repr((flags, sorted(sources.items()))).encode()).hexdigest()[:16]
        stem = "-".join(filter(None, (program, flavour, re.sub(r"\W+", "_", label))))
        executable = self.folder / f"{stem}.{digest}"
        if not executable.exists():
            for old in self.folder.glob(f"{stem}.*"):
                old.unlink(missing_ok=True)
            self._compile(f"{program}.cpp", sources, flags, executable)
        return executable

    def _compile(self, program: str, sources: Mapping[str, str], flags: list[str], executable: Path) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            for name, text in sources.items():
                Path(folder, name).write_text(text)
            command = [shutil.which("g++") or "g++", *flags, program, "-o", "program"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603  # g++
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[-8000:]}"
            Path(folder, "program").replace(executable)  # at once: another pytest may run beside this one

    @staticmethod
    def run(
        executable: Path,
        *arguments: object,
        seed: int = 0,  # CUDACPU_SEED: the order of threads and blocks, when copies land, and the cases' own numbers
        blocks: int = 1,  # CUDACPU_THREADS: how many blocks run at a time
        endless_seconds: float = 600,  # a program that runs so long hangs: a guard, not a measurement
    ) -> subprocess.CompletedProcess[str]:
        """What the program printed (stdout and stderr together) and its exit status; 124 if it hung."""
        command = [str(executable), *map(str, arguments)]
        environment = os.environ | SANITIZERS | {"CUDACPU_SEED": str(seed), "CUDACPU_THREADS": str(blocks)}
        try:
            return subprocess.run(  # noqa: S603  # ours
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=endless_seconds,
            )
        except subprocess.TimeoutExpired as error:
            return subprocess.CompletedProcess(command, 124, stdout=f"hung: {error}")
