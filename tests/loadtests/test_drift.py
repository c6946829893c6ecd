"""Chains of edits: sums are right, a picture recorded anew is the same, and the program runs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from loadtests import drift
from loadtests.drift import Link, table
from service.postcard.pairs import EditPair

PAIR = EditPair("add", "a sea under a clear sky", "a sea under a clear sky with a boat", 0)


def link_of(replaced_ratio, drifted, fresh, *, success=True):
    """Pictures of 4 x 4 positions that are so far off in a mask of one position, and far off elsewhere."""
    mask = np.zeros((4, 4), bool)
    mask[1, 2] = True
    pictures = [np.full((32, 32, 3), level, np.uint8) for level in (50, 90, 0)]
    for picture, level in zip(pictures, (100 + drifted, 100 - fresh, 100), strict=True):
        picture[8:16, 16:24] = level
    return Link(PAIR, replaced_ratio, 1, mask, tuple(pictures), (success, True, True))


def test_colours_count_inside_the_mask_alone():
    assert link_of(0.3, 7, 4).levels_off == (7, 4)


def test_edits_are_put_together_by_what_was_replaced_before():
    links = [link_of(0.0, 1, 1), link_of(0.3, 4, 2), link_of(0.5, 8, 2, success=False), link_of(0.51, 9, 0)]
    none, some, more = table(links)
    assert [row["edits"] for row in (none, some, more)] == [1, 2, 1]
    assert (none["range"], some["range"], more["range"]) == ((0.0, 0.0), (0.25, 0.5), (0.5, 0.75))
    assert some["replaced_ratio"] == 0.4
    assert some["levels_off"] == {"drifted": 6, "fresh": 2}
    assert some["worst"] == {"drifted": 8, "fresh": 2}
    assert (some["by_drift"], some["by_drift_error"]) == (4, 2)  # of 2 and 6
    assert some["success"] == {"drifted": 1, "fresh": 2, "dense": 2}
    assert none["by_drift_error"] is None


def test_the_program_prints_and_keeps_one_object(monkeypatch, capsys, tmp_path):
    words = ["drift", "--chains", "2", "--edits", "3", "--steps", "1", "--json", "--save", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    drift.main()
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "drift.json").read_text())
    links = result["links"]
    assert sum(row["edits"] for row in result["table"]) == len(links) > 2
    first = [link for link in links if not link["replaced_ratio"]]
    assert all(link["levels_off"]["drifted"] == pytest.approx(link["levels_off"]["fresh"]) for link in first)
    assert max(link["replaced_ratio"] for link in links) > 0
    assert len(drift.as_text(result["table"]).splitlines()) == 1 + len(result["table"])
