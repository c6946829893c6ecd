"""The program that times kernels, with the reference in their place at a tiny size: every case is checked and told."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain

import pytest
import torch

from loadtests.kernels import __main__ as program
from loadtests.kernels import operators, report
from loadtests.kernels.case import Case, WrongResultError, check
from loadtests.kernels.clock import Clock, Peaks
from loadtests.shapes import SHAPES, synthetic_masks
from service.engine.unet import Conv3x3, UNet

CPU = torch.device("cpu")


def case(ours, meant, *, is_exact=False):
    return Case("sum", "of two", lambda: ours, lambda: meant, None, num_bytes=8, multiply_adds=4, is_exact=is_exact)


def test_every_operator_is_right_timed_and_told(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["kernels", "--device", "cpu", "--runs", "1", "--json", "--save", str(tmp_path)])
    program.main()
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert json.loads(next(tmp_path.glob("kernels-cpu-*.json")).read_text()) == result
    assert {each["operator"] for each in result["kernels"]} == {
        "conv3x3", "conv3x3 down", "conv3x3 up", "attention", "attention to text", "normalise", "cross_attention",
        "gather_rows", "gather_rows int8", "gather_rows fp8", "quantise_rows int8", "quantise_rows fp8",
        "group_norm_statistics",
    }  # fmt: skip
    assert all(each["ms"] > 0 and each["error"] < 1e-6 for each in result["kernels"])
    assert result["without_kernels"] == "it is no CUDA device"
    assert len(told.err.splitlines()) == len(result["kernels"]) + 3  # peaks, head, file


def test_a_wrong_result_is_told_not_timed_and_fails(monkeypatch, capsys):
    wrong = case(torch.ones(2), torch.zeros(2) + 2)
    monkeypatch.setattr(operators, "of_mask", lambda _: iter([wrong]))
    monkeypatch.setattr(operators, "of_whole_maps", lambda _: iter([]))
    monkeypatch.setattr("sys.argv", ["kernels", "--device", "cpu", "--runs", "1", "--json"])
    with pytest.raises(SystemExit, match="3 of 3 are wrong"):
        program.main()
    result = json.loads(capsys.readouterr().out)
    assert all("ms" not in each and "off by" in each["wrong"] for each in result["kernels"])


def test_a_check_compares_and_times_nothing():
    result = program.measure({"mask_05": synthetic_masks(16)["mask_05"]}, torch.float32, Clock(CPU, 1), "check")
    assert "peaks" not in result
    assert all(each["error"] < 1e-6 for each in result["kernels"])


@pytest.mark.parametrize("ours", [torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 2.1]), torch.ones(3)])
def test_what_is_not_the_same_is_noticed(ours):
    with pytest.raises(WrongResultError):
        check(case(ours, torch.tensor([1.0, 2.0])))


def test_exact_is_bit_for_bit():
    one = torch.tensor([1.0])
    assert check(case(one, one.clone(), is_exact=True)) == 0
    with pytest.raises(WrongResultError, match="bits"):
        check(case(one.nextafter(2 * one), one, is_exact=True))


def test_a_roofline_is_what_binds():
    peaks = Peaks(matrix_tflops=1, memory_gb_s=1, pinned_gb_s=0.5)
    bound_by_bytes = case(torch.ones(1), torch.ones(1))
    assert report.roofline(bound_by_bytes, peaks) == pytest.approx(8e-6)
    assert report.roofline(replace(bound_by_bytes, wire="pinned"), peaks) == pytest.approx(16e-6)
    assert report.roofline(replace(bound_by_bytes, multiply_adds=5 * 10**9), peaks) == pytest.approx(10)


def test_the_convolutions_are_those_of_the_published_network():
    with torch.device("meta"):
        unet = UNet(SHAPES["sd2.1"])
    real = {
        (module.in_channels, module.out_channels)
        for path, module in unet.named_modules()
        if isinstance(module, Conv3x3) and "resnets" in path
    }
    levels = zip(operators.INPUTS, operators.CHANNELS, strict=True)
    listed = chain.from_iterable(((320 * sum(each), 320 * out) for each in inputs) for inputs, out in levels)
    assert set(listed) == real


def test_a_sweep_wants_kernels(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["kernels", "--device", "cpu", "--sweep"])
    with pytest.raises(SystemExit):
        program.main()
    assert "kernels do not run here: it is no CUDA device" in capsys.readouterr().err
