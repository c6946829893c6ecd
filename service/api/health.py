"""Whether the service is alive, and whether it takes jobs: for whoever starts, restarts and balances services."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from service.api.description import Described, documented, example_of
from service.api.draining import Drain
from service.batching.states import HOPELESS, State, check_ready
from service.workers import Worker

router = APIRouter(tags=["service"])


class Health(BaseModel):
    """How it is."""

    state: State = Field(examples=["ready"])


ANSWERS: Described = {200: {"content": example_of(Health(state="ready"))}, **documented(500, 503)}


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", responses=ANSWERS)
async def healthz(request: Request) -> Health:
    """Whether this process is of any use: 503 when only a restart would help."""
    state = _state(request)
    if state in HOPELESS:
        check_ready(state)
    return Health(state=state)


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses=ANSWERS)
async def readyz(request: Request) -> Health:
    """Whether jobs are taken: the model is loaded, and the service is not shutting down."""
    worker: Worker = request.app.state.worker
    drain: Drain = request.app.state.drain
    if drain.is_begun:
        check_ready("draining")
    worker.check_ready()
    return Health(state="ready")


def _state(request: Request) -> State:
    worker: Worker = request.app.state.worker
    drain: Drain = request.app.state.drain
    return "draining" if drain.is_begun and worker.state != "dead" else worker.state
