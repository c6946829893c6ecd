"""Tiny random pipelines of the three families, and a driver of jobs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from cache_store.store import Store
from service.engine.call import Call
from service.engine.core import Core
from service.engine.editor import start
from service.engine.predict import predict
from service.engine.recording import Format
from service.engine.weights import Model, load_model
from service.jobs import EditJob, Event, GenerateJob, ImageReady, Job, MaskFound, Receipt, SamplingRequest

SIZE = 16  # latent positions, of 4 pixels each
TEXT = 16
SD = {
    "sample_size": SIZE, "block_out_channels": (16, 32, 32), "layers_per_block": 1, "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": TEXT, "attention_head_dim": 2,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "sd1": SD,
    "sd2": SD | {"use_linear_projection": True, "attention_head_dim": (1, 2, 2)},
    "sdxl": SD | {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 2 * TEXT, "use_linear_projection": True, "transformer_layers_per_block": (1, 1, 2),
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": TEXT + 6 * 8,
    },
}  # fmt: skip


def tokenizer(path: Path) -> CLIPTokenizer:
    """CLIP's byte-level vocabulary without merges: every character is a token."""
    alphabet = [chr(c) for c in [*range(33, 127), *range(161, 173), *range(174, 256)]]
    alphabet += [chr(256 + n) for n in range(256 - len(alphabet))]
    words = [*alphabet, *(c + "</w>" for c in alphabet), "<|startoftext|>", "<|endoftext|>"]
    path.mkdir(parents=True)
    (path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (path / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(path / "vocab.json"), str(path / "merges.txt"), model_max_length=24)


def make_pipeline(family: str, directory: Path, **unet: Any) -> Any:
    """An ordinary diffusers directory with random weights; the pipeline that it came from."""
    torch.manual_seed(0)
    cut = tokenizer(directory / "vocabulary")
    ids = {"bos_token_id": cut.bos_token_id, "eos_token_id": cut.eos_token_id, "vocab_size": len(cut)}
    text = CLIPTextConfig(
        **ids, hidden_size=TEXT, intermediate_size=32, num_attention_heads=2, num_hidden_layers=2,
        max_position_embeddings=24, projection_dim=TEXT,
    )  # fmt: skip
    parts = {
        "unet": _mattering(diffusers.UNet2DConditionModel(**FAMILIES[family] | unet)),
        "vae": diffusers.AutoencoderKL(
            block_out_channels=(8, 8, 16), norm_num_groups=4, latent_channels=4, sample_size=4 * SIZE,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        ),
        "text_encoder": CLIPTextModel(text),
        "tokenizer": cut,
        "scheduler": diffusers.DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1,
        ),
    }  # fmt: skip
    if family == "sdxl":
        parts |= {"text_encoder_2": CLIPTextModelWithProjection(text), "tokenizer_2": cut}
        pipeline = diffusers.StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        pipeline = diffusers.StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.save_pretrained(directory / "model")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _mattering(unet: Any) -> Any:
    """Weights of unit gain: by diffusers' own initialisation a change of the text hardly changes anything."""
    for name, parameter in unet.named_parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, parameter[0].numel() ** -0.5)
        elif "norm" not in name:
            parameter.data.normal_(0, 0.1)
    return unet.eval()


@dataclass
class Outcome:
    """The events of one job, by kind."""

    events: list[Event] = field(default_factory=list)
    error: Exception | None = None

    def _only(self, kind: type) -> Any:
        found = [event for event in self.events if isinstance(event, kind)]
        assert len(found) == 1, f"{len(found)} events {kind.__name__} in {self.events}, {self.error!r}"
        return found[0]

    @property
    def image_id(self) -> str:
        return self._only(ImageReady).image_id

    @property
    def pixels(self) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self._only(ImageReady).image).copy()).int()

    @property
    def receipt(self) -> Receipt:
        return self._only(Receipt)

    @property
    def mask(self) -> torch.Tensor:
        return torch.from_numpy(self._only(MaskFound).edit_mask)


def drive(model: Model, store: Store, jobs: Sequence[Job], delays: Sequence[int] = ()) -> list[Outcome]:
    """Runs jobs side by side: calls of a round that may share a pass do. `delays`: rounds after which each joins."""
    outcomes = [Outcome() for _ in jobs]
    scripts = {number: start(model, store, job) for number, job in enumerate(jobs)}
    answers: dict[int, Any] = {}
    for turn in range(10_000):
        joined = [n for n in scripts if turn >= (delays[n] if delays else 0)]
        calls = {n: call for n in joined if (call := _advance(scripts, n, answers.pop(n, None), outcomes[n]))}
        if not scripts:
            return outcomes
        for shape in {call.shape_key for call in calls.values()}:
            company = {n: call for n, call in calls.items() if call.shape_key == shape}
            answers |= zip(company, predict(model.unet, list(company.values())), strict=True)
    raise AssertionError("the jobs do not end")


def _advance(scripts: dict[int, Any], number: int, answer: Any, outcome: Outcome) -> Call | None:
    try:
        item = scripts[number].send(answer)
        while not isinstance(item, Call):
            outcome.events.append(item)
            item = scripts[number].send(None)
    except StopIteration:
        del scripts[number]
    else:
        return item
    return None


@dataclass(eq=False)
class Studio:
    """A tiny model, an empty store, and the pipeline that the model came from."""

    pipeline: Any
    model: Model
    store: Store
    drive: Callable[..., list[Outcome]] = drive

    def run(self, job: Job) -> Outcome:
        return drive(self.model, self.store, [job])[0]

    def generate(self, prompt: str, **sampling: Any) -> Outcome:
        return self.run(GenerateJob(prompt, SamplingRequest(**STEPS | sampling)))

    def items(self, job: Job) -> Iterator[Call | Event]:
        """What a job yields, each call answered before the next."""
        script, answer = start(self.model, self.store, job), None
        while True:
            try:
                item = script.send(answer)
            except StopIteration:
                return
            yield item
            answer = predict(self.model.unet, [item])[0] if isinstance(item, Call) else None

    def core(self, outcome: Outcome) -> Core:
        with self.store.open(outcome.image_id) as recording:
            return Core.load(recording)

    def edit(self, prompt: str, source: Outcome, **other: Any) -> Outcome:
        return self.run(EditJob(prompt, image_id=source.image_id, **other))


STEPS = {"num_inference_steps": 4, "guidance_scale": 3.0, "seed": 3}


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    made = {}
    for family in FAMILIES:
        directory = tmp_path_factory.mktemp(family)
        made[family] = (make_pipeline(family, directory), directory / "model")
    return made


def studio_of(pipeline: Any, directory: Path, form: Format | None = None) -> Studio:
    return Studio(pipeline, load_model(directory, form=form or Format("float32")), Store(1 << 30))


@pytest.fixture(params=FAMILIES)
def studio(request: pytest.FixtureRequest, pipelines: dict[str, tuple[Any, Path]]) -> Studio:
    """Each of the three families, recordings in float32."""
    return studio_of(*pipelines[request.param])


@pytest.fixture
def sd2(pipelines: dict[str, tuple[Any, Path]]) -> Studio:
    return studio_of(*pipelines["sd2"])


@pytest.fixture
def make_studio(pipelines: dict[str, tuple[Any, Path]], tmp_path: Path) -> Callable[..., Studio]:
    """A studio of another network, or another format of recordings."""

    def make(family: str = "sd2", form: Format | None = None, **unet: Any) -> Studio:
        if not unet:
            return studio_of(*pipelines[family], form)
        return studio_of(make_pipeline(family, tmp_path, **unet), tmp_path / "model", form)

    return make
