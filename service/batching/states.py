"""How a batcher is, and what that means for who asks."""

from __future__ import annotations

from typing import Literal

from service.errors import NotReadyError

State = Literal["loading", "ready", "restarting", "hung", "draining", "dead"]

REASONS: dict[State, str] = {  # why no job is taken
    "loading": "the model is still loading",
    "restarting": "the device thread has died, and is being started again",
    "hung": "the device has not ended its step for too long",
    "draining": "the service is shutting down",
    "dead": "the device thread has ended",
}
HOPELESS: set[State] = {"hung", "dead"}  # whoever restarts services should restart this one
RETRY_SECONDS, HOPELESS_RETRY_SECONDS = 5.0, 60.0  # a model is loaded, or a service replaced, in about this time


def check_ready(state: State, retry_after_seconds: float | None = None) -> None:
    """Raises NotReadyError, with the reason and when to come again, unless the state is `ready`."""
    if state == "ready":
        return
    usual = HOPELESS_RETRY_SECONDS if state in HOPELESS else RETRY_SECONDS
    raise NotReadyError(REASONS[state], usual if retry_after_seconds is None else retry_after_seconds)
