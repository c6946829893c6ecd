"""The model that a worker draws with."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from service.engine.recording import Format
from service.engine.weights import EMBEDDED
from service.errors import InputError
from service.settings import Settings
from service.workers import models
from service.workers.models import check_model, find_device, open_model


@pytest.mark.parametrize(("source", "path"), [("postcard", EMBEDDED), ("some/model", "some/model")])
def test_postcard_is_the_embedded_model(monkeypatch, source, path):
    monkeypatch.setattr(models, "load_model", lambda *given: given)
    cuda = torch.cuda.is_available()
    device, dtype = (torch.device("cuda"), torch.float16) if cuda else (torch.device("cpu"), torch.float32)
    assert open_model(source, num_threads=1) == (path, device, dtype, Format(), None)


@pytest.mark.parametrize(("record", "keep_inputs"), [("inputs", True), ("keys_values", False), ("none", True)])
def test_a_model_computes_and_records_as_it_is_told(monkeypatch, record, keep_inputs):
    monkeypatch.setattr(models, "load_model", lambda *given: given)
    asked = {"storage_dtype": "float32", "record": record, "attention_every": 5, "rows_every": 2}
    settings = Settings(device="cpu", threads=1, dtype="bfloat16", **asked)
    _, *told = open_model("postcard", max_pixels=settings.max_pixels, **settings.model_options)
    form = Format("float32", keep_inputs, record != "none", attention_every=5, rows_every=2)
    assert told == [torch.device("cpu"), torch.bfloat16, form, 2**20]


@pytest.mark.parametrize(("reason", "lines"), [("kernels need more", 1), (None, 0)])
def test_a_gpu_that_kernels_do_not_run_on_is_told(monkeypatch, caplog, reason, lines):
    monkeypatch.setattr(models, "load_model", lambda *_: SimpleNamespace(without_kernels=reason))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    open_model("postcard", device="cuda", num_threads=1)
    assert caplog.text.count("computes with plain torch operators: kernels need more") == lines


@pytest.mark.parametrize("cuda", [False, True])
def test_by_default_a_gpu_computes_in_half_precision(monkeypatch, cuda):
    monkeypatch.setattr(models, "load_model", lambda *given: SimpleNamespace(dtype=given[2], without_kernels=None))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
    assert open_model("postcard", num_threads=1).dtype is (torch.float16 if cuda else torch.float32)


@pytest.mark.parametrize("name", ["banana", "cuda", "cuda:1", "cuda:9999", "cuda:-1", "meta", ""])
def test_a_device_that_is_not_here_is_refused_by_name(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for use in (lambda: open_model("postcard", device=name), lambda: check_model("postcard", name)):
        with pytest.raises(InputError, match=re.escape(repr(name))) as refused:
            use()
        assert refused.value.field == "device"


def test_a_gpu_goes_by_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(InputError, match="torch sees 2 CUDA devices"):
        find_device("cuda:2")


@pytest.mark.parametrize(("cores", "cpus", "num_threads"), [(2, 2, 1), (4, 8, 4), (1, 1, 1), (64, 128, 8)])
def test_by_default_a_cpu_is_left_to_others(monkeypatch, cores, cpus, num_threads):
    told = []
    monkeypatch.setattr(models.os, "cpu_count", lambda: cpus)
    monkeypatch.setattr(models.torch, "get_num_threads", lambda: cores)
    monkeypatch.setattr(models.torch, "set_num_threads", told.append)
    monkeypatch.setattr(models, "load_model", lambda *given: given)
    open_model("postcard", device="cpu")
    assert told == [num_threads]
