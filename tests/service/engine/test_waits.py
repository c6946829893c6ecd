from __future__ import annotations

from itertools import count

import torch
from PIL import Image

from service.engine.waits import Waits
from service.jobs import EditJob

CPU = torch.device("cpu")


def test_waits_add_up():
    ticks = count()
    waits = Waits(lambda: next(ticks) * 0.5)
    assert waits.seconds() == 0
    for _ in range(3):
        with waits.timed(CPU):
            pass
    assert waits.seconds() == 1.5


def corner(share):
    """A user's mask: so much of both sides of the picture."""
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, round(64 * share), round(64 * share)))
    return mask


def test_only_steps_that_read_a_recording_wait_for_its_rows(sd2):
    source = sd2.generate("a red house")
    sparse, dense = (
        sd2.run(EditJob("a blue house", source.image_id, edit_mask=corner(share), mask_mode="given"))
        for share in (0.3, 1.0)
    )
    assert sparse.receipt.rows_computed < sparse.receipt.rows_total == dense.receipt.rows_computed
    assert 0 < sparse.receipt.transfer_wait_seconds <= sparse.receipt.seconds["denoise"]
    assert source.receipt.transfer_wait_seconds == dense.receipt.transfer_wait_seconds == 0
