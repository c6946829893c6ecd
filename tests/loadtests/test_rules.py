"""The comparison of edit rules, on one pair."""

from __future__ import annotations

import json

from PIL import Image

from loadtests import rules


def test_both_detections_edit_a_pair_and_are_compared(monkeypatch, capsys, tmp_path):
    arguments = ["rules", "detection", "--pairs", "1", "--threads", "1", "--json", "--sheet", str(tmp_path / "a.png")]
    monkeypatch.setattr("sys.argv", arguments)
    rules.main()
    result = json.loads(capsys.readouterr().out)
    probe, steps = result["table"]
    assert result["conditions"]["threads"] == 1
    assert (probe["rules"], steps["rules"]) == ("detection probe", "detection steps")
    assert probe["pairs"] == 1
    assert probe["mask_iou"] == 1
    assert 0 < steps["mask_iou"] < 1
    assert 0 < probe["edited_ratio"] < 0.3
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (3 * rules.CELL, rules.CELL + 16)
