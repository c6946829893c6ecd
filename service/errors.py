"""Everything that can go wrong and has a name.

    RetouchError
    ├── InputError              what was asked cannot be done; names the field
    │   └── ConflictError       a value given beside a source differs from the source's
    ├── UnknownImageError       no recording has this id
    ├── NoMaskError             the image was drawn, not edited: there is no edit mask of it
    ├── UnauthorizedError       no key came with the request, or one that is not known here
    ├── RepeatedError           a request with this idempotency key still runs
    ├── BusyError               the queue is full, or the deadline cannot be met; come back after `retry_after_seconds`
    │   └── LimitError          this key has used up what it may do at a time, or in a minute
    ├── DeadlineError           the time that the client gave was over before the job was done
    ├── NotReadyError           the model is loading, or the service is draining; `retry_after_seconds` likewise
    └── JobFailedError          a defect of ours or of the device; the log has the traceback

Anything else that is raised is a defect.
"""

from __future__ import annotations

import math


class RetouchError(Exception):
    """Base of all named errors; its text may be shown to the user."""


class InputError(RetouchError):
    """What was asked cannot be done. `field` is the name of the argument as the user knows it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class ConflictError(InputError):
    """A value was given beside a source, and the source has another one."""


class UnknownImageError(RetouchError):
    """No recording has this id: it never existed, was deleted, or left the cache."""

    def __init__(self, image_id: str) -> None:
        super().__init__(f"no image has the id {image_id!r}")
        self.image_id = image_id


class NoMaskError(RetouchError):
    """The image was drawn, not edited: there is no edit mask of it."""

    def __init__(self, image_id: str) -> None:
        super().__init__(f"the image {image_id!r} was drawn, not edited: it has no edit mask")
        self.image_id = image_id


class UnauthorizedError(RetouchError):
    """No key came with the request, or one that is not known here."""


class RepeatedError(RetouchError):
    """A request with this idempotency key still runs: its answer is not there yet."""


class BusyError(RetouchError):
    """The job is not taken now: the queue is full, or so long that the deadline cannot be met."""

    def __init__(self, retry_after_seconds: float, reason: str = "the queue is full") -> None:
        super().__init__(reason + later(retry_after_seconds))
        self.retry_after_seconds = retry_after_seconds


def later(seconds: float) -> str:
    """The end of a refusal's text; whole seconds, rounded up as those of `Retry-After` are."""
    return f"; try again in {math.ceil(seconds)} s"


class LimitError(BusyError):
    """The key has used up what it may do, at a time or in a minute."""


class DeadlineError(RetouchError):
    """The time that the client gave was over before the job was done; nothing of it was kept."""

    def __init__(self, deadline_seconds: float) -> None:
        super().__init__(f"the deadline of {deadline_seconds:g} s was over before the job was done")
        self.deadline_seconds = deadline_seconds


class NotReadyError(RetouchError):
    """The model is still loading, or the service is shutting down."""

    def __init__(self, reason: str, retry_after_seconds: float = 5.0) -> None:
        """By default about the time in which a model is loaded, or a service replaced."""
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class JobFailedError(RetouchError):
    """The job met a defect; nothing of it was kept."""
