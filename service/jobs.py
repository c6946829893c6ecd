"""What is asked of the engine and what it answers: the one protocol between engine, workers and API.

A job is plain data. Its answers are events, in this order:

    Accepted                    the job runs; says which image is to come of it, and from which source
    MaskFound                   edits only: where the picture will change
    Preview *                   the changed region as it will probably look (predicted x0), if asked for
    ImageReady                  the picture
    Receipt                     what it cost and saved; always last

    or, at any point,           Failed | Cancelled, and nothing after it
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from service.errors import JobFailedError

Sampler = Literal["ddim", "dpm++"]
MaskMode = Literal["detect", "given", "union"]
Detection = Literal["probe", "steps"]
Attention = Literal["exact", "masked"]
Decoding = Literal["dense", "rows"]
Cache = Literal["read_write", "read_only", "off"]
Stage = Literal["source", "detect", "denoise"]

SAMPLERS: tuple[Sampler, ...] = ("ddim", "dpm++")


@dataclass(frozen=True)
class Sampling:
    """How an image is drawn. Together with the prompt and the model it identifies the image."""

    seed: int
    num_inference_steps: int
    guidance_scale: float
    sampler: Sampler
    width: int  # pixels
    height: int  # pixels
    negative_prompt: str


@dataclass(frozen=True)
class SamplingRequest:
    """The same as far as the user said; None is the source's value, or without a source the model's default."""

    seed: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: Sampler | None = None
    width: int | None = None
    height: int | None = None
    negative_prompt: str | None = None

    def given(self) -> dict[str, Any]:
        """What the user said, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class EditRules:
    """How an edit finds its region and recomputes it."""

    detection: Detection = (
        "probe"  # the new words on recorded latents; or the paper's: their first steps, drawn densely
    )
    attention: Attention = "exact"
    dilation: int = 1  # latent positions added to the detected mask
    margin: int = 0  # latent positions computed beyond the mask, never kept
    paste_margin: int = 1  # latent positions by which the pasted region of the image is wider than the mask
    decoding: Decoding = "rows"  # only what changes (its norms approximate), where that is quicker; dense: all, exact
    clean: bool = True  # drop fragments, fill holes; by steps include what removed words drew; False: the raw mask
    keep_background: bool = True  # sparse from the first step, unmasked latents the recorded ones at every step;
    #                               False: go on from the detection's latents, and let the background drift
    num_dense_levels: int = 0  # lowest resolutions that are computed densely
    control_ratio: float = 0.5  # of detection by steps: part of them under recorded cross-attention maps; 0 = none
    deep_every: int = 1  # of so many steps one computes all resolutions, the others the highest alone; 1 = all do
    most_replaced_ratio: float = 0.5  # of the source, by edits since all of it was computed and its norm statistics
    #                                   taken; beyond it all is, anew: errors double (DESIGN.md, Drift)

    @classmethod
    def fisedit(cls) -> EditRules:
        """The paper's own rules: raw mask, masked-only attention, low resolutions dense, no overwriting."""
        return cls(
            detection="steps",
            attention="masked",
            dilation=0,
            margin=0,
            clean=False,
            keep_background=False,
            num_dense_levels=2,
        )


@dataclass(frozen=True)
class GenerateJob:
    """Draw an image from a prompt, and record how."""

    prompt: str
    sampling: SamplingRequest = SamplingRequest()
    preview_every: int = 0  # steps; 0 = no previews
    cache: Cache = "read_write"
    tenant: str = ""  # whose it is: nobody else's recordings are found, by whatever lookup
    deadline_seconds: float | None = None  # from its submission on; the job ends by then, done or not


@dataclass(frozen=True)
class EditJob:
    """Change the words of an image.

    The source is a recorded image, or a prompt that is drawn first if need be. With neither it is the recorded image
    that the new words are the least edit of, or, where none is near enough, the picture is drawn.
    """

    prompt: str
    image_id: str | None = None
    source_prompt: str | None = None
    sampling: SamplingRequest = SamplingRequest()
    edit_mask: Image | None = None  # white changes
    mask_mode: MaskMode = "detect"
    rules: EditRules = EditRules()
    preview_every: int = 0
    dry_run: bool = False  # stop after the mask
    cache: Cache = "read_write"
    min_similarity: float | None = None  # of a source that is looked for; cosine, None = the catalog's own
    tenant: str = ""  # whose it is
    deadline_seconds: float | None = None  # from its submission on; the job ends by then, done or not


Job = GenerateJob | EditJob


@dataclass(frozen=True)
class Accepted:
    """The job runs."""

    image_id: str  # of the image that will come of it (where nothing changes, the source comes instead)
    source_id: str | None
    num_inference_steps: int


@dataclass(frozen=True)
class MaskFound:
    """Where the picture will change."""

    edit_mask: NDArray[np.bool_]  # [height / 8, width / 8]
    edited_ratio: float  # of latent positions, before margins
    num_calls: int = 0  # of the network, that are to come
    macs: int = 0  # their multiplications


@dataclass(frozen=True)
class Preview:
    """The changed region as it will probably look."""

    step: int
    image: Image  # the crop
    box: tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the picture


@dataclass(frozen=True)
class ImageReady:
    """The picture."""

    image_id: str
    image: Image


@dataclass(frozen=True)
class Fallback:
    """Something was computed densely, or not at all, and why."""

    stage: str
    reason: str


@dataclass(frozen=True)
class Receipt:
    """What the job cost and saved. MACs and rows count the U-Net calls of this job, its source's generation not.

    Totals and dense MACs are those of drawing the picture again. Seconds are waited: a call may serve other jobs, too.
    """

    __pydantic_config__: ClassVar = {"use_attribute_docstrings": True}  # so the API's description has them, too

    image_id: str
    """The picture; of an edit that changed nothing the source's."""
    source_id: str | None = None
    """The picture that was edited."""
    similarity: float | None = None
    """Cosine of the prompts, by what finds sources here: a sentence model, or the model."""
    tier: str | None = None
    """Where the source's activations were."""
    edited_ratio: float = 1.0
    """Of latent positions, before margins."""
    rows_computed: int = 0
    """Latent positions of all U-Net calls."""
    rows_total: int = 0
    """The same, of drawing the picture again."""
    macs_computed: int = 0
    """Multiplications."""
    macs_dense: int = 0
    """The same, of drawing the picture again."""
    bytes_moved: int = 0
    """Of recordings, that were read for it."""
    transfer_wait_seconds: float = 0.0
    """That steps waited for those bytes; part of their own seconds."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By stage: queue, encode, source, detect, denoise, decode, and total."""
    fallbacks: tuple[Fallback, ...] = ()
    """What was computed densely, or not at all."""
    unknown_words: tuple[str, ...] = ()
    """Words of the prompt that the model says it does not know."""
    predicted_seconds: float | None = None
    """Of a dry run: what the edit would take."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Failed:
    """The job ended without a picture; nothing of it was kept."""

    error: Exception


@dataclass(frozen=True)
class Cancelled:
    """The one who asked went away; the job stopped at a step boundary."""


Event = Accepted | MaskFound | Preview | ImageReady | Receipt | Failed | Cancelled
Ending = Receipt | Failed | Cancelled  # after one of these nothing comes
Numbered = tuple[int, Event]  # of the jobs of one request: which it is, and what it tells


@dataclass(frozen=True)
class Outcome:
    """What a job that ended well has told."""

    accepted: Accepted
    mask: MaskFound | None  # edits only
    image: ImageReady | None  # not after a dry run
    receipt: Receipt

    @classmethod
    def of(cls, events: Iterable[Event]) -> Outcome:
        """The events of one job, folded. Raises what it failed by; JobFailedError if it was cancelled or cut off."""
        accepted, mask, image, receipt = None, None, None, None
        for event in events:
            match event:
                case Accepted():
                    accepted = event
                case MaskFound():
                    mask = event
                case ImageReady():
                    image = event
                case Receipt():
                    receipt = event
                case Failed():
                    raise event.error
        if accepted is None or receipt is None:
            raise JobFailedError("the job was stopped before its end")
        return cls(accepted, mask, image, receipt)
