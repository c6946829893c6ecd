"""Bytes by count are those that an edit moves."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from cache_store.store import Store
from loadtests import bytes as program
from service.batching.runner import run
from service.engine.given_mask import user_mask
from service.engine.recording import Format
from service.engine.weights import load_model
from service.jobs import EditJob, GenerateJob, SamplingRequest

STEPS = SamplingRequest(num_inference_steps=3)
FORMATS = [
    Format("float16"),
    Format("float32", keep_inputs=False),
    Format("int8"),
    Format("float16", attention_every=2, rows_every=3),
    Format("int8", rows_every=2),
]


@pytest.mark.parametrize("form", FORMATS)
def test_steps_read_what_is_counted(form):
    model, store = load_model(form=form), Store(1 << 30)
    picture = Image.new("L", (256, 256))
    picture.paste(255, (40, 64, 120, 128))
    source, *_ = run(model, store, GenerateJob("a hill", STEPS))
    job = EditJob("a tree", source.image_id, edit_mask=picture, mask_mode="given", cache="read_only")
    *_, receipt = run(model, store, job)
    with store.open(source.image_id) as recording:
        layout = recording.activations.layout
    plans = program._plans(torch.from_numpy(user_mask(picture, (32, 32)))[None], 3)
    assert receipt.bytes_moved == program.read_bytes(layout, plans)


def test_the_report_is_what_the_paper_can_be_compared_with(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bytes", "--size", "256", "--json"])
    program.main()
    told = json.loads(capsys.readouterr().out)
    whole = told.pop("recordings")
    assert told.keys() == {"inputs", "keys_values"}
    for storages in told.values():
        assert storages.keys() == {"fp16", "int8", "fp8"}
        assert storages["fp16"]["read"].keys() == {"0.05", "0.15", "0.30"}
        assert storages["int8"]["stored"] == pytest.approx(storages["fp16"]["stored"] * (1 / 2 + 1 / 64), rel=0.01)
    assert told["inputs"]["fp16"]["stored"] < told["keys_values"]["fp16"]["stored"]
    for num_steps in (20, 50):
        its, one = whole[str(num_steps)], told["inputs"]
        for storage in ("fp16", "int8"):
            assert its[storage]["stored"] == pytest.approx(num_steps * one[storage]["stored"], rel=0.01)
            assert its[storage]["stored_per_step"] == one[storage]["stored"]
        assert its["fp16"]["maps"] == pytest.approx(num_steps / 5 * one["fp16"]["maps"], rel=0.1)
        one, *fewer = (its[f"fp16{how}"] for how in ("", ", attention every 2nd", ", attention every 5th"))
        attention = (one["stored"] - fewer[0]["stored"]) * 2
        assert one["stored"] - fewer[1]["stored"] == pytest.approx(attention * 4 / 5, abs=0.2)
        assert its["fp16, rows every 2nd"]["stored"] == pytest.approx((one["stored"] + attention) / 2, rel=0.01)


def test_the_lines_for_people_have_every_figure(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bytes", "--size", "256"])
    program.main()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 6 + 2 * len(program.THINNED)
    assert all(line.count(" / ") == 2 for line in printed)
