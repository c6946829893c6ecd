"""Requests that may come again: the same Idempotency-Key is the same job, and it is run once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from service.errors import InputError, RepeatedError
from service.jobs import Accepted, Event, ImageReady, MaskFound, Numbered, Preview, Receipt

HEADER = "Idempotency-Key"
HOUR = 3600.0  # seconds
Name = tuple[str, str]  # tenant and key
SMALL_BYTES = 1024  # of an event without a picture


@dataclass
class _Answer:
    """What a request was told, or will be."""

    said: str  # digest of what was asked
    num_left: int  # of its jobs, that have not ended
    events: list[Numbered] = field(default_factory=list)
    num_bytes: int = 0
    until: float = 0.0  # of the clock, when it has ended


class Repeats:
    """The events of jobs that ended well, for an hour; the oldest go first where they are more than `max_bytes`.

    What failed or was left is forgotten at once: it may be tried again.
    """

    def __init__(self, max_bytes: int, seconds: float = HOUR, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._clock = clock
        self._running: dict[Name, _Answer] = {}
        self._ended: dict[Name, _Answer] = {}  # the oldest first
        self._num_bytes = 0  # of those

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
        if (answer := self._known(name, digest)) is not None:
            for told in answer.events:
                yield told
            return
        self._running[name] = answer = _Answer(digest, num_jobs)
        try:
            async with aclosing(begin()) as events:
                async for told in events:
                    self._note(name, answer, told)
                    yield told
        finally:
            if self._running.get(name) is answer:
                del self._running[name]

    def forget(self, tenant: str, image_id: str) -> None:
        """A picture that its tenant has deleted is not told again, also by what has told only a part of it so far."""
        answers = self._running | self._ended  # a name is in one of them
        for name in [name for name, answer in answers.items() if name[0] == tenant and _tells(answer, image_id)]:
            if self._running.pop(name, None) is None:
                self._drop(name)

    def _known(self, name: Name, digest: str) -> _Answer | None:
        """What was told before, to the end."""
        answer = self._running.get(name) or self._ended.get(name)
        if answer is None:
            return None
        if answer.said != digest:
            raise InputError(HEADER, "was given to another request before")
        if name in self._running:
            raise RepeatedError(f"the request with this {HEADER} still runs")
        return answer

    def _note(self, name: Name, answer: _Answer, told: Numbered) -> None:
        _, event = told
        if isinstance(event, Preview):
            return
        answer.events.append(told)
        answer.num_bytes += _num_bytes(event)
        answer.num_left -= isinstance(event, Receipt)
        if not answer.num_left and self._running.get(name) is answer:  # nothing comes after it
            answer.until = self._clock() + self._seconds
            self._ended[name] = self._running.pop(name)
            self._num_bytes += answer.num_bytes
            self._make_room()

    def _forget_old(self) -> None:
        now = self._clock()
        while (name := next(iter(self._ended), None)) is not None and self._ended[name].until <= now:
            self._drop(name)

    def _make_room(self) -> None:
        while self._num_bytes > self._max_bytes:
            self._drop(next(iter(self._ended)))

    def _drop(self, name: Name) -> None:
        self._num_bytes -= self._ended.pop(name).num_bytes


def _tells(answer: _Answer, image_id: str) -> bool:
    """Whether it is, or will be, of this picture."""
    events = (event for _, event in answer.events)
    return any(isinstance(event, Accepted | ImageReady | Receipt) and event.image_id == image_id for event in events)


def _num_bytes(event: Event) -> int:
    match event:
        case ImageReady():
            return event.image.width * event.image.height * len(event.image.getbands())
        case MaskFound():
            return event.edit_mask.nbytes
        case _:
            return SMALL_BYTES
