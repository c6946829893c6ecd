"""Pictures that are written into files."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from service.errors import InputError
from service.jobs import EditJob, Job, Outcome

WHAT = {"out": "the picture", "source_out": "the source", "mask_out": "the edit mask"}  # that can be written


@dataclass(frozen=True)
class Made:
    """What came of a job."""

    outcome: Outcome
    read_source: Callable[[str], bytes | None]  # the PNG of the picture with this id; None if it is not kept

    def png(self, name: str) -> bytes | None:
        """For one of `WHAT`; None where the job made none."""
        from service.api.images import encode_png, mask_image  # noqa: PLC0415  # not for `retouch --help`

        mask, image, source_id = self.outcome.mask, self.outcome.image, self.outcome.accepted.source_id
        if name == "out":
            return encode_png(image.image) if image else None
        if name == "mask_out":
            return encode_png(mask_image(mask.edit_mask, image.image if image else None)) if mask else None
        return None if source_id is None else self.read_source(source_id)


def files_of(options: argparse.Namespace, job: Job) -> dict[str, Path]:
    """Those that the user named. InputError where one cannot be written, or there will be nothing to write."""
    files = {name: getattr(options, name) for name in WHAT if getattr(options, name, None) is not None}
    if "out" in files and isinstance(job, EditJob) and job.dry_run:
        raise InputError("out", "a dry run draws no picture; --mask-out writes the mask")
    check_files(files)
    return files


def check_files(files: Mapping[str, Path]) -> None:
    """Before the work, not after it: InputError unless each file can be written, and to a place of its own."""
    taken: set[Path] = set()
    for name, path in files.items():
        target = _target(name, path)
        if target.exists() and not target.is_file():
            raise InputError(name, f"{path} is no regular file")
        if not (target.parent.is_dir() and os.access(target.parent, os.W_OK)):
            raise InputError(name, f"{target.parent} is no directory that can be written to")
        if target in taken:
            raise InputError(name, f"{path} is already another picture's file")
        taken.add(target)


def write(path: Path, png: bytes) -> None:
    """Whole or not at all: written beside, then renamed. A link stays one."""
    path = path.resolve()
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(png)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _target(name: str, path: Path) -> Path:
    """The file itself, where `path` is a link to it."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # links that go round
        raise InputError(name, f"{path}: {error}") from error
