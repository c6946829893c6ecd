"""What jobs have had of the device, where calls end when they return, and where they go on behind the host.

On a GPU a call returns when it is asked for. Left to itself the host would ask for all steps of a job at once, and no
other could join, be cancelled or be late until they were done; and it would charge whoever happens to wait. So the host
is one call ahead there, and each call is charged the time from the end of the one before it to its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from service.batching.usage import Usage, parts

Share = tuple[Usage, int]  # of a call: whose it is, and its rows


class Ended(Protocol):
    """A mark on a device's stream: torch's `Event`."""

    def synchronize(self) -> None:
        """Returns when all that was asked for before it is done."""


class Meter(Protocol):
    """Charges jobs."""

    def called(self, shares: Sequence[Share], seconds: float) -> None:
        """A call has returned to the host, after so many seconds."""

    def advanced(self, usage: Usage, seconds: float) -> None:
        """A job's script has run for so long on the host."""

    def settle(self) -> None:
        """All that was asked for is done and charged from now on."""


class HostMeter:
    """Of a device whose calls have ended when they return."""

    def called(self, shares: Sequence[Share], seconds: float) -> None:
        """Each job's part is its own."""
        _charge(shares, seconds)

    def advanced(self, usage: Usage, seconds: float) -> None:
        """The device's thread is part of the device."""
        usage.seconds += seconds

    def settle(self) -> None:
        """It always is."""


class DeviceMeter:
    """Of one that runs behind its host, by one call."""

    def __init__(self, mark: Callable[[], Ended], clock: Callable[[], float] = time.perf_counter) -> None:
        """`mark` puts one at the end of what was asked for."""
        self._mark = mark
        self._clock = clock
        self._call: tuple[Sequence[Share], Ended] | None = None  # that was asked for
        self._since = clock()  # when the one before it had ended, or it was asked for

    def called(self, shares: Sequence[Share], seconds: float) -> None:
        """Waits for the call before this one."""
        ended = self._mark()
        if self._call is None:
            self._since = self._clock() - seconds
        self.settle()
        self._call = shares, ended

    def advanced(self, usage: Usage, seconds: float) -> None:
        """Beside a call it is part of that one's time; so is what it waited for one."""
        if self._call is None:
            usage.seconds += min(seconds, self._clock() - self._since)

    def settle(self) -> None:
        """Waits for the call that was asked for."""
        if self._call is None:
            return
        shares, ended = self._call
        ended.synchronize()
        now = self._clock()
        _charge(shares, now - self._since)
        self._call, self._since = None, now


def _charge(shares: Sequence[Share], seconds: float) -> None:
    num_rows = [rows for _, rows in shares]
    for (usage, _), part in zip(shares, parts(seconds, num_rows), strict=True):
        usage.seconds += part
        usage.num_calls += 1
