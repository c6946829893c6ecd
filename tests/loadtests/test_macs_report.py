"""The tables of multiplications: their targets, their arguments, their errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from loadtests import macs
from loadtests.shapes import NUM_TOKENS, SHAPES, load_masks, synthetic_masks
from service.engine.macs import MacModel

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "benchmark_masks.npz"


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["macs", *map(str, arguments)])
    macs.main()
    return capsys.readouterr().out


def test_without_masks_one_json_object_with_synthetic_ones(monkeypatch, capsys):
    result = json.loads(run(monkeypatch, capsys, "--json"))
    assert set(result) == {"dense_gmac", "sparse_gmac", "variants", "by"}
    assert result["dense_gmac"] == pytest.approx(2149, rel=0.02)
    for name, each in result["sparse_gmac"].items():
        assert each < result["variants"]["recorded_inputs"][name] < result["dense_gmac"]
        assert each < result["variants"]["margin_1"][name] < result["variants"]["margin_2"][name]
        assert sum(sum(kinds.values()) for kinds in result["by"][name].values()) == pytest.approx(each, abs=0.2)


def test_synthetic_masks_cost_about_what_published_ones_do():
    model = MacModel.of(SHAPES["sd2.1"], 96, 96, NUM_TOKENS)
    result = macs.measure(model, synthetic_masks(96))["sparse_gmac"]
    assert list(result.values()) == pytest.approx([120, 416, 824], rel=0.15)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the authors' masks are not ours to ship")
def test_published_masks_are_within_their_targets(monkeypatch, capsys):
    result = json.loads(run(monkeypatch, capsys, "--json", "--masks", PUBLISHED))["sparse_gmac"]
    assert result["mask_05"] <= 125
    assert result["mask_15"] <= 430
    assert result["mask_30"] <= 850


def test_packed_masks_give_their_mean(tmp_path):
    masks = torch.stack(list(synthetic_masks(32).values()))
    packed = np.packbits(masks.flatten(1).numpy(), axis=1)
    np.savez(tmp_path / "packed.npz", masks=packed, shape=np.array(masks.shape), source_index=np.arange(3))
    loaded = load_masks(tmp_path / "packed.npz")
    assert list(loaded) == ["mean"]
    assert torch.equal(loaded["mean"], masks)
    model = MacModel.of(SHAPES["sd1.5"], 32, 32, NUM_TOKENS)
    each = macs.measure(model, synthetic_masks(32))["sparse_gmac"].values()
    assert macs.measure(model, loaded)["sparse_gmac"]["mean"] == pytest.approx(sum(each) / 3, abs=0.1)


def test_masks_of_another_size_are_refused(monkeypatch, capsys, tmp_path):
    np.savez(tmp_path / "masks.npz", small=np.ones((64, 64), dtype=bool))
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, "--masks", tmp_path / "masks.npz")
    assert "mask 'small' must be 96 x 96 as the latents are, got [64, 64]" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_file_that_is_not_there_or_damaged_is_one_line_and_code_2(monkeypatch, capsys, tmp_path, content):
    path = tmp_path / "masks.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, capsys, "--masks", path)
    assert end.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{path} cannot be read: No such file" in said.err or f"{path} must be an .npz file of masks" in said.err
    assert "Traceback" not in said.err


def test_a_file_of_no_masks_is_refused(monkeypatch, capsys, tmp_path):
    np.savez(tmp_path / "masks.npz")
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, "--masks", tmp_path / "masks.npz")
    assert "masks.npz must be an .npz file of masks, holds none" in capsys.readouterr().err


def test_people_get_a_table(monkeypatch, capsys):
    printed = run(monkeypatch, capsys, "--model", "sdxl", "--size", "512")
    assert printed.startswith("dense")
    assert "mask_15" in printed
