"""Masks by kernels: on the CPU, thread by thread, against plain loops; and by the launcher, bit by bit against NumPy.

The kernels and `service.engine.masks` must agree in every bit: in sums, in how Otsu breaks ties, in what a NaN does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from service.engine import masks, region
from service.engine.prompts import Alignment
from service.jobs import EditRules
from sparse_ops import blocks, edit_mask
from sparse_ops.launch import FREE_SHARED_BYTES
from sparse_ops.positions import Positions

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "fisedit_differences.npz"
PROGRAMS = ("edit_mask", "mask_rows")
# Random cases, and the longest side of one: few where a sanitizer watches every access.
SIZES = {"fp16": (30,), "asan": (8, 20), "tsan": (6, 20)}
CHOSEN = [(program, *chosen) for program in PROGRAMS for chosen in (("fp16", 0), ("fp16", 1), ("tsan", 3))]

any_case = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
sizes = array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=14)
bitmaps = arrays(bool, sizes)
images = arrays(np.uint8, sizes, elements=st.sampled_from([0, 9, 10, 11, 255]))


@pytest.mark.parametrize(("program", "flavour", "seed"), [*CHOSEN, ("mask_rows", "asan", 1)])
def test_every_position_equals_the_reference(programs, program, flavour, seed):
    check(programs, program, flavour, seed)


@pytest.mark.proof
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("flavour", SIZES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_position_equals_the_reference_in_any_order(programs, program, flavour, seed):
    for at_once in (1, 2):
        check(programs, program, flavour, seed, at_once)


def check(programs, program, flavour, seed, at_once=1):
    done = programs.run(programs.build(program, flavour), *SIZES[flavour], seed=seed, blocks=at_once)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "equal to the reference" in done.stdout


# What a test must notice: (program, what is wrong, old text of the kernel, new text).
MUTATIONS = [
    ("edit_mask", "union without a root", "if (before == high) return;", "return;"),
    ("mask_rows", "rows before a warp", "if (w < warp) result.before", "if (w + 1 < warp) result.before"),
]
MORE_MUTATIONS = [
    # difference_image
    ("edit_mask", "NaN not the largest", "b > a || b != b ? b : a", "b > a ? b : a"),
    ("edit_mask", "constant step divided", "all.high > all.low ? (x - all.low) / (all.high - all.low) : 0.f",
     "(x - all.low) / (all.high - all.low)"),
    ("edit_mask", "least ignored", "image[(size_t)blockIdx.x * area + i] = differs ?",
     "image[(size_t)blockIdx.x * area + i] = true ?"),
    ("edit_mask", "range of the first step", "of_image + (size_t)s * C * area;", "of_image;"),
    ("edit_mask", "range of one warp", "mine = both(mine, warps[w]);", "mine = both(mine, warps[0]);"),
    ("edit_mask", "barrier after the ranges", "  __syncthreads();                                                 //",
     "  //"),
    ("edit_mask", "rounded, not truncated", "(Byte)(255.f * minmax(work.sums[i], all))",
     "(Byte)(255.f * minmax(work.sums[i], all) + .5f)"),
    # probe_mask
    ("edit_mask", "as much as the part", "work.sums[i] > enough", "work.sums[i] >= enough"),
    ("edit_mask", "least of a probe", "differs && work.sums[i]", "work.sums[i]"),
    ("edit_mask", "planes of one image", "(size_t)blockIdx.x * planes * area", "(size_t)blockIdx.x * area"),
    # paper_mask
    ("edit_mask", "histogram not empty", "{ histogram[level] = 0; }", "{ histogram[level] &= 0xff; }"),
    ("edit_mask", "ties for the last", "if (variance > best)", "if (variance >= best)"),
    ("edit_mask", "barrier before Otsu", "histogram + image[i], 1); });\n  __syncthreads();",
     "histogram + image[i], 1); });"),
    ("edit_mask", "border eroded", "if (x && y) bits &=", "if (!x || !y) bits = 0; else bits &="),
    ("edit_mask", "not OpenCV's anchor", "dilated(y, x, -1, H, W", "dilated(y, x, 1, H, W"),
    # grown_mask
    ("edit_mask", "weak alone", "~work.cells[root_of(work.cells, i)] > 0", "~work.cells[root_of(work.cells, i)] >= 0"),
    ("edit_mask", "weak as strong", "image[v * W + u] > weak) << 1", "image[v * W + u] > strong) << 1"),
    ("edit_mask", "one diagonal", "if (DIAGONALS && x + 1 < W && set(i - W + 1)) join(cells, i, i - W + 1);", ""),
    # clean_mask
    ("edit_mask", "diagonal holes", "join_neighbours<false>", "join_neighbours<true>"),
    ("edit_mask", "largest dropped", "size_of(i) >= min(least, *largest)", "size_of(i) >= least"),
    ("edit_mask", "bottom no border", "|| y == H - 1)) join", ")) join"),
    ("edit_mask", "not flattened", "atomicMin(cells + i, find(cells, i))", "atomicMin(cells + i, cells[cells[i]])"),
    ("edit_mask", "barrier before counting", "  flatten(cells, H * W);\n  __syncthreads();",
     "  flatten(cells, H * W);"),
    ("edit_mask", "peek not atomic", "cudacpu::atomic_load(cell)", "*cell"),
    # widen_mask
    ("edit_mask", "one short", "dy <= min(by, H - 1 - y)", "dy < min(by, H - 1 - y)"),
    ("edit_mask", "over the edge", "dx <= min(by, W - 1 - x)", "dx <= by"),
    ("edit_mask", "barrier between the passes", "    across[i] = any;\n  });\n  __syncthreads();",
     "    across[i] = any;\n  });"),
    # mask_pyramid
    ("mask_rows", "cell beyond the edge", "min(left + (1 << level), W)", "left + (1 << level)"),
    ("mask_rows", "last row dropped", "min(top + (1 << level), H)", "min(top + (1 << level), H - 1)"),
    ("mask_rows", "level without its image", "out += (size_t)images * h * w", "out += (size_t)h * w"),
    # mask_rows
    ("mask_rows", "over the capacity", "if (row < capacity) index", "index"),
    ("mask_rows", "padding forgotten", "index[i] = -1;", "index[i] = index[i];"),
    ("mask_rows", "starts one image late", "image = (begin + area - 1) / area", "image = begin / area + 1"),
    ("mask_rows", "barrier of the scan", "warps[warp] = upto;\n  __syncthreads();", "warps[warp] = upto;"),
]  # fmt: skip


@pytest.mark.parametrize(("program", "what", "old", "new"), MUTATIONS, ids=[m[1].replace(" ", "-") for m in MUTATIONS])
def test_a_broken_kernel_is_noticed(programs, program, what, old, new):
    assert notices(programs, program, what, old, new)


@pytest.mark.proof
@pytest.mark.parametrize(
    ("program", "what", "old", "new"), MORE_MUTATIONS, ids=[m[1].replace(" ", "-") for m in MORE_MUTATIONS]
)
def test_a_broken_kernel_is_noticed_one_way_or_another(programs, program, what, old, new):
    assert notices(programs, program, what, old, new)


def notices(programs, program, what, old, new):
    changed = programs.mutate(f"{program}.cu", old, new)

    def fails(flavour, seeds):
        broken = programs.build(program, flavour, changed=changed, label=what)
        return any(programs.run(broken, *SIZES[flavour], seed=s, endless_seconds=60).returncode for s in seeds)

    return fails("fp16", (1, 0, 2)) or fails("asan", (0, 1)) or fails("tsan", (0, 1))


@pytest.fixture
def bridge(make_bridge, monkeypatch):
    made = make_bridge("mask_bridge")
    monkeypatch.setattr(edit_mask, "launch", made.launch)
    monkeypatch.setattr(edit_mask, "serves", lambda _: True)
    return made


def latents(seed, size=(3, 4, 24, 20)):
    """Two drawings that differ more on one side, and by little on the other."""
    generator = torch.Generator().manual_seed(seed)
    recorded, change = torch.randn(2, *size, generator=generator)
    side = torch.where(torch.arange(size[-1]) < size[-1] // 3, 1.0, 0.05)
    return recorded + change * side, recorded


def spoilt(value):
    new, recorded = latents(0)
    new[1, 2, 3, 4] = value
    return new, recorded


def some_latents():
    constant = torch.zeros(2, 4, 5, 6)
    return {
        "some": latents(1),
        "many steps": latents(2, (10, 4, 9, 33)),
        "one step": latents(3, (1, 4, 7, 7)),
        "one position": latents(4, (2, 4, 1, 1)),
        "one row": latents(5, (2, 4, 1, 40)),
        "one column": latents(6, (9, 4, 40, 1)),
        "sixteen channels": latents(7, (2, 16, 8, 8)),
        "half precision": tuple(half.half() for half in latents(8)),
        "a slice": tuple(each[1:, :, ::2] for each in latents(9)),
        "equal": (constant, constant),
        "equally different": (constant + 1, constant),
        "hardly different": (constant + 1e-4, constant),
        "not a number": spoilt(torch.nan),
        "infinite": spoilt(torch.inf),
        "with scratch": latents(10, (2, 4, 130, 129)),
    }


@pytest.mark.parametrize("least", [0.0, 1e-3])
@pytest.mark.parametrize("case", some_latents())
def test_differences_and_probes_are_numpys(bridge, case, least):
    new, recorded = some_latents()[case]
    found = [edit_mask.difference_image(new[None], recorded[None], least)]
    found += [edit_mask.probe_mask(new[None], recorded[None], ratio, least) for ratio in (0.15, 0.0)]
    assert len(bridge.launched) == 3
    rules = [masks.MaskRule(probe_ratio=ratio) for ratio in (0.15, 0.0)]
    with np.errstate(invalid="ignore"):  # infinity by infinity, and times zero
        expected = [masks.difference_image(new, recorded, least)]
        expected += [masks.probe_mask(new, recorded, rule, cleaned=False, least_difference=least) for rule in rules]
    assert all(np.array_equal(one[0], other) for one, other in zip(found, expected, strict=True))


def test_a_block_takes_an_image(bridge):
    first, second = latents(1), latents(2)
    new, recorded = (torch.stack(pair) for pair in zip(first, second, strict=True))
    both = edit_mask.difference_image(new, recorded)
    assert np.array_equal(both, [masks.difference_image(*each) for each in (first, second)])
    assert np.array_equal(edit_mask.paper_mask(both), [masks.paper_mask(each.numpy()) for each in both])
    assert [grid for _, grid in bridge.launched] == [(2, 1, 1)] * 2


@given(images, st.sampled_from([0.9, 0.7, 0.5, 1.0]))
@any_case
def test_thresholded_differences_are_numpys(bridge, differences, weak_ratio):
    del bridge
    given_ones = torch.from_numpy(differences)
    assert np.array_equal(edit_mask.paper_mask(given_ones), [masks.paper_mask(one) for one in differences])
    expected = [masks.grown_mask(one, weak_ratio) for one in differences]
    assert np.array_equal(edit_mask.grown_mask(given_ones, weak_ratio), expected)


@pytest.mark.parametrize("smoothness", [0, 3])
def test_thresholded_spots_are_numpys(bridge, smoothness):
    del bridge
    noise = np.random.default_rng(smoothness).standard_normal((3, 70, 64))
    spots = torch.nn.functional.avg_pool2d(torch.from_numpy(noise), 2 * smoothness + 1, 1, smoothness).numpy()
    differences = np.stack([masks._to_bytes(one) for one in spots])
    there = torch.from_numpy(differences)
    assert np.array_equal(edit_mask.paper_mask(there), [masks.paper_mask(one) for one in differences])
    assert np.array_equal(edit_mask.grown_mask(there, 0.9), [masks.grown_mask(one, 0.9) for one in differences])


@given(bitmaps, st.integers(0, 9), st.integers(0, 3))
@any_case
def test_cleaned_and_widened_masks_are_numpys(bridge, mask, least, by):
    del bridge
    there = torch.from_numpy(mask)
    assert np.array_equal(edit_mask.clean(there, least, by), [masks.clean(one, least, by) for one in mask])
    assert np.array_equal(edit_mask.widen(there, by), masks.widen(mask, by))


@pytest.mark.parametrize("share", [0.0, 0.4, 0.6, 1.0])
def test_masks_of_any_size_are_cleaned_as_numpy_does(bridge, share):
    for size in ((96, 96), (128, 128), (140, 120)):
        mask = np.random.default_rng(7).random(size) < share
        cleaned = edit_mask.clean(torch.from_numpy(mask)[None], 20, 1)[0]
        assert np.array_equal(cleaned, masks.clean(mask, 20, 1))
    shared = [kernel.shared_bytes for kernel, _ in bridge.launched]
    assert shared == [edit_mask.MOST_SHARED_BYTES, edit_mask.MOST_SHARED_BYTES, 4 * edit_mask.FIXED_WORDS]


def test_a_kernel_that_asks_for_shared_memory_always_asks_for_the_same(bridge):
    for side in (1, 30, 88, 89, 110, 128, 129):
        edit_mask.widen(torch.zeros(1, side, side, dtype=torch.bool), 1)
    asked = {kernel.shared_bytes for kernel, _ in bridge.launched if kernel.shared_bytes > FREE_SHARED_BYTES}
    assert asked == {edit_mask.MOST_SHARED_BYTES}  # the limit is the kernel's: a smaller one later would undo it


def authors():
    with np.load(PUBLISHED) as cases:
        published = np.unpackbits(cases["masks"], axis=1)[:, : 96 * 96].reshape(-1, 96, 96).astype(bool)
        return cases["differences"], published


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the authors' published differences are not beside the repository")
@pytest.mark.parametrize("step", [25, pytest.param(1, marks=pytest.mark.proof)])
def test_the_paper_mask_has_no_wrong_pixel_in_the_published_cases(bridge, step):
    del bridge
    differences, published = (each[::step] for each in authors())
    there = torch.from_numpy(differences)
    assert np.array_equal(edit_mask.paper_mask(there), published)
    grown = edit_mask.grown_mask(there, 0.9)
    assert np.array_equal(grown, [masks.grown_mask(each) for each in differences])
    assert np.array_equal(edit_mask.clean(grown, 37, 1), [masks.clean(each, 37) for each in grown.numpy()])


@given(bitmaps, st.integers(1, 5))
@any_case
def test_a_pyramid_is_max_pooled(bridge, mask, num_levels):
    bridge.launched.clear()
    there = torch.from_numpy(mask)
    levels, expected = edit_mask.pyramid(there, num_levels), blocks.pyramid(there, num_levels)
    assert all(map(torch.equal, levels, expected))
    assert len(levels) == num_levels
    assert len(bridge.launched) == (num_levels > 1)


@given(bitmaps, st.integers(-3, 40))
@any_case
def test_rows_are_the_active_positions_in_order(bridge, mask, spare):
    there = torch.from_numpy(mask)
    expected = Positions.where(there)
    capacity = max(0, int(mask.sum()) + spare)
    bridge.launched.clear()
    index, starts = edit_mask.rows_of(there, capacity)
    assert len(bridge.launched) == 1
    assert torch.equal(starts, expected.starts)
    kept = min(capacity, len(expected))
    assert torch.equal(index[:kept], expected.index[:kept])
    assert (index[kept:] == -1).all()
    assert index.dtype == starts.dtype == torch.int32


@given(bitmaps, st.integers(-3, 40))
@any_case
def test_plain_torch_lists_the_same_rows(bridge, mask, spare):
    there, capacity = torch.from_numpy(mask), max(0, int(mask.sum()) + spare)
    by_kernels = edit_mask.rows_of(there, capacity)
    with pytest.MonkeyPatch.context() as on_cpu:
        on_cpu.setattr(edit_mask, "serves", lambda _: False)
        bridge.launched.clear()
        assert all(map(torch.equal, edit_mask.rows_of(there, capacity), by_kernels))
    assert bridge.launched == []


def test_nothing_is_launched_for_nothing(bridge):
    nothing = torch.zeros(0, 4, 4, dtype=torch.bool)
    assert edit_mask.clean(nothing, 1, 1).shape == (0, 4, 4)
    assert [each.shape for each in edit_mask.pyramid(nothing, 2)] == [(0, 4, 4), (0, 2, 2)]
    index, starts = edit_mask.rows_of(nothing, 3)
    assert index.tolist() == [-1] * 3
    assert starts.tolist() == [0]
    assert bridge.launched == []


def drawn_words(side=12):
    """Maps of three tokens; the second one drew in a corner."""
    maps = torch.full((3, side, side), 0.1)
    maps[1, 1:5, 1:5] = 0.7
    return maps / maps.sum(0)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("case", ["some", "equal", "hardly different", "not a number", "a slice"])
def test_an_edits_mask_is_the_same_on_a_device(bridge, monkeypatch, case, clean):
    new, recorded = some_latents()[case]
    first = torch.zeros_like(new[:1])  # the noise
    rules = EditRules(clean=clean)
    alignment = Alignment(torch.tensor([0, 2]), torch.ones(2), kept=((0, 0), (2, 1)), removed=(1,), added=())

    def found():
        seen = torch.cat([first, new]), torch.cat([first, recorded])
        detected = region.detected_mask(*seen, drawn_words(), alignment, rules, torch.float32)
        return detected, region.probed_mask(new, recorded, rules, torch.float32)

    on_device = found()
    assert bridge.launched
    monkeypatch.setattr(edit_mask, "serves", lambda _: False)
    assert all(map(np.array_equal, on_device, found()))
    assert all(mask.dtype == bool for mask in on_device)
