"""What OpenAI's clients send. What is meant for other models is taken at its default only, and never ignored."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from service.api.openai.images import FULL_QUALITY, Format, Output
from service.api.schemas import EditRequest, GenerateRequest, Prompt, SamplingFields, Text, first_error
from service.errors import InputError
from service.jobs import Attention, Cache, Decoding, Detection, MaskMode, Sampler

MAX_PICTURES = 10
AUTO = "auto"
NATIVE = ("prompt", "stream", "seed", "num_inference_steps", "guidance_scale", "sampler", "negative_prompt", "cache",
          "deadline_seconds")  # fmt: skip
RULES = ("mask_mode", "preset", "detection", "attention", "dilation", "margin", "paste_margin", "decoding",
         "deep_every")  # fmt: skip
GENERATION: dict[str, Any] = {
    "prompt": "a snow mountain under a night sky with a red house",
    "n": 2,
    "size": "256x256",
    "seed": 7,
}
EDIT: dict[str, Any] = {"prompt": "a snow mountain under a night sky with a blue house", "size": AUTO}

T = TypeVar("T", bound=BaseModel)

Size = Annotated[str, StringConstraints(pattern=r"^(auto|[1-9][0-9]{0,3}x[1-9][0-9]{0,3})$")]
Label = Annotated[str, StringConstraints(max_length=256)]


def checked(model: type[T], values: Mapping[str, Any]) -> T:
    """The values as a model. InputError says what is wrong with them."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise first_error(error.errors()) from error


def _as_in(model: type[BaseModel], name: str) -> Any:
    """A field with the bounds and the description that it has there."""
    return copy(model.model_fields[name])


class ImagesRequest(BaseModel):
    """What generations and edits have in common; null is not given. The last fields are this service's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: Prompt
    model: str | None = Field(None, description="One of `GET /v1/models`; by default the one that there is")
    n: int = Field(1, ge=1, le=MAX_PICTURES, description="Pictures; their seeds follow each other")
    size: Size = Field(AUTO, description="WIDTHxHEIGHT in pixels, or `auto`: the model's own, or the source's")
    stream: bool = Field(default=False, description="Answer with Server-Sent Events")
    partial_images: int = Field(0, ge=0, le=3, description="With `stream`: so many, as the picture forms")
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Format = "png"
    output_compression: int = Field(
        FULL_QUALITY, ge=0, le=100, description="Quality of JPEG and WebP; at 100 WebP is lossless"
    )
    background: Literal["auto", "opaque"] = "auto"
    quality: Literal["auto", "standard"] = "auto"
    user: Label | None = Field(None, description="Kept nowhere: whose the pictures are is told by the key")
    safety_identifier: Label | None = Field(None, description="The same")

    seed: int | None = _as_in(SamplingFields, "seed")
    num_inference_steps: int | None = _as_in(SamplingFields, "num_inference_steps")
    guidance_scale: float | None = _as_in(SamplingFields, "guidance_scale")
    sampler: Sampler | None = _as_in(SamplingFields, "sampler")
    negative_prompt: Text | None = _as_in(SamplingFields, "negative_prompt")
    cache: Cache = _as_in(SamplingFields, "cache")
    deadline_seconds: float | None = _as_in(SamplingFields, "deadline_seconds")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None}

    @property
    def output(self) -> Output:
        """How the pictures are written."""
        return Output(self.output_format, self.output_compression)

    def check(self) -> None:
        """InputError where two fields contradict each other."""
        if self.partial_images and not self.stream:
            raise InputError("partial_images", "needs `stream`")
        if self.output_format == "png" and self.output_compression != FULL_QUALITY:
            raise InputError("output_compression", "needs the output_format `jpeg` or `webp`")
        if self.response_format == "url":
            self._check_url()

    def _check_url(self) -> None:
        if self.stream:
            raise InputError("response_format", "must be `b64_json` with `stream`: events have their pictures in them")
        if self.output_format != "png":
            raise InputError("output_format", "must be `png` with the response_format `url`")
        if self.cache != "read_write":
            raise InputError("cache", "must be `read_write` with the response_format `url`: else nothing is kept there")

    def _native(self, *names: str) -> dict[str, Any]:
        """What was given of these fields, and of those that all native routes have."""
        return self.model_dump(include={*NATIVE, *names}, exclude_unset=True)


class GenerationsRequest(ImagesRequest):
    """Draw pictures from words."""

    model_config = ConfigDict(strict=True, json_schema_extra={"examples": [GENERATION]})

    moderation: Literal["auto"] = "auto"

    def natives(self, preview_every: int) -> list[GenerateRequest]:
        """The requests that POST /generate would take for these pictures: their seeds follow each other."""
        common = self._native() | {"preview_every": preview_every} | self._sides()
        return [checked(GenerateRequest, common | {"seed": (self.seed or 0) + number}) for number in range(self.n)]

    def _sides(self) -> dict[str, int]:
        if self.size == AUTO:
            return {}
        width, height = map(int, self.size.split("x"))
        return {"width": width, "height": height}


class EditsRequest(ImagesRequest):
    """The fields of a form that are no files: change the words of a picture."""

    prompt: Prompt = Field(description="The words of all of the new picture")
    n: int = Field(1, ge=1, le=MAX_PICTURES, json_schema_extra={"maximum": 1})
    input_fidelity: Literal["low", "high"] = Field("low", description="What is not edited stays to the bit with both")
    mask_mode: MaskMode | None = _as_in(EditRequest, "mask_mode")
    preset: Literal["fisedit"] | None = _as_in(EditRequest, "preset")
    detection: Detection | None = _as_in(EditRequest, "detection")
    attention: Attention | None = _as_in(EditRequest, "attention")
    dilation: int | None = _as_in(EditRequest, "dilation")
    margin: int | None = _as_in(EditRequest, "margin")
    paste_margin: int | None = _as_in(EditRequest, "paste_margin")
    decoding: Decoding | None = _as_in(EditRequest, "decoding")
    deep_every: int | None = _as_in(EditRequest, "deep_every")

    def check(self) -> None:
        """InputError where two fields contradict each other."""
        super().check()
        if self.n > 1:
            raise InputError("n", "must be 1: an edit has its source's seed, so all would be the same picture")

    def check_size(self, size: tuple[int, int]) -> None:
        """InputError where another than the source's (width, height) is asked for."""
        own = "{}x{}".format(*size)
        if self.size not in {AUTO, own}:
            raise InputError("size", f"must be `auto` or the image's own, {own}, got {self.size}")

    def native(self, image_id: str, edit_mask: str | None, preview_every: int) -> EditRequest:
        """The request that POST /edit would take for this; the mask is a PNG in base64, white where it changes."""
        named = {"image_id": image_id, "edit_mask": edit_mask, "preview_every": preview_every}
        return checked(EditRequest, self._native(*RULES) | named)
