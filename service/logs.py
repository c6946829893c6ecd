"""Logs: one rich line per request, nothing per step, no prompts."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from typing import Any, TextIO

import structlog
from fastapi.exceptions import ValidationException
from pydantic import ValidationError
from structlog.typing import ExcInfo

from service.exchange import Exchange
from service.jobs import Cancelled, EditJob

log = structlog.stdlib.get_logger("service.requests")

CARRIERS = (ValidationError, ValidationException)  # their texts hold what was given, prompts among it
CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


def configure(level: str) -> None:
    """Send all logs, the standard library's included, to stderr: JSON lines, or readable ones on a terminal."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    on_terminal = sys.stderr.isatty()
    endings: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=_print)]
        if on_terminal
        else [structlog.processors.ExceptionRenderer(_text), structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *endings],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def write(exchange: Exchange, *, prompts: bool) -> None:
    """The canonical line of a request; with the `prompts` of its jobs only where that is wanted."""
    level = logging.DEBUG if exchange.is_routine else logging.INFO
    line = {"method": exchange.method, "route": exchange.route, "seconds": round(exchange.seconds, 4)}
    line |= exchange.fields | {"status": exchange.status} | _of_jobs(exchange)
    if exchange.is_gone:
        line["problem"] = "client-gone"
    log.log(level, "request", **line, **(_words(exchange) if prompts else {}))


def _of_jobs(exchange: Exchange) -> dict[str, Any]:
    """What the jobs of a request did; seconds are their sum."""
    fields: dict[str, Any] = {}
    if receipts := exchange.receipts:
        stages = dict.fromkeys(stage for receipt in receipts for stage in receipt.seconds)
        seconds = {stage: sum(receipt.seconds.get(stage, 0.0) for receipt in receipts) for stage in stages}
        fields["image_id"] = " ".join(receipt.image_id for receipt in receipts)
        fields["edited_ratio"] = max(receipt.edited_ratio for receipt in receipts)
        fields["stage_seconds"] = {stage: round(its, 3) for stage, its in seconds.items()}
        fields["fallbacks"] = [f"{its.stage}: {its.reason}" for receipt in receipts for its in receipt.fallbacks]
    if any(isinstance(run.ending, Cancelled) for run in exchange.runs):
        fields["cancelled"] = True
    return fields


def _words(exchange: Exchange) -> dict[str, Any]:
    """The prompts."""
    jobs = [run.job for run in exchange.runs]
    words = {"prompts": [job.prompt for job in jobs]} if jobs else {}
    sources = [job.source_prompt for job in jobs if isinstance(job, EditJob) and job.source_prompt is not None]
    return words | ({"source_prompts": sources} if sources else {})


def _print(stream: TextIO, exc_info: ExcInfo) -> None:
    stream.write(_text(exc_info))


def _text(exc_info: ExcInfo) -> str:
    """The traceback as Python writes it, but without the texts of errors that repeat what was given."""
    return "".join(_parts(exc_info[1])).rstrip("\n")


def _parts(error: BaseException, seen: tuple[BaseException, ...] = ()) -> Iterator[str]:
    """The causes first, as Python does; `seen` ends those that go round."""
    seen = (*seen, error)
    before, how = (error.__cause__, CAUSE) if error.__suppress_context__ else (error.__context__, CONTEXT)
    if before is not None and before not in seen:
        yield from _parts(before, seen)
        yield how
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(error.__traceback__)
    if isinstance(error, CARRIERS):
        yield f"{type(error).__module__}.{type(error).__qualname__}: {len(error.errors())} errors in what was given\n"
    else:
        yield from traceback.format_exception_only(error)
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _parts(one, seen)
