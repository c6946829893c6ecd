"""OpenAI's Images interface: the same jobs as those of the native routes, for the clients that people have.

An edit there is of an uploaded picture. Here it is of one that was drawn here, which is known again by its pixels.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response, Security

from service.api.gates import GatedRoute, bearer
from service.api.openai import description
from service.api.openai.answers import Answers, Images
from service.api.openai.errors import failure_of
from service.api.openai.forms import read_form
from service.api.openai.images import UNKNOWN
from service.api.openai.models import card_of, check_model
from service.api.openai.schemas import GenerationsRequest
from service.api.openai.streams import frame_of, frames_of, interval
from service.api.openai.uploads import FILES, Upload
from service.api.problems import problem_of
from service.api.routes import Key
from service.api.running import events_of, events_when_made, unless_gone
from service.api.streams import EventStream
from service.errors import InputError
from service.exchange import CLIENT_GONE
from service.jobs import Event, Job, Numbered, Outcome
from service.workers import Worker

PREFIX = "/v1/"  # of all that OpenAI's clients ask for

router = APIRouter(route_class=GatedRoute, dependencies=[Security(bearer)], prefix="/v1/images", tags=["openai"])


@router.post("/generations", response_model=Images, responses=description.pictures("image_generation"))
async def generations(body: GenerationsRequest, request: Request, key: Key = None) -> Any:  # noqa: ARG001  # read below
    """Draw pictures from a prompt."""
    body.check()
    check_model(request, body.model)
    num_steps = 0
    if body.partial_images:
        num_steps = body.num_inference_steps or card_of(request).defaults.num_inference_steps
    natives = body.natives(interval(body.partial_images, num_steps))
    jobs = [native.job(request.state.tenant) for native in natives]
    events = events_of(request, jobs, f"{request.url.path} {body.model_dump_json()}")
    return await _answer(request, Answers("image_generation", body, _base_url(request)), events)


@router.post(
    "/edits",
    response_model=Images,
    responses=description.pictures("image_edit"),
    openapi_extra=description.form(),
)
async def edits(request: Request, key: Key = None) -> Any:  # noqa: ARG001  # the same
    """Change the words of a picture that was drawn here; with a mask, only where that is transparent."""
    form = await read_form(request, FILES)
    upload = await asyncio.to_thread(Upload.of, form)
    body = upload.body
    check_model(request, body.model)
    said = f"{request.url.path} {body.model_dump_json()} {upload.digest} {upload.edit_mask}"
    events = events_when_made(request, partial(_edit, request, upload), 1, said)
    return await _answer(request, Answers("image_edit", body, _base_url(request), upload.source), events)


async def _edit(request: Request, upload: Upload) -> list[Job]:
    """The one job of it. InputError where no picture of the tenant has these pixels."""
    worker: Worker = request.app.state.worker
    tenant: str = request.state.tenant
    image_id = await worker.find(upload.digest, tenant)
    if image_id is None:
        raise InputError("image", UNKNOWN)
    num_steps, num_partials = 0, upload.body.partial_images
    if num_partials:
        num_steps = (await worker.lineage(image_id, tenant)).picture.sampling.num_inference_steps
    native = upload.body.native(image_id, upload.edit_mask, interval(num_partials, num_steps))
    return [await asyncio.to_thread(native.job, tenant)]


async def _answer(request: Request, answers: Answers, events: AsyncGenerator[Numbered, None]) -> Any:
    """Run the jobs at once, to their end, unless the client goes away first: then they are cancelled."""
    if answers.body.stream:
        send_seconds: float = request.app.state.send_seconds
        return EventStream(frames_of(answers, events), partial(_error_frame, request), send_seconds=send_seconds)
    answer = await unless_gone(request.receive, _folded(answers, events, answers.body.n))
    return answer or Response(status_code=CLIENT_GONE)


async def _folded(answers: Answers, events: AsyncGenerator[Numbered, None], num_jobs: int) -> Response:
    told: list[list[Event]] = [[] for _ in range(num_jobs)]
    async with aclosing(events):
        async for number, event in events:
            told[number].append(event)
    content = await asyncio.to_thread(answers.images, [Outcome.of(one) for one in told])
    return Response(content, media_type="application/json")


def _error_frame(request: Request, error: Exception) -> bytes:
    problem = problem_of(error)
    request.state.log["problem"] = problem.name
    return frame_of(failure_of(problem))


def _base_url(request: Request) -> str:
    return str(request.base_url).rstrip("/")
