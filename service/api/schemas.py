"""What comes in and goes out as JSON, and the one place where a request becomes a job."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from PIL.Image import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints
from pydantic_core import ErrorDetails, PydanticCustomError

from service.api.images import MAX_SIDE, decode_mask
from service.errors import InputError
from service.jobs import (
    Attention,
    Cache,
    Decoding,
    Detection,
    EditJob,
    EditRules,
    GenerateJob,
    MaskMode,
    Receipt,
    Sampler,
    SamplingRequest,
)

MAX_PROMPT = 2000  # characters
SAMPLING_FIELDS = ("seed", "num_inference_steps", "guidance_scale", "sampler", "width", "height", "negative_prompt")
MAX_DEADLINE_SECONDS = 86_400.0
RULE_FIELDS = ("detection", "attention", "dilation", "margin", "paste_margin", "decoding", "deep_every")


def _printable(text: str) -> str:
    """Refuses control characters, other than those that part lines and columns."""
    control = next((sign for sign in text if unicodedata.category(sign) == "Cc" and sign not in "\t\n\r"), None)
    if control is not None:
        raise PydanticCustomError(
            "control_character", "must not hold the control character {sign}", {"sign": repr(control)}
        )
    return text


PRINTABLE = r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*"  # the same, as the description says it
VISIBLE = r"[^\s\x00-\x1f\x7f-\x9f]"  # of which a prompt needs one
Text = Annotated[
    str,
    StringConstraints(max_length=MAX_PROMPT),
    AfterValidator(_printable),
    Field(json_schema_extra={"pattern": f"^{PRINTABLE}$"}),
]
Prompt = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_PROMPT),
    AfterValidator(_printable),
    Field(json_schema_extra={"pattern": f"^{PRINTABLE}{VISIBLE}{PRINTABLE}$"}),
]
Side = Annotated[int, Field(multiple_of=8, ge=64, le=MAX_SIDE)]
Positions = Annotated[int, Field(ge=0, le=16)]
Steps = Annotated[int, Field(ge=1, le=20)]

GENERATE_EXAMPLE: JsonValue = {"prompt": "a snow mountain under a night sky with a red house", "seed": 7}
EDIT_EXAMPLES: list[JsonValue] = [
    {
        "source_prompt": "a snow mountain under a night sky with a red house",
        "prompt": "a snow mountain under a night sky with a blue house",
        "seed": 7,
    },
    {"image_id": "6f1d0c2b9a", "prompt": "a snow mountain under a night sky with fireworks", "dry_run": True},
]


class SamplingFields(BaseModel):
    """How the picture is drawn. What is not given is the source's value, or without a source the model's default."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    seed: int | None = Field(None, ge=0, lt=2**63)
    num_inference_steps: int | None = Field(None, ge=1, le=1000)
    guidance_scale: float | None = Field(None, ge=0, le=50, allow_inf_nan=False)
    sampler: Sampler | None = None
    width: Side | None = Field(None, description="Pixels")
    height: Side | None = Field(None, description="Pixels")
    negative_prompt: Text | None = None
    cache: Cache = Field("read_write", description="Whether recordings are used, and whether this one is kept")
    stream: bool = Field(default=False, description="Answer with Server-Sent Events, as the picture comes")
    preview_every: int = Field(
        0, ge=0, le=1000, description="With `stream`: a preview after each so many steps; 0, none"
    )
    deadline_seconds: float | None = Field(
        None, gt=0, le=MAX_DEADLINE_SECONDS, allow_inf_nan=False,
        description="The job is refused if it would take longer, and ended if it does",
    )  # fmt: skip

    def sampling(self) -> SamplingRequest:
        """As the engine takes it."""
        return SamplingRequest(**{name: getattr(self, name) for name in SAMPLING_FIELDS})

    def previews(self) -> int:
        """Steps from one preview to the next. InputError where nobody would see them."""
        if self.preview_every and not self.stream:
            raise InputError("preview_every", "needs `stream`")
        return self.preview_every


class GenerateRequest(SamplingFields):
    """Draw a picture from words."""

    model_config = ConfigDict(json_schema_extra={"examples": [GENERATE_EXAMPLE]})

    prompt: Prompt

    def job(self, tenant: str = "") -> GenerateJob:
        """As the engine takes it. InputError where two fields contradict each other."""
        return GenerateJob(
            self.prompt,
            self.sampling(),
            preview_every=self.previews(),
            cache=self.cache,
            tenant=tenant,
            deadline_seconds=self.deadline_seconds,
        )


class EditRequest(SamplingFields):
    """Change the words of a picture, and with them only what they touch."""

    model_config = ConfigDict(json_schema_extra={"examples": EDIT_EXAMPLES})

    prompt: Prompt = Field(description="The new words")
    image_id: str | None = Field(None, min_length=1, max_length=100, description="The source: an image of this service")
    source_prompt: Prompt | None = Field(None, description="The source: a prompt, drawn first unless it is recorded")
    edit_mask: str | None = Field(
        None, description="PNG in base64; white may change", json_schema_extra={"format": "byte"}
    )
    mask_mode: MaskMode | None = Field(None, description="By default `given` with an edit mask, else `detect`")
    preset: Literal["fisedit"] | None = Field(None, description="The paper's own rules; fields given here win")
    detection: Detection | None = Field(
        None,
        description="By default `probe`, the new words on recorded latents; `steps`: their first steps, the paper's",
    )
    attention: Attention | None = None
    dilation: Positions | None = Field(None, description="Latent positions added to the detected mask")
    margin: Positions | None = Field(None, description="Latent positions computed beyond the mask, not kept")
    paste_margin: Positions | None = Field(None, description="Latent positions pasted beyond the mask")
    decoding: Decoding | None = Field(
        None,
        description="`dense`: all, exact. By default `rows`: only what changes, with colours about a level off, where "
        "that is quicker (on a GPU it never is)",
    )
    deep_every: Steps | None = Field(
        None,
        description="Of so many steps one computes all resolutions, the others the highest alone; by default 1, all do",
    )
    dry_run: bool = Field(default=False, description="Stop after the mask")
    min_similarity: float | None = Field(
        None, ge=-1, le=1, allow_inf_nan=False,
        description="Without a source: cosine of the prompts from which on a recorded picture is edited",
    )  # fmt: skip

    def job(self, tenant: str = "") -> EditJob:
        """As the engine takes it. InputError where two fields contradict each other, or the mask is no PNG."""
        edit_mask = None if self.edit_mask is None else decode_mask(self.edit_mask)
        self._check_source()
        return EditJob(
            prompt=self.prompt,
            image_id=self.image_id,
            source_prompt=self.source_prompt,
            sampling=self.sampling(),
            edit_mask=edit_mask,
            mask_mode=self._mask_mode(edit_mask),
            rules=self._rules(),
            preview_every=self.previews(),
            dry_run=self.dry_run,
            cache=self.cache,
            min_similarity=self.min_similarity,
            tenant=tenant,
            deadline_seconds=self.deadline_seconds,
        )

    def _check_source(self) -> None:
        names_source = self.image_id is not None or self.source_prompt is not None
        if self.image_id is not None and self.source_prompt is not None:
            raise InputError("image_id", "give the source by one of image_id and source_prompt, or by neither")
        if self.edit_mask is not None and not names_source:
            raise InputError("edit_mask", "is of one picture: name it by image_id or source_prompt")
        if self.min_similarity is not None and names_source:
            raise InputError("min_similarity", "is for an edit whose source is looked for; this one names its source")

    def _mask_mode(self, edit_mask: Image | None) -> MaskMode:
        mode: MaskMode = self.mask_mode or ("detect" if edit_mask is None else "given")
        if mode == "detect" and edit_mask is not None:
            raise InputError("mask_mode", "`detect` takes no edit_mask; say `given` or `union`")
        if mode != "detect" and edit_mask is None:
            raise InputError("edit_mask", f"mask_mode `{mode}` needs one")
        return mode

    def _rules(self) -> EditRules:
        rules = EditRules.fisedit() if self.preset else EditRules()
        given = {name: getattr(self, name) for name in RULE_FIELDS if getattr(self, name) is not None}
        return replace(rules, **given)


class Answer(BaseModel):
    """A picture, where it changed, and what it cost."""

    image_id: str
    source_id: str | None = Field(description="The picture that it is an edit of")
    image: str | None = Field(description="PNG in base64; null after a dry run")
    image_url: str | None = Field(description="Where it can be fetched again; null if it was not kept")
    mask: str | None = Field(description="PNG in base64, white changed; null if the picture was drawn anew")
    receipt: Receipt


def first_error(errors: Sequence[ErrorDetails]) -> InputError:
    """What pydantic found, as one error: all of it in the text, the first field by name."""
    found = [(_field(error), error["msg"]) for error in errors]
    (field, message), *others = found
    return InputError(field, "; ".join([message, *(f"{name}: {text}" for name, text in others)]))


def _field(error: ErrorDetails) -> str:
    """The argument at fault; `body` where it is none of them."""
    names = [str(part) for part in error["loc"]]
    names = names[1:] if names[:1] in (["body"], ["path"], ["header"]) else names
    return "body" if error["type"] == "json_invalid" or not names else names[0]
