"""The native REST interface."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Request, Response

from service.api.answers import answer_of, frame_of
from service.api.problems import documented, problem_of
from service.api.running import CLIENT_GONE, events_of, unless_gone
from service.api.schemas import Answer, EditRequest, GenerateRequest
from service.api.streams import EventStream, Frames, frame
from service.batching.batcher import check_ready
from service.jobs import Event, Job, Outcome
from service.workers import Blob, Worker

JOB_ERRORS = documented(404, 413, 422, 429, 500, 503)
PNG: dict[str, Any] = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
PNG_ANSWERS = {200: {"content": PNG, "description": "The PNG"}, **documented(404, 422)}

router = APIRouter()


async def worker_of(request: Request) -> Worker:
    """Where this app's jobs run; its lifespan opened it."""
    worker: Worker = request.app.state.worker
    return worker


Works = Annotated[Worker, Depends(worker_of)]
ImageId = Annotated[str, Path(min_length=1, max_length=100)]


@router.post("/generate", response_model=Answer, responses=JOB_ERRORS, tags=["images"])
async def generate(body: GenerateRequest, request: Request) -> Answer | Response:
    """Draw a picture from a prompt, and record how, so that it can be edited."""
    return await _answer(request, body.job(), stream=body.stream)


@router.post("/edit", response_model=Answer, responses=JOB_ERRORS, tags=["images"])
async def edit(body: EditRequest, request: Request) -> Answer | Response:
    """Change the words of a picture; only what they touch is computed again, all else stays as it is."""
    return await _answer(request, await asyncio.to_thread(body.job), stream=body.stream)


@router.get("/images/{image_id}", response_class=Response, responses=PNG_ANSWERS, tags=["images"])
async def image(image_id: ImageId, worker: Works) -> Response:
    """A picture that was drawn here."""
    return await _png(worker, image_id, "image")


@router.get("/images/{image_id}/mask", response_class=Response, responses=PNG_ANSWERS, tags=["images"])
async def mask(image_id: ImageId, worker: Works) -> Response:
    """Where an edited picture changed, in white."""
    return await _png(worker, image_id, "edit_mask")


@router.delete("/images/{image_id}", status_code=204, responses=documented(404, 422), tags=["images"])
async def delete(image_id: ImageId, worker: Works) -> None:
    """Forget a picture and how it was drawn. Edits of it stay."""
    await worker.delete(image_id, "")


@router.get("/healthz", responses=documented(503), tags=["service"])
async def healthz(worker: Works) -> dict[str, str]:
    """Whether this process is of any use: 503 when only a restart would help."""
    if worker.state == "dead":
        check_ready("dead")
    return {"state": worker.state}


@router.get("/readyz", responses=documented(503), tags=["service"])
async def readyz(worker: Works) -> dict[str, str]:
    """Whether jobs are taken: the model is loaded, and the service is not shutting down."""
    check_ready(worker.state)
    return {"state": worker.state}


async def _png(worker: Worker, image_id: str, name: Blob) -> Response:
    png = await worker.read(image_id, name, "")
    if png is None:
        raise HTTPException(404, f"the image {image_id!r} was drawn, not edited: it has no edit mask")
    return Response(png, media_type="image/png")


async def _answer(request: Request, job: Job, *, stream: bool) -> Answer | Response:
    """Run a job to its end, unless the client goes away first: then the job is cancelled."""
    events = events_of(request, job)
    if stream:
        return EventStream(_frames(job, events), partial(_error_frame, request))
    answer = await unless_gone(request.receive, _folded(job, events))
    return answer or Response(status_code=CLIENT_GONE)


async def _folded(job: Job, events: AsyncGenerator[Event, None]) -> Answer:
    async with aclosing(events):
        outcome = Outcome.of([event async for event in events])
    return await asyncio.to_thread(answer_of, job, outcome)


async def _frames(job: Job, events: AsyncGenerator[Event, None]) -> Frames:
    async with aclosing(events):
        async for event in events:
            yield await asyncio.to_thread(frame_of, job, event)


def _error_frame(request: Request, error: Exception) -> bytes:
    problem = problem_of(error)
    request.state.log["problem"] = problem.name
    return frame("error", problem.model_dump_json(exclude_none=True))
