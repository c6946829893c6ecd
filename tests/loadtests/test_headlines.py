"""The table that a run on a GPU ends with."""

from __future__ import annotations

import json
import os

import pytest

from loadtests import headlines

UNET = {
    "machine": "NVIDIA H200", "dtype": "float16", "ratios_of": "sparse graphs, margin 0, rows on the device",
    "ratios": {"eager": {"0.05": 5.5}}, "ms": {"eager": {"median": 11, "low": 10, "high": 12}},
    "waiting": {"eager": 0.25}, "left_out": {"tomesd": "not installed"},
}  # fmt: skip
KERNELS = {
    "machine": "NVIDIA H200", "dtype": "float16", "peaks": {"matrix_tflops": 700},
    "kernels": [
        {"operator": "conv3x3", "shape": "", "ms": 2, "roofline_ms": 1, "dense_ms": 8},
        {"operator": "conv3x3", "shape": "", "wrong": "conv3x3 of nothing is off"},
    ],
}  # fmt: skip
SPREAD = {"median": 2.0, "low": 1.0, "high": 3.0}
EDIT = {
    "machine": "NVIDIA H200", "dtype": "float16", "edited_ratio": 0.3, "speedup": {"edit": SPREAD},
    "masks": {"0.05": {"speedup": {"edit, mask given": SPREAD}}}, "batched": {"edits": 8, "speedup": SPREAD},
}  # fmt: skip


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (UNET, ["0.05:  5.50x", "25.0% waiting for rows", "without tomesd: not installed"]),
        (KERNELS, ["50% of its roofline,  4.00x torch over the map", "WRONG conv3x3 of nothing is off"]),
        (EDIT, ["edit (30%): 2.00x", "mask 0.05:  edit, mask given: 2.00x", "8 edits together: 2.00x one by one"]),
    ],
)
def test_each_sort_of_result_has_its_lines(result, expected):
    told = "\n".join(headlines.lines_of(result))
    assert all(part in told for part in expected)


def test_only_results_of_this_run_are_shown(monkeypatch, capsys, tmp_path):
    for name in ("unet-old", "unet-new"):
        (tmp_path / f"{name}.json").write_text(json.dumps(UNET))
    os.utime(tmp_path / "unet-old.json", (0, 0))
    monkeypatch.setattr("sys.argv", ["headlines", str(tmp_path)])
    headlines.main()
    told = capsys.readouterr().out
    assert "unet-new.json" in told
    assert "unet-old.json" not in told
