"""The command line: draw and edit pictures without a server, or serve.

    retouch generate "a snow mountain under a night sky"
    retouch edit --source-prompt "a red house on a meadow" --prompt "a blue house on a meadow" --out blue.png
    retouch serve
    retouch inspect --disk recordings
    retouch key ann

Pictures go into files, the receipt (with --json) to stdout, all else to stderr. Exit codes: 0 done, 1 failed, 2 the
input cannot be done (one line names the argument), 3 the server cannot start, 130 interrupted. torch is imported by the
commands that draw.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from service.arguments import BAD_INPUT, Command, parser_of
from service.errors import InputError, JobFailedError, RetouchError
from service.jobs import EditJob, Job, Outcome, Receipt

if TYPE_CHECKING:
    from cache_store.store import Store
    from service.api.schemas import EditRequest, GenerateRequest
    from service.engine.call import Call
    from service.settings import Settings

DONE, FAILED, INTERRUPTED = 0, 1, 130
WHAT = {"out": "the picture", "source_out": "the source", "mask_out": "the edit mask"}  # that can be written
OWN = {*WHAT, "command", "mask", "json", "model", "device"}  # options that are no fields of a request
FLAGS = {  # where the user knows a field by another name
    "num_inference_steps": "--steps",
    "edit_mask": "--mask",
    "name": "NAME",
    "embedding_model": "RETOUCH_EMBEDDING_MODEL",
}

Request = TypeVar("Request", "EditRequest", "GenerateRequest")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    commands = {"generate": generate, "edit": edit, "inspect": inspect, "serve": serve, "key": key}
    options = parser_of(commands).parse_args(arguments)
    try:
        command: Command = options.command
        return command(options)
    except InputError as error:
        _say(f"retouch: {_as_flag(error, options)}")
        return BAD_INPUT
    except JobFailedError as error:
        _say(f"retouch: {_defect(error)}")
        return FAILED
    except (RetouchError, OSError) as error:
        _say(f"retouch: {error}")
        return FAILED
    except KeyboardInterrupt:
        _say("retouch: interrupted")
        return INTERRUPTED


def generate(options: argparse.Namespace) -> int:
    """`retouch generate`."""
    from service.api.schemas import GenerateRequest  # noqa: PLC0415  # `retouch --help` needs no pydantic models

    return _draw(options, _validated(GenerateRequest, _fields(options)).job())


def edit(options: argparse.Namespace) -> int:
    """`retouch edit`."""
    from service.api.schemas import EditRequest  # noqa: PLC0415

    fields = _fields(options)
    if options.mask is not None:
        fields["edit_mask"] = base64.b64encode(_read(options.mask)).decode("ascii")
    return _draw(options, _validated(EditRequest, fields).job())


def inspect(options: argparse.Namespace) -> int:
    """`retouch inspect`."""
    from service.inspection import as_data, table  # noqa: PLC0415
    from service.settings import read_settings  # noqa: PLC0415
    from service.workers.local import look_into  # noqa: PLC0415

    settings = read_settings(disk_path=None if options.disk is None else str(options.disk))
    if not settings.disk_path:
        raise InputError("disk", "name a directory of recordings, here or by RETOUCH_DISK_PATH")
    described = look_into(Path(settings.disk_path))
    sys.stdout.write(json.dumps(as_data(described)) + "\n" if options.json else "\n".join(table(described)) + "\n")
    return DONE


def serve(options: argparse.Namespace) -> int:
    """`retouch serve`."""
    from service.settings import read_settings  # noqa: PLC0415

    settings = read_settings(host=options.host, port=options.port, model=options.model, device=options.device)
    from service import logs, server  # noqa: PLC0415
    from service.app import create_app  # noqa: PLC0415  # with torch behind it
    from service.engine.embedder import check_embedder  # noqa: PLC0415
    from service.workers.local import check_model  # noqa: PLC0415

    server.check_exposure(settings)
    check_model(settings.model, settings.device)  # now, not when the server is up
    check_embedder(settings.embedding_model)
    app = create_app(settings)
    logs.configure(settings.log_level)
    server.serve(app, settings)
    return DONE


def key(options: argparse.Namespace) -> int:
    """`retouch key`."""
    from service.api.keys import make_key  # noqa: PLC0415

    secret, entry = make_key(options.name)
    sys.stdout.write(f"{secret}\n{entry}\n")
    _say("The first line is the key: it is shown once, and kept nowhere. The second belongs into RETOUCH_API_KEYS.")
    return DONE


def _draw(options: argparse.Namespace, job: Job) -> int:
    """Run one job here, write its files, and say what it cost."""
    from service.settings import read_settings  # noqa: PLC0415

    files = {name: getattr(options, name) for name in WHAT if getattr(options, name, None) is not None}
    if "out" in files and isinstance(job, EditJob) and job.dry_run:
        raise InputError("out", "a dry run draws no picture; --mask-out writes the mask")
    _check_files(files)
    settings = read_settings(model=options.model, device=options.device)
    store, outcome = _run(settings, job)
    with closing(store):
        receipt = outcome.receipt
        if outcome.image:
            files.setdefault("out", Path(f"retouch-{receipt.image_id}.png"))
        for name, path in files.items():
            png = _picture(name, store, outcome)
            if png is not None:
                _write(path, png)
                _say(f"{path}: {WHAT[name]}")
    if options.json:
        sys.stdout.write(json.dumps(receipt.as_dict()) + "\n")
    else:
        _say(_summary(receipt))
    return DONE


def _run(settings: Settings, job: Job) -> tuple[Store, Outcome]:
    from service.batching.runner import run  # noqa: PLC0415
    from service.workers.local import open_model, open_store  # noqa: PLC0415

    model = open_model(settings.model, **settings.model_options)
    store = open_store(settings.device, settings.cache_bytes, settings.disk_path, settings.disk_bytes)
    with _progress() as on_call:
        return store, Outcome.of(run(model, store, job, on_call))


@contextmanager
def _progress() -> Iterator[Callable[[Call], None]]:
    """A bar for each stage on stderr, nothing where that is no terminal."""
    from tqdm import tqdm  # noqa: PLC0415

    bars: dict[str, tqdm] = {}
    with ExitStack() as stack:

        def on_call(call: Call) -> None:
            if call.stage not in bars:
                bar = tqdm(total=call.num_steps, desc=call.stage, leave=False, disable=None)
                bars[call.stage] = stack.enter_context(bar)
            bars[call.stage].update()

        yield on_call


def _picture(name: str, store: Store, outcome: Outcome) -> bytes | None:
    """The PNG for one of `WHAT`; None where the job made none."""
    from service.api.images import encode_png, mask_image  # noqa: PLC0415

    if name == "out":
        return encode_png(outcome.image.image) if outcome.image else None
    if name == "mask_out":
        picture = outcome.image.image if outcome.image else None
        return encode_png(mask_image(outcome.mask.edit_mask, picture)) if outcome.mask else None
    recording = store.open(str(outcome.accepted.source_id))
    if recording is None:
        return None
    with recording:
        png = recording.blob("image")
    return png if isinstance(png, bytes) else None


def _fields(options: argparse.Namespace) -> dict[str, Any]:
    """What the user said, by the API's names."""
    return {name: value for name, value in vars(options).items() if name not in OWN and value is not None}


def _validated(schema: type[Request], fields: dict[str, Any]) -> Request:
    from pydantic import ValidationError  # noqa: PLC0415

    from service.api.schemas import first_error  # noqa: PLC0415

    try:
        return schema(**fields)
    except ValidationError as error:
        raise first_error(error.errors()[:1]) from error


def _as_flag(error: InputError, options: argparse.Namespace) -> str:
    """The error's text, with the field as the command line names it."""
    flag = FLAGS.get(error.field, error.field)
    if flag == "prompt" and options.command is generate:
        flag = "PROMPT"
    elif flag in vars(options):
        flag = "--" + flag.replace("_", "-")
    return f"{flag}: {error.message}"


def _defect(error: JobFailedError) -> str:
    """A service's clients are sent to its log; here the traceback stands above."""
    cause = error.__cause__
    return str(error) if cause is None else f"a defect, see above: {type(cause).__name__}: {cause}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError("mask", f"{path}: {error.strerror}") from error


def _check_files(files: Mapping[str, Path]) -> None:
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


def _target(name: str, path: Path) -> Path:
    """The file itself, where `path` is a link to it."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # links that go round
        raise InputError(name, f"{path}: {error}") from error


def _write(path: Path, png: bytes) -> None:
    """Whole or not at all: written beside, then renamed. A link stays one."""
    path = path.resolve()
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(png)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _summary(receipt: Receipt) -> str:
    """What the job cost, in a few words."""
    parts = [f"{receipt.seconds['total']:.1f} s"]
    if receipt.source_id is not None:
        parts.insert(0, f"{receipt.edited_ratio:.0%} of the picture changed")
    if receipt.macs_computed and receipt.macs_dense:
        parts.append(f"{receipt.macs_computed / receipt.macs_dense:.0%} of a dense run's multiplications")
    lines = [", ".join(parts)]
    lines += [f"{fallback.stage}: {fallback.reason}" for fallback in receipt.fallbacks]
    if receipt.unknown_words:
        lines.append(f"words that the model does not know: {', '.join(receipt.unknown_words)}")
    return "\n".join(lines)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
