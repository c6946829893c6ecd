"""The pictures that were drawn here: as files, as a family, and forgotten. Another tenant's are not there."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response, Security
from pydantic import BaseModel, Field

from service.api.answers import url_of
from service.api.description import GATED, Described, documented, example_of
from service.api.gates import GatedRoute, bearer
from service.api.repeats import Repeats
from service.errors import NoMaskError
from service.workers import Blob, Drawn, Worker

CACHED = {"Cache-Control": "private, no-cache", "Vary": "Authorization"}  # it may have been deleted since: 304 is quick
TEXT: dict[str, Any] = {"schema": {"type": "string"}}
ERRORS = documented(*GATED, 404, 422)
PNG: Described = {
    200: {
        "description": "The PNG",
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        "headers": dict.fromkeys(["ETag", *CACHED], TEXT),
    },
    304: {"description": "The client has it", "headers": dict.fromkeys(["ETag", *CACHED], TEXT)},
    **ERRORS,
}

router = APIRouter(route_class=GatedRoute, dependencies=[Security(bearer)], prefix="/images", tags=["images"])

ImageId = Annotated[str, Path(min_length=1, max_length=100, examples=["6f1d0c2b9a"])]
IfNoneMatch = Annotated[str, Header(alias="If-None-Match", description="ETags of what the client has")]


class Picture(BaseModel):
    """A picture that is kept."""

    image_id: str
    prompt: str
    source_id: str | None = Field(description="Of which it is an edit; it may have been deleted since")
    image_url: str

    @classmethod
    def of(cls, drawn: Drawn) -> Picture:
        """As clients are told."""
        return cls(
            image_id=drawn.image_id,
            prompt=drawn.prompt,
            source_id=drawn.source_id,
            image_url=url_of(drawn.image_id),
        )


class Family(BaseModel):
    """Where a picture comes from, and what was made of it."""

    picture: Picture
    ancestors: list[Picture] = Field(description="The nearest first, as far as they are kept")
    edits: list[Picture] = Field(description="Direct ones")


@router.head("/{image_id}", include_in_schema=False)
@router.get("/{image_id}", response_class=Response, responses=PNG)
async def image(image_id: ImageId, request: Request, if_none_match: IfNoneMatch = "") -> Response:
    """A picture."""
    return await _png(request, image_id, "image", if_none_match)


@router.head("/{image_id}/mask", include_in_schema=False)
@router.get("/{image_id}/mask", response_class=Response, responses=PNG)
async def mask(image_id: ImageId, request: Request, if_none_match: IfNoneMatch = "") -> Response:
    """Where an edited picture changed, in white."""
    return await _png(request, image_id, "edit_mask", if_none_match)


OLD = Picture(
    image_id="916638319f32070b4cb6",
    prompt="a snow mountain under a night sky with a red house",
    source_id=None,
    image_url="/images/916638319f32070b4cb6",
)
NEW = Picture(
    image_id="be908085a48dfa65e3ae",
    prompt="a snow mountain under a night sky with a blue house",
    source_id=OLD.image_id,
    image_url="/images/be908085a48dfa65e3ae",
)
FAMILY: Described = {200: {"content": example_of(Family(picture=NEW, ancestors=[OLD], edits=[]))}, **ERRORS}


@router.get("/{image_id}/lineage", responses=FAMILY)
async def lineage(image_id: ImageId, request: Request) -> Family:
    """Where a picture comes from, and what was made of it."""
    found = await _worker(request).lineage(image_id, request.state.tenant)
    return Family(
        picture=Picture.of(found.picture),
        ancestors=[Picture.of(one) for one in found.ancestors],
        edits=[Picture.of(one) for one in found.edits],
    )


@router.delete("/{image_id}", status_code=204, responses=ERRORS)
async def delete(image_id: ImageId, request: Request) -> None:
    """Forget a picture and how it was drawn. Edits of it stay."""
    tenant: str = request.state.tenant
    repeats: Repeats = request.app.state.repeats
    try:
        await _worker(request).delete(image_id, tenant)
    finally:  # also of one that has left the store, which a repeated request would be told again
        repeats.forget(tenant, image_id)


async def _png(request: Request, image_id: str, name: Blob, if_none_match: str) -> Response:
    headers = {"ETag": f'"{image_id}.{name}"', **CACHED}
    worker, tenant = _worker(request), request.state.tenant
    is_known = _has(if_none_match, headers["ETag"])
    if is_known and ((await worker.lineage(image_id, tenant)).picture.source_id or name == "image"):
        return Response(status_code=304, headers=headers)  # no file is made for who has it
    png = await worker.read(image_id, name, tenant)
    if png is None:
        raise NoMaskError(image_id)
    return Response(png, headers=headers, media_type="image/png")


def _has(if_none_match: str, etag: str) -> bool:
    came = [one.strip().removeprefix("W/") for one in if_none_match.split(",")]
    return etag in came or "*" in came


def _worker(request: Request) -> Worker:
    worker: Worker = request.app.state.worker
    return worker
