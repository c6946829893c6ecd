"""The model that draws here, as pages and clients need to know it before they ask."""

from __future__ import annotations

from fastapi import APIRouter, Request, Security
from pydantic import BaseModel, Field

from service.api.description import GATED, documented
from service.api.gates import GatedRoute, bearer
from service.errors import NotReadyError
from service.jobs import SAMPLERS, Sampler
from service.workers import Card, Worker

router = APIRouter(route_class=GatedRoute, dependencies=[Security(bearer)], tags=["service"])


class ModelCard(BaseModel):
    """The model, and what it does where nothing else is asked."""

    name: str = Field(examples=["postcard"])
    width: int = Field(description="Pixels")
    height: int = Field(description="Pixels")
    num_inference_steps: int
    guidance_scale: float
    sampler: Sampler
    samplers: list[Sampler] = Field(description="All that may be asked for")
    max_pixels: int | None = Field(description="Of a picture, width times height")
    words: list[str] | None = Field(description="All that it knows; null if it does not tell")

    @classmethod
    def of(cls, card: Card) -> ModelCard:
        """As clients are told."""
        its = card.defaults
        return cls(
            name=card.name,
            width=its.width,
            height=its.height,
            num_inference_steps=its.num_inference_steps,
            guidance_scale=its.guidance_scale,
            sampler=its.sampler,
            samplers=list(SAMPLERS),
            max_pixels=card.max_pixels,
            words=list(card.words) or None,
        )


@router.get("/model", responses=documented(*GATED, 503))
async def model(request: Request) -> ModelCard:
    """The model, once it is loaded."""
    worker: Worker = request.app.state.worker
    if worker.card is None:
        worker.check_ready()
        raise NotReadyError("the model is still loading")
    return ModelCard.of(worker.card)
