"""A model's files: what is fetched, what is refused, what tells two models apart."""

from __future__ import annotations

import json
import shutil

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects

from service.engine import weights
from service.engine.weights import EMBEDDED, FETCHED, find_model, load_model
from service.errors import InputError


@pytest.fixture
def directory(tmp_path):
    """A copy of the embedded model, to be damaged."""
    return shutil.copytree(EMBEDDED, tmp_path / "model")


def remove(name):
    return lambda directory: (directory / name).unlink()


def write(name, content):
    return lambda directory: (directory / name).write_bytes(content)


def empty(name):
    def damage(directory):
        shutil.rmtree(directory / name)
        (directory / name).mkdir()

    return damage


def index(**parts):
    def damage(directory):
        path = directory / "model_index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | parts))

    return damage


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda directory: shutil.rmtree(directory / "tokenizer"), "model/tokenizer is missing"),
        (empty("tokenizer"), "model/tokenizer must hold tokenizer.json or vocab.json"),
        (lambda directory: shutil.rmtree(directory / "vae"), "vae/config.json is missing"),
        (lambda directory: shutil.rmtree(directory / "scheduler"), "scheduler/scheduler_config.json is missing"),
        (remove("model_index.json"), "model/model_index.json is missing"),
        (remove("unet/diffusion_pytorch_model.safetensors"), "model/unet cannot be read: FileNotFoundError"),
        (remove("vae/diffusion_pytorch_model.safetensors"), "model/vae cannot be read: OSError"),
        (remove("text_encoder/model.safetensors"), "model/text_encoder cannot be read: OSError"),
        (write("unet/diffusion_pytorch_model.safetensors", b"cut off"), "model/unet cannot be read: SafetensorError"),
        (write("model_index.json", b"{"), "model_index.json is no JSON"),
        (write("retouch.json", b"\xff"), "retouch.json is no JSON"),
        (write("retouch.json", b"[]"), "retouch.json must be a JSON object"),
        (write("retouch.json", b'{"steps": 3}'), "retouch.json must hold some of .*num_inference_steps.*, got steps"),
        (write("vae/config.json", b"{}"), "vae/config.json must say block_out_channels"),
        (write("text_encoder/config.json", b"{"), "model/text_encoder cannot be read"),
        (index(text_encoder=[None, None]), "model_index.json names no text_encoder"),
        (index(text_encoder=["transformers", "NoSuchModel"]), "model/text_encoder cannot be read"),
    ],
)
def test_a_model_that_is_not_whole_is_refused_by_what_is_wrong(directory, damage, named):
    damage(directory)
    with pytest.raises(InputError, match=named) as refused:
        load_model(directory)
    assert refused.value.field == "model"
    assert "\n" not in str(refused.value)


def test_parts_that_are_null_are_passed_over(directory):
    index(text_encoder_2=[None, None], tokenizer_2=[None, None])(directory)
    assert len(load_model(directory).text_encoders) == 1


def test_a_model_that_is_nowhere_is_first_of_all_no_directory(monkeypatch):
    def offline(*_, **__):
        raise LocalEntryNotFoundError("the hub\ncannot be reached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(InputError) as refused:
        find_model("nosuchmodel")
    assert refused.value.message == (
        "there is no directory 'nosuchmodel'; the hub says: LocalEntryNotFoundError: the hub cannot be reached"
    )


def test_only_what_is_needed_is_fetched(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda _, **patterns: asked.update(patterns) or tmp_path)
    assert find_model("owner/model") == tmp_path
    needed = [
        "model_index.json", "retouch.json", "scheduler/scheduler_config.json", "text_encoder_2/model.safetensors",
        "tokenizer/merges.txt", "tokenizer_2/vocab.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
    ]  # fmt: skip
    other = [
        "README.md", "sd_xl_base.safetensors", "safety_checker/model.safetensors", "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.non_ema.safetensors", "vae_1_0/config.json", "feature_extractor/config.json",
        "config.json", "text_encoder/model.onnx",
    ]  # fmt: skip
    assert list(filter_repo_objects(needed + other, **asked)) == needed


def test_the_embedded_model_consists_of_what_would_be_fetched():
    names = {str(path.relative_to(EMBEDDED)) for path in EMBEDDED.rglob("*") if path.is_file()}
    assert names - set(filter_repo_objects(names, allow_patterns=FETCHED)) <= {"judge.safetensors"}


def test_one_changed_byte_is_another_model(directory):
    before = weights._fingerprint(directory)
    path = directory / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    assert weights._fingerprint(directory) != before


def test_of_a_large_model_sizes_and_beginnings_count(directory, monkeypatch):
    monkeypatch.setattr(weights, "SMALL_BYTES", 0)
    path = directory / "unet" / "diffusion_pytorch_model.safetensors"
    before = weights._fingerprint(directory)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert weights._fingerprint(directory) != before
    path.write_bytes(content[:-1])
    assert weights._fingerprint(directory) != before
