import json

import pytest
import torch

from service.postcard.evaluate import as_json, as_table
from service.postcard.gates import Gate, edit_gates, generation_gates, judge_gates, reconstruction_gate, successes
from service.postcard.pairs import EditPair
from service.postcard.scenes import ATTRIBUTES, Scene

PAIRS = [
    EditPair("add", "a sea under a clear sky", "a sea under a clear sky with a boat", 0),
    EditPair("land", "a sea under a clear sky", "a desert under a clear sky", 1),
]
SEA, DESERT = frozenset({"sea", "clear sky"}), frozenset({"desert", "clear sky"})


def test_a_gate_is_passed_at_its_bound():
    assert Gate("g", 0.9, 0.9).is_passed
    assert not Gate("g", 0.89, 0.9).is_passed


def test_psnr_of_an_error_of_one_level_is_48_decibels():
    pixels = torch.full((2, 3, 4, 4), 7, dtype=torch.uint8)
    # 20 log10(255)
    assert reconstruction_gate(pixels, pixels + 1).measured == pytest.approx(48.13, abs=0.01)


def test_a_second_sky_is_wrong_and_a_missing_object_is_counted():
    scenes = [Scene("sea", "clear", ("boat", "sun")), Scene("desert", "night")]
    seen = [frozenset({"sea", "clear sky", "boat"}), frozenset({"desert", "night sky", "sunset sky"})]
    land_and_sky, objects = generation_gates(scenes, seen)
    assert land_and_sky.measured == 0.5
    assert objects.measured == 0.5


def test_edits_are_compared_with_dense_regeneration():
    edited, dense = [SEA | {"boat"}, SEA], [SEA | {"boat"}, DESERT]
    assert successes(PAIRS, edited) == {"add": 1, "remove": 0, "replace": 0, "recolour": 0, "sky": 0, "land": 0}
    ratio, kept = edit_gates(PAIRS, [SEA, SEA], edited, dense)
    assert ratio.measured == 0.5
    assert kept.measured == 1.0


def test_only_what_the_source_showed_can_be_lost():
    _, kept = edit_gates(PAIRS, [frozenset({"sea"}), SEA], [frozenset(), DESERT], [SEA | {"boat"}, DESERT])
    assert kept.measured == 0.5  # the sea of the first is lost, the sky of the second kept


def test_a_judge_that_sees_what_is_shown_is_perfect():
    shown = [frozenset({name}) for name in ATTRIBUTES]
    assert [gate.measured for gate in judge_gates("pictures", shown, shown)] == [1.0, 1.0]


def test_gates_print_as_a_table_and_as_json():
    gates = [Gate("first", 0.5, 0.9), Gate("second", 30, 28)]
    assert [line.split()[0] for line in as_table(gates).splitlines()] == ["FAIL", "pass"]
    assert [entry["is_passed"] for entry in json.loads(as_json(gates))] == [False, True]
