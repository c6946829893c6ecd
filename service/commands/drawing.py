"""`retouch generate` and `retouch edit`: one job, its files, its receipt."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from service.commands.fields import Request, fields_of, validated
from service.commands.files import WHAT, Made, files_of, write
from service.commands.terminal import say, summary
from service.errors import InputError
from service.jobs import Job

HERE = ("model", "device")  # options that mean nothing to a server
THERE = ("key", "preview_every", "deadline_seconds", "idempotency_key", "min_similarity")  # nothing without one


def generate(options: argparse.Namespace) -> None:
    """`retouch generate`."""
    from service.api.schemas import GenerateRequest  # noqa: PLC0415  # `retouch --help` needs no pydantic models

    _draw(options, GenerateRequest)


def edit(options: argparse.Namespace) -> None:
    """`retouch edit`."""
    from service.api.schemas import EditRequest  # noqa: PLC0415

    _check_source(options)
    _draw(options, EditRequest)


def _draw(options: argparse.Namespace, schema: type[Request]) -> None:
    """Run one job, write its files, and say what it cost."""
    _check_place(options)
    job = validated(schema, fields_of(options), stream=options.server is not None).job()
    files = files_of(options, job)
    with _made(options, job) as made:
        receipt = made.outcome.receipt
        if made.outcome.image:
            files.setdefault("out", Path(f"retouch-{receipt.image_id}.png"))
        for name, path in files.items():
            png = made.png(name)
            if png is not None:
                write(path, png)
            say(f"{path}: {WHAT[name] if png is not None else f'not written, {WHAT[name]} is not there'}")
    if options.json:
        sys.stdout.write(json.dumps(receipt.as_dict()) + "\n")
    else:
        say(summary(receipt))


def _made(options: argparse.Namespace, job: Job) -> AbstractContextManager[Made]:
    """The job, run by a server or here."""
    if options.server is None:
        from service.commands.local import made_here  # noqa: PLC0415  # with torch

        return made_here(job, options.model, options.device)
    from service.commands.remote import made_there  # noqa: PLC0415  # without

    return made_there(options.server, options.key, options.idempotency_key, job, fields_of(options))


def _check_place(options: argparse.Namespace) -> None:
    """InputError for an option that means nothing where the job will run."""
    for name in THERE if options.server is None else HERE:
        if getattr(options, name, None) is not None:
            raise InputError(name, "goes with --server" if options.server is None else "does not go with --server")


def _check_source(options: argparse.Namespace) -> None:
    """InputError for an edit of nothing: here nobody looks for a source."""
    if options.server is None and options.source_prompt is None and options.image_id is None:
        raise InputError("image_id", "or --source-prompt is needed, for only a server (--server) looks for a source")
