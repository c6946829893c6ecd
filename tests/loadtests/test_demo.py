"""The sheet of the README is drawn by the program that `make demo` runs."""

from __future__ import annotations

import numpy as np

from loadtests.demo import CAPTION, GAP, chain, sheet
from service.engine.weights import load_model


def test_the_sheet_shows_each_edit_beside_its_source():
    rows = chain(
        load_model(), ("a desert under a night sky", "a desert under a night sky with a tent"), seed=0, steps=2
    )
    page = np.asarray(sheet(rows))
    source = page[20 + GAP : 20 + GAP + 256, GAP : GAP + 256]
    assert np.array_equal(source, np.asarray(rows[0].source))
    assert page.shape == (20 + GAP + 256 + CAPTION + GAP, 4 * (256 + GAP) + GAP, 3)
    edited = page[20 + GAP : 20 + GAP + 256, 3 * GAP + 2 * 256 :][:, :256]
    assert np.array_equal(edited, np.asarray(rows[0].edit.image.image))
