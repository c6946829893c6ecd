"""The core of a recording: what identifies an image and can draw it again. It outlives the activations."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from cache_store.keys import recording_id
from cache_store.store import Draft, Recording
from service.engine.codec import Picture, Pixels, to_png
from service.engine.given_mask import to_png_array
from service.engine.weights import Model
from service.jobs import EditJob, Sampling

VERSION = 2  # of what lies in a core, and how


@dataclass(frozen=True)
class Told:
    """What a recording says of itself in words; quick to read."""

    prompt: str
    sampling: Sampling
    source_id: str | None  # of which it is an edit
    tenant: str  # whose it is
    model: str  # the fingerprint of that which drew it
    pixels: str  # digest of its picture, `pixels_digest`
    version: int = VERSION

    @classmethod
    def load(cls, recording: Recording) -> Told:
        """From an open recording. ValueError where it has none, or another version's."""
        told = recording.blob("told")
        if not isinstance(told, bytes):
            raise ValueError(f"the recording {recording.id!r} has no prompt")  # noqa: TRY004  # it is the recording that is wrong
        try:
            said = json.loads(told)
            version = said["version"]
            its = cls(**said | {"sampling": Sampling(**said["sampling"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"the recording {recording.id!r} is another version's: {error!r}") from error
        if version != VERSION:
            raise ValueError(f"the recording {recording.id!r} is another version's: {version}, not {VERSION}")
        return its


@dataclass(frozen=True, eq=False)
class Core:
    """One drawn picture."""

    prompt: str
    sampling: Sampling
    source_id: str | None  # of which it is an edit
    tenant: str  # whose it is
    model: str  # the fingerprint of that which drew it
    latents: Tensor  # [steps + 1, 4, h, w], float32: the noise, and after every step
    picture: Picture
    words: Tensor  # [T, h, w]: where each token of the prompt looked
    edit_mask: NDArray[np.bool_] | None = None  # [h, w]; of an edit
    beginning: Tensor | None = None  # [k + 1, 4, h, w]: its first dense steps as a detection sees them; None: not known

    def commit(self, draft: Draft) -> None:
        """Completes a draft whose steps are written; then it is visible.

        Pictures are kept as they are. A device waits for this, and PNGs take tens of ms: `png_of` makes them.
        """
        about = self.prompt, self.sampling, self.source_id, self.tenant, self.model
        draft.put("told", json.dumps(asdict(Told(*about, pixels_digest(self.picture.pixels)))).encode())
        draft.put("latents", self.latents.cpu())  # waits for the device, and so for the rows of all steps
        draft.put("image", torch.from_numpy(self.picture.pixels))
        draft.put("decoder", self.picture.statistics)
        draft.put("words", self.words)
        if self.beginning is not None:
            draft.put("beginning", self.beginning.cpu())
        if self.edit_mask is not None:
            draft.put("edit_mask", torch.from_numpy(self.edit_mask))
        draft.commit()

    @classmethod
    def load(cls, recording: Recording) -> Core:
        """From an open recording. ValueError where a part is missing."""
        told, image = Told.load(recording), recording.blob("image")
        latents, words, statistics = (recording.blob(name) for name in ("latents", "words", "decoder"))
        if not isinstance(image, Tensor):
            raise ValueError(f"the recording {recording.id!r} has no image")  # noqa: TRY004  # it is the recording that is wrong
        if not (isinstance(latents, Tensor) and isinstance(words, Tensor) and isinstance(statistics, Tensor)):
            raise ValueError(f"the recording {recording.id!r} has no latents, words or statistics")  # noqa: TRY004  # the same
        mask = recording.blob("edit_mask")
        edit_mask = mask.numpy() if isinstance(mask, Tensor) else None
        about = told.prompt, told.sampling, told.source_id, told.tenant, told.model
        beginning = recording.blob("beginning")
        seen = beginning if isinstance(beginning, Tensor) else None
        picture = Picture(image.numpy(), statistics)
        return cls(*about, latents, picture, words, edit_mask, seen)


def png_of(recording: Recording, name: Literal["image", "edit_mask"]) -> bytes | None:
    """A picture that it keeps, as a file: slow. None where it has none, as one that was drawn has no edit mask."""
    image, mask = recording.blob("image"), recording.blob("edit_mask")
    if not isinstance(image, Tensor):
        return None
    if name == "image":
        return to_png(image.clone().numpy())  # torch reads it, perhaps from a slow disk, while Python goes on
    return to_png(to_png_array(mask.numpy(), len(image) // len(mask))) if isinstance(mask, Tensor) else None


def generation_id(model: Model, prompt: str, sampling: Sampling, tenant: str) -> str:
    """What the image of a prompt is called: the same request of the same tenant is the same image."""
    identity = {"model": model.fingerprint, "prompt": prompt, "sampling": asdict(sampling)}
    return recording_id(identity | ({"tenant": tenant} if tenant else {}))


def edit_id(model: Model, source_id: str, sampling: Sampling, job: EditJob) -> str:
    """What the edit of an image is called. It names the request: sparse or dense, its background is the same."""
    identity: dict[str, Any] = {
        "model": model.fingerprint,
        "source": source_id,
        "prompt": job.prompt,
        "sampling": asdict(sampling),
        "rules": asdict(job.rules),
        "mask_mode": job.mask_mode,
        "edit_mask": _digest(job.edit_mask) if job.edit_mask else None,
    }
    return recording_id(identity)


def pixels_digest(pixels: Pixels) -> str:
    """Of a picture, uint8 [height, width, 3]: by it an upload is known again, whatever its file says."""
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


def _digest(image: Image) -> str:
    return hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()
