"""The models that OpenAI's clients may choose from: the one that draws here."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, HTTPException, Request, Security
from pydantic import BaseModel, Field

from service.api.description import GATED
from service.api.gates import GatedRoute, bearer
from service.api.openai.description import documented
from service.errors import InputError, NotReadyError
from service.workers import Card, Worker

router = APIRouter(route_class=GatedRoute, dependencies=[Security(bearer)], prefix="/v1/models", tags=["openai"])


class Model(BaseModel):
    """A model."""

    id: str = Field(examples=["postcard"])
    object: Literal["model"] = "model"
    created: int = Field(0, description="Not known here")
    owned_by: str = "retouch"


class Models(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Model]


@router.get("", responses=documented(*GATED, 503))
async def models(request: Request) -> Models:
    """The model that draws here, once it is loaded."""
    return Models(data=[Model(id=card_of(request).name)])


@router.get("/{model_id:path}", responses=documented(*GATED, 404, 422, 503))
async def model(model_id: str, request: Request) -> Model:
    """The model, by its name."""
    name = card_of(request).name
    if model_id != name:
        raise HTTPException(404, f"there is no model {model_id!r} here, but {name!r}")
    return Model(id=name)


def check_model(request: Request, name: str | None) -> None:
    """InputError where another model is asked for than there is."""
    if name is not None and name != (own := card_of(request).name):
        raise InputError("model", f"there is {own!r} here, and not {name!r}")


def card_of(request: Request) -> Card:
    """What to know of the model. NotReadyError until it is loaded."""
    worker: Worker = request.app.state.worker
    if worker.card is None:
        worker.check_ready()
        raise NotReadyError("the model is still loading")
    return worker.card
