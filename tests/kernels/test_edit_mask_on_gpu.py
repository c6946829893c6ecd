"""Masks by kernels through CuPy, where there is a GPU: the bits of NumPy, and no wait for the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from service.engine import masks, region
from service.engine.prompts import Alignment
from service.jobs import EditRules
from sparse_ops import blocks, edit_mask
from sparse_ops.launch import why_not
from sparse_ops.positions import Positions

GPU = torch.device("cuda")
REASON = why_not(GPU) if torch.cuda.is_available() else "there is no GPU"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=str(REASON))]
SIDES = [(96, 96), (64, 128), (128, 128), (7, 33), (1, 1), (200, 150)]  # the last one works in global memory


def latents(size, steps=3):
    """Two drawings that differ more on one side, and by little on the other."""
    generator = torch.Generator().manual_seed(size[0])
    recorded, change = torch.randn(2, steps, 4, *size, generator=generator)
    side = torch.where(torch.arange(size[1]) < size[1] // 3, 1.0, 0.05)
    return recorded + change * side, recorded


def images(size):
    smooth = torch.nn.functional.avg_pool2d(torch.randn(3, *size, generator=torch.Generator().manual_seed(5)), 3, 1, 1)
    return np.stack([masks._to_bytes(one.numpy()) for one in smooth])


def bitmaps(size):
    return [torch.rand(2, *size, generator=torch.Generator().manual_seed(9)) < share for share in (0, 0.4, 0.6, 1)]


@pytest.mark.parametrize("size", SIDES)
@pytest.mark.parametrize("steps", [1, 10])
def test_differences_and_probes_are_numpys(size, steps):
    new, recorded = latents(size, steps)
    there = new[None].to(GPU), recorded[None].to(GPU)
    for least in (0.0, 100.0):
        expected = masks.difference_image(new, recorded, least)
        assert np.array_equal(edit_mask.difference_image(*there, least)[0].cpu(), expected)
        expected = masks.probe_mask(new, recorded, cleaned=False, least_difference=least)
        assert np.array_equal(edit_mask.probe_mask(*there, 0.15, least)[0].cpu(), expected)


@pytest.mark.parametrize("size", SIDES)
def test_thresholded_differences_are_numpys(size):
    differences = images(size)
    there = torch.from_numpy(differences).to(GPU)
    assert np.array_equal(edit_mask.paper_mask(there).cpu(), [masks.paper_mask(one) for one in differences])
    assert np.array_equal(edit_mask.grown_mask(there, 0.9).cpu(), [masks.grown_mask(one, 0.9) for one in differences])


@pytest.mark.parametrize("size", SIDES)
def test_cleaned_and_widened_masks_are_numpys(size):
    for mask in bitmaps(size):
        for least, by in ((20, 1), (1, 0)):
            expected = [masks.clean(one, least, by) for one in mask.numpy()]
            assert np.array_equal(edit_mask.clean(mask.to(GPU), least, by).cpu(), expected)
            assert np.array_equal(edit_mask.widen(mask.to(GPU), by).cpu(), masks.widen(mask.numpy(), by))


@pytest.mark.parametrize("size", SIDES)
def test_rows_of_each_resolution_are_torchs(size):
    for mask in bitmaps(size):
        for level, expected in zip(edit_mask.pyramid(mask.to(GPU), 4), blocks.pyramid(mask, 4), strict=True):
            assert torch.equal(level.cpu(), expected)
            rows = Positions.where(expected)
            index, starts = edit_mask.rows_of(level, len(rows) + 5)
            assert torch.equal(starts.cpu(), rows.starts)
            assert torch.equal(index.cpu(), torch.nn.functional.pad(rows.index, (0, 5), value=-1))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")  # it finds what is looked for here
def test_nothing_waits_for_the_device():
    there = [each[None].to(GPU) for each in latents((96, 96))]
    try:
        torch.cuda.set_sync_debug_mode("error")
        mask = edit_mask.clean(edit_mask.probe_mask(*there, 0.15), 37, 1)
        for level in edit_mask.pyramid(edit_mask.widen(mask, 2), 4):
            edit_mask.rows_of(level, 4096)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("clean", [True, False])
def test_an_edits_mask_is_the_same_on_a_device(clean):
    new, recorded = latents((96, 96), 5)
    alignment = Alignment(torch.tensor([0, 2]), torch.ones(2), kept=((0, 0), (2, 1)), removed=(1,), added=())
    words = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(2)).softmax(0)

    def found(device):
        there, rules = (new.to(device), recorded.to(device)), EditRules(clean=clean)
        detected = region.detected_mask(*there, words, alignment, rules, torch.float32)
        return detected, region.probed_mask(*there, rules, torch.float32)

    assert all(map(np.array_equal, found(GPU), found("cpu")))
