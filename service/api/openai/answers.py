"""What came of a request, as OpenAI's clients read it, with our receipts beside. Blocking: files take a while."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image
from pydantic import BaseModel, Field

from service.api.answers import url_of
from service.api.images import encode_base64
from service.api.openai.images import Format
from service.api.openai.schemas import ImagesRequest
from service.jobs import ImageReady, Outcome, Preview, Receipt

Kind = Literal["image_generation", "image_edit"]


class Own(BaseModel):
    """What this service says of a picture beyond OpenAI's fields."""

    number: int = Field(description="Which of the request's pictures; from 0")
    image_id: str
    source_id: str | None = Field(description="The picture that it is an edit of")
    image_url: str | None = Field(description="Where the PNG is, for the same key; null if it was not kept")
    receipt: Receipt


class OwnStep(BaseModel):
    """What this service says of a partial image beyond OpenAI's fields."""

    number: int  # which of the request's pictures
    step: int


class InputTokens(BaseModel):
    """What OpenAI counts of a request."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(BaseModel):
    """What OpenAI counts. Here that is nothing: the receipt has what a picture cost."""

    input_tokens: int = 0
    input_tokens_details: InputTokens = InputTokens()
    output_tokens: int = 0
    total_tokens: int = 0


class Datum(BaseModel):
    """A picture, by one of two."""

    b64_json: str | None = Field(None, description="The file in base64")
    url: str | None = Field(None, description="Where the PNG is, for the same key")
    retouch: Own


class Images(BaseModel):
    """The pictures of a request, in the order of their seeds."""

    created: int = Field(description="Seconds since 1970")
    background: Literal["opaque"] = "opaque"
    output_format: Format
    size: str = Field(examples=["256x256"])
    usage: Usage = Usage()
    data: list[Datum]


class Partial(BaseModel):
    """The event of a picture that forms: all of it, as it will probably look."""

    type: str
    partial_image_index: int  # from 0
    b64_json: str
    created_at: int  # seconds since 1970
    size: str
    quality: Literal["auto"] = "auto"
    background: Literal["opaque"] = "opaque"
    output_format: Format
    retouch: OwnStep


class Completed(BaseModel):
    """The event of a picture that is done."""

    type: str
    b64_json: str
    created_at: int  # seconds since 1970
    size: str
    quality: Literal["auto"] = "auto"
    background: Literal["opaque"] = "opaque"
    output_format: Format
    usage: Usage = Usage()
    retouch: Own


@dataclass(frozen=True, eq=False)
class Answers:
    """To one request."""

    kind: Kind
    body: ImagesRequest
    base_url: str  # of this service, without a slash at its end
    source: Image.Image | None = None  # of an edit

    def images(self, outcomes: Sequence[Outcome]) -> bytes:
        """All pictures, as JSON."""
        ready = [(outcome.image, outcome.receipt) for outcome in outcomes if outcome.image]  # all: none is a dry run
        answer = Images(
            created=int(time.time()),
            output_format=self.body.output_format,
            size=_size(ready[0][0].image),
            data=[self._datum(number, *one) for number, one in enumerate(ready)],
        )
        unused = {"b64_json", "url"} - {self.body.response_format}
        return answer.model_dump_json(exclude={"data": {"__all__": unused}}).encode()

    def partial(self, number: int, index: int, preview: Preview) -> Partial:
        """The `index`th partial image of one of the pictures."""
        image = preview.image
        if self.source is not None:
            image = self.source.copy()
            image.paste(preview.image, preview.box[:2])
        return Partial(
            type=f"{self.kind}.partial_image",
            partial_image_index=index,
            b64_json=self._base64(image),
            created_at=int(time.time()),
            size=_size(image),
            output_format=self.body.output_format,
            retouch=OwnStep(number=number, step=preview.step),
        )

    def completed(self, number: int, image: Image.Image, receipt: Receipt) -> Completed:
        """The end of one of the pictures."""
        return Completed(
            type=f"{self.kind}.completed",
            b64_json=self._base64(image),
            created_at=int(time.time()),
            size=_size(image),
            output_format=self.body.output_format,
            retouch=self._own(number, receipt),
        )

    def _datum(self, number: int, ready: ImageReady, receipt: Receipt) -> Datum:
        own = self._own(number, receipt)
        if self.body.response_format == "url":
            return Datum(url=f"{self.base_url}{own.image_url}", retouch=own)
        return Datum(b64_json=self._base64(ready.image), retouch=own)

    def _own(self, number: int, receipt: Receipt) -> Own:
        is_kept = self.body.cache == "read_write"
        return Own(
            number=number,
            image_id=receipt.image_id,
            source_id=receipt.source_id,
            image_url=url_of(receipt.image_id) if is_kept else None,
            receipt=receipt,
        )

    def _base64(self, image: Image.Image) -> str:
        return encode_base64(self.body.output.encode(image))


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"
