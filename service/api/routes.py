"""Pictures are drawn and edited: the native REST interface."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response, Security

from service.api.answers import answer_of, frame_of
from service.api.description import JOBS, Described, documented, example_of
from service.api.examples import DRAWN, EDITED, answer_with
from service.api.gates import GatedRoute, bearer
from service.api.problems import problem_of
from service.api.repeats import HEADER
from service.api.running import events_of, unless_gone
from service.api.schemas import Answer, EditRequest, GenerateRequest
from service.api.streams import HEADERS, MEDIA_TYPE, EventStream, Frames, frame
from service.exchange import CLIENT_GONE
from service.jobs import Job, Numbered, Outcome, Receipt

STREAM = """event: accepted
data: {"image_id": "9c1e", "source_id": "6f1d", "num_inference_steps": 20}

event: mask
data: {"mask": "iVBORw0KGgo...", "edited_ratio": 0.11}

event: preview
data: {"step": 9, "image": "iVBORw0KGgo...", "box": [96, 120, 168, 176]}

event: image
data: {"image_id": "9c1e", "image": "iVBORw0KGgo...", "image_url": "/images/9c1e"}

event: receipt
data: {"image_id": "9c1e", "edited_ratio": 0.11, "seconds": {"total": 1.9}}

"""
WELL = (
    "The picture; with `stream` the events by which it comes: `accepted`, `mask` (of an edit), `preview` (as many as"
    " were asked for), `image` (not after a dry run), and at the end `receipt`, or `error` with a problem. A comment"
    " keeps the line open every 15 s"
)
TOLD: dict[str, Any] = {"schema": {"type": "string"}, "description": "With `stream`"}


def _answers(receipt: Receipt) -> Described:
    """All of a job that may end with such a receipt."""
    content = {MEDIA_TYPE: {"schema": {"type": "string"}, "example": STREAM}, **example_of(answer_with(receipt))}
    return {
        200: {"description": WELL, "content": content, "headers": dict.fromkeys(HEADERS, TOLD)},
        **documented(*JOBS),
    }


router = APIRouter(route_class=GatedRoute, dependencies=[Security(bearer)], tags=["images"])

Key = Annotated[
    str | None,
    Header(
        alias=HEADER,
        min_length=1,
        max_length=200,
        description="The same key with the same request is the same answer, for an hour: the job is run once",
        examples=["0b5e1a54-0f7f-4a0f-9a57-3b1d9f4f6a11"],
    ),
]


@router.post("/generate", response_model=Answer, responses=_answers(DRAWN))
async def generate(body: GenerateRequest, request: Request, key: Key = None) -> Any:  # noqa: ARG001  # read below
    """Draw a picture from a prompt, and record how, so that it can be edited."""
    return await _answer(request, body, body.job(request.state.tenant))


@router.post("/edit", response_model=Answer, responses=_answers(EDITED))
async def edit(body: EditRequest, request: Request, key: Key = None) -> Any:  # noqa: ARG001  # the same
    """Change the words of a picture; only what they touch is computed again, all else stays as it is."""
    return await _answer(request, body, await asyncio.to_thread(body.job, request.state.tenant))


async def _answer(request: Request, body: GenerateRequest | EditRequest, job: Job) -> Any:
    """Run a job to its end, unless the client goes away first: then the job is cancelled."""
    events = events_of(request, [job], f"{request.url.path} {body.model_dump_json()}")
    if body.stream:
        send_seconds: float = request.app.state.send_seconds
        return EventStream(_frames(job, events), partial(_error_frame, request), send_seconds=send_seconds)
    answer = await unless_gone(request.receive, _folded(job, events))
    return answer or Response(status_code=CLIENT_GONE)


async def _folded(job: Job, events: AsyncGenerator[Numbered, None]) -> Answer:
    async with aclosing(events):
        outcome = Outcome.of([event async for _, event in events])
    return await asyncio.to_thread(answer_of, job, outcome)


async def _frames(job: Job, events: AsyncGenerator[Numbered, None]) -> Frames:
    async with aclosing(events):
        async for _, event in events:
            yield await asyncio.to_thread(frame_of, job, event)


def _error_frame(request: Request, error: Exception) -> bytes:
    problem = problem_of(error)
    request.state.log["problem"] = problem.name
    return frame("error", problem.model_dump_json(exclude_none=True))
