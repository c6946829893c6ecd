"""Where jobs run. All workers speak one protocol; the API knows no other."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Literal, Protocol

from service.batching.batcher import State
from service.jobs import Event, Job

Blob = Literal["image", "edit_mask"]


class Worker(Protocol):
    """Runs jobs and keeps what came of them."""

    @property
    def state(self) -> State:
        """loading, ready, draining (no new jobs), dead (for good)."""

    def submit(self, job: Job) -> AsyncGenerator[Event, None]:
        """The job's events, as they come; leaving the iterator early cancels the job at its next step.

        Raises:
            NotReadyError: no job is taken at present.
            BusyError: the queue is full.
        """

    async def read(self, image_id: str, name: Blob) -> bytes | None:
        """A kept picture as PNG; None if the image was drawn and not edited, so that there is no edit mask.

        Raises:
            UnknownImageError: there is no such image.
        """

    async def delete(self, image_id: str) -> None:
        """Forget an image.

        Raises:
            UnknownImageError: there is no such image.
        """

    async def close(self) -> None:
        """Take no more jobs, end the taken ones at their next step, and free the device."""
