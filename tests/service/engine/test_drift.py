"""Edits of edits: past what part of the picture all of it is computed, and recorded, anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from service.jobs import EditJob, EditRules

HALF = EditRules(dilation=0, margin=0, paste_margin=0, most_replaced_ratio=0.5)


def edit_of(source, number, rules=HALF):
    """Of a quarter of the picture, 4 of 16 rows of latent positions."""
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 16 * (number % 4), 64, 16 * (number % 4) + 16))
    return EditJob(f"a red house {number}", source.image_id, edit_mask=mask, mask_mode="given", rules=rules)


def state(studio, outcome):
    """Depth, the part that edits have replaced, and why it was dense."""
    with studio.store.open(outcome.image_id) as recording:
        known = recording.depth, recording.activations.replaced_ratio("prediction")
    return *known, [fallback.reason for fallback in outcome.receipt.fallbacks]


def test_a_source_that_edits_have_replaced_beyond_the_limit_is_computed_and_recorded_anew(sd2):
    links = [sd2.generate("a red house")]
    for number in range(5):
        links.append(sd2.run(edit_of(links[-1], number)))
    *before, beyond, after = [state(sd2, link) for link in links]
    assert before == [(0, 0, []), (1, 0.25, []), (2, 0.5, []), (3, 0.75, [])]
    assert beyond == (0, 0, ["75% of the source was replaced by edits: all is computed, and recorded, anew"])
    assert after == (1, 0.25, [])
    dense = sd2.run(replace(edit_of(links[3], 3), cache="off"))
    assert torch.equal(links[4].pixels, dense.pixels)
    assert links[4].receipt.rows_computed == dense.receipt.rows_computed == dense.receipt.rows_total


def test_the_same_place_counts_once(sd2):
    source = sd2.generate("a red house")
    for number in (0, 4, 8, 12):
        source = sd2.run(edit_of(source, number))
    assert state(sd2, source) == (4, 0.25, [])


@pytest.mark.parametrize(("limit", "depths"), [(0.0, [1, 0, 1, 0]), (1.0, [1, 2, 3, 4])])
def test_the_limit_is_the_edits_own(sd2, limit, depths):
    source, told = sd2.generate("a red house"), []
    for number in range(4):
        source = sd2.run(edit_of(source, number, replace(HALF, most_replaced_ratio=limit)))
        told.append(state(sd2, source)[0])
    assert told == depths
