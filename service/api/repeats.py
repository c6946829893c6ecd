"""Requests that may come again: the same Idempotency-Key is the same job, and it is run once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from service.errors import InputError, RepeatedError
from service.jobs import Event, ImageReady, MaskFound, Numbered, Preview, Receipt

HEADER = "Idempotency-Key"
HOUR = 3600.0  # seconds
SMALL_BYTES = 1024  # of an event without a picture


@dataclass
class _Answer:
    """What a request was told, or will be."""

    said: str  # digest of what was asked
    num_left: int  # of its jobs, that have not ended
    events: list[Numbered] = field(default_factory=list)
    num_bytes: int = 0
    until: float | None = None  # None while it runs


class Repeats:
    """The events of jobs that ended well, for an hour; the oldest go first where they are more than `max_bytes`.

    What failed or was left is forgotten at once: it may be tried again.
    """

    def __init__(self, max_bytes: int, seconds: float = HOUR, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._clock = clock
        self._answers: dict[tuple[str, str], _Answer] = {}

    async def once(
        self, tenant: str, key: str, said: str, begin: Callable[[], AsyncGenerator[Numbered, None]], num_jobs: int = 1
    ) -> AsyncGenerator[Numbered, None]:
        """The events of the jobs that `begin` begins, or again those of the ones that had this key; previews are not.

        `said` stands for all that was asked.

        Raises:
            RepeatedError: those still run.
            InputError: they were asked for something else.
        """
        self._forget_old()
        name, digest = (tenant, key), hashlib.sha256(said.encode()).hexdigest()
        if (answer := self._answers.get(name)) is not None:
            _check_same(answer, digest)
            for told in answer.events:
                yield told
            return
        self._answers[name] = answer = _Answer(digest, num_jobs)
        try:
            async with aclosing(begin()) as events:
                async for told in events:
                    self._note(answer, told)
                    yield told
        finally:
            if answer.until is None:
                del self._answers[name]
        self._make_room()

    def forget(self, image_id: str) -> None:
        """A deleted picture is told to nobody."""
        self._answers = {name: answer for name, answer in self._answers.items() if not _tells(answer, image_id)}

    def _note(self, answer: _Answer, told: Numbered) -> None:
        _, event = told
        if isinstance(event, Preview):
            return
        answer.events.append(told)
        answer.num_bytes += _num_bytes(event)
        answer.num_left -= isinstance(event, Receipt)
        if not answer.num_left:  # nothing comes after it
            answer.until = self._clock() + self._seconds

    def _forget_old(self) -> None:
        now = self._clock()
        self._answers = {
            name: answer for name, answer in self._answers.items() if answer.until is None or answer.until > now
        }

    def _make_room(self) -> None:
        done = [(answer.until, name) for name, answer in self._answers.items() if answer.until is not None]
        num_bytes = sum(self._answers[name].num_bytes for _, name in done)
        for _, name in sorted(done):
            if num_bytes <= self._max_bytes:
                return
            num_bytes -= self._answers.pop(name).num_bytes


def _check_same(answer: _Answer, digest: str) -> None:
    if answer.said != digest:
        raise InputError(HEADER, "was given to another request before")
    if answer.until is None:
        raise RepeatedError(f"the request with this {HEADER} still runs")


def _tells(answer: _Answer, image_id: str) -> bool:
    return any(isinstance(event, Receipt) and event.image_id == image_id for _, event in answer.events)


def _num_bytes(event: Event) -> int:
    match event:
        case ImageReady():
            return event.image.width * event.image.height * len(event.image.getbands())
        case MaskFound():
            return event.edit_mask.nbytes
        case _:
            return SMALL_BYTES
