"""The native REST interface."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Request, Response

from service.api.images import encode_base64, encode_png, mask_image
from service.api.problems import documented
from service.api.schemas import Answer, EditRequest, GenerateRequest
from service.batching.batcher import check_ready
from service.errors import NotReadyError
from service.jobs import Job, Outcome
from service.workers import Blob, Worker

CLIENT_GONE = 499  # nginx's number, for the log; nobody reads the answer
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
async def generate(body: GenerateRequest, request: Request, worker: Works) -> Answer | Response:
    """Draw a picture from a prompt, and record how, so that it can be edited."""
    return await _answer(request, worker, body.job())


@router.post("/edit", response_model=Answer, responses=JOB_ERRORS, tags=["images"])
async def edit(body: EditRequest, request: Request, worker: Works) -> Answer | Response:
    """Change the words of a picture; only what they touch is computed again, all else stays as it is."""
    return await _answer(request, worker, await asyncio.to_thread(body.job))


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


async def _answer(request: Request, worker: Worker, job: Job) -> Answer | Response:
    """Run a job to its end, unless the client goes away first: then the job is cancelled."""
    outcome = asyncio.create_task(_outcome(worker, job))
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({outcome, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not outcome.done():
            return Response(status_code=CLIENT_GONE)
        answer = await asyncio.to_thread(_written, job, outcome.result())
    except asyncio.CancelledError as error:  # the server ends what runs when its time to drain is over
        raise NotReadyError("the service was shut down before the job was done") from error
    finally:
        outcome.cancel()
        gone.cancel()
        await asyncio.gather(outcome, gone, return_exceptions=True)
    request.state.log.update(
        image_id=answer.image_id,
        edited_ratio=answer.receipt.edited_ratio,
        stage_seconds={stage: round(seconds, 3) for stage, seconds in answer.receipt.seconds.items()},
    )
    return answer


async def _outcome(worker: Worker, job: Job) -> Outcome:
    async with aclosing(worker.submit(job)) as events:
        return Outcome.of([event async for event in events])


async def _gone(request: Request) -> None:
    """Returns when the client has closed its connection; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _written(job: Job, outcome: Outcome) -> Answer:
    """What a job told, as JSON; called in a thread, for PNGs take a while."""
    receipt, image, mask = outcome.receipt, outcome.image, outcome.mask
    kept = image is not None and job.cache == "read_write"
    return Answer(
        image_id=receipt.image_id,
        source_id=receipt.source_id,
        image=encode_base64(encode_png(image.image)) if image else None,
        image_url=f"/images/{receipt.image_id}" if kept else None,
        mask=encode_base64(encode_png(mask_image(mask.edit_mask, image.image if image else None))) if mask else None,
        receipt=receipt,
    )
