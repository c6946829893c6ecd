"""Everything that can go wrong and has a name.

    RetouchError
    ├── InputError              what was asked cannot be done; names the field
    │   └── ConflictError       a value given beside a source differs from the source's
    ├── UnknownImageError       no recording has this id
    ├── BusyError               the queue is full; come back after `retry_after_seconds`
    ├── NotReadyError           the model is loading, or the service is draining
    └── JobFailedError          a defect of ours or of the device; the log has the traceback

Anything else that is raised is a defect.
"""

from __future__ import annotations


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


class BusyError(RetouchError):
    """The queue is full."""

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_seconds:.0f} s")
        self.retry_after_seconds = retry_after_seconds


class NotReadyError(RetouchError):
    """The model is still loading, or the service is shutting down."""


class JobFailedError(RetouchError):
    """The job met a defect; nothing of it was kept."""
