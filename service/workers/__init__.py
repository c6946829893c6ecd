"""Where jobs run. All workers speak one protocol; the API knows no other."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from service.batching.states import State
from service.jobs import Job, Numbered, Sampling
from service.workers.numbers import WorkerNumbers

Blob = Literal["image", "edit_mask"]


@dataclass(frozen=True)
class Drawn:
    """A picture that is kept."""

    image_id: str
    prompt: str
    source_id: str | None  # of which it is an edit; it may have been deleted since
    sampling: Sampling


@dataclass(frozen=True)
class Lineage:
    """Where a picture comes from, and what was made of it."""

    picture: Drawn
    ancestors: tuple[Drawn, ...]  # the nearest first, as far as they are kept
    edits: tuple[Drawn, ...]  # direct ones


@dataclass(frozen=True)
class Card:
    """What to know of the model that draws, before it is asked."""

    name: str
    defaults: Sampling  # of a picture of which only the prompt is given
    max_pixels: int | None  # of a picture; None: as many as fit into memory
    words: tuple[str, ...]  # all that it knows; empty: not told


class Worker(Protocol):
    """Runs jobs and keeps what came of them."""

    @property
    def card(self) -> Card | None:
        """Of its model; None until that is loaded."""

    @property
    def state(self) -> State:
        """As of `service.batching.states`; ready: jobs are taken."""

    def check_ready(self) -> None:
        """Raises NotReadyError, with when to come again, unless jobs are taken."""

    def numbers(self) -> WorkerNumbers:
        """What was done so far, and how things are; waits for nothing."""

    def submit(self, jobs: Sequence[Job]) -> AsyncGenerator[Numbered, None]:
        """The events of the jobs of one request, as they come; all of them are taken, or none.

        Leaving the iterator early cancels them at their next step.

        Raises:
            NotReadyError: no job is taken at present.
            BusyError: there is no room for them, or not by their deadline.
            InputError: they are more than are taken at a time.
        """

    async def read(self, image_id: str, name: Blob, tenant: str) -> bytes | None:
        """A kept picture as PNG; None if the image was drawn and not edited, so that there is no edit mask.

        Raises:
            UnknownImageError: the tenant has no such image.
        """

    async def lineage(self, image_id: str, tenant: str) -> Lineage:
        """Where a kept picture comes from, and what was made of it.

        Raises:
            UnknownImageError: the tenant has no such image.
        """

    async def find(self, digest: str, tenant: str) -> str | None:
        """The tenant's picture with these pixels (`service.engine.core.pixels_digest`), if it is kept."""

    async def delete(self, image_id: str, tenant: str) -> None:
        """Forget an image.

        Raises:
            UnknownImageError: the tenant has no such image.
        """

    async def close(self) -> None:
        """Take no more jobs, end the taken ones at their next step, and free the device."""
