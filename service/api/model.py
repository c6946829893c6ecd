"""The model that draws here, as pages and clients need to know it before they ask."""

from __future__ import annotations

from fastapi import APIRouter, Request, Security
from pydantic import BaseModel, Field

from service.api.description import GATED, Described, documented, example_of
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


EXAMPLE = ModelCard(
    name="postcard", width=256, height=256, num_inference_steps=20, guidance_scale=4.0, sampler="ddim",
    samplers=list(SAMPLERS), max_pixels=2**20, words=["blue", "house", "mountain", "night", "red", "sky", "snow"],
)  # fmt: skip
ANSWERS: Described = {200: {"content": example_of(EXAMPLE)}, **documented(*GATED, 503)}


@router.get("/model", responses=ANSWERS)
async def model(request: Request) -> ModelCard:
    """The model, once it is loaded."""
    worker: Worker = request.app.state.worker
    if worker.card is None:
        worker.check_ready()
        raise NotReadyError("the model is still loading")
    return ModelCard.of(worker.card)
