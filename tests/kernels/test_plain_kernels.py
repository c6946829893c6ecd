"""The kernels without tensor cores, on the CPU, against their references; see cudacpu.h for what that shows."""

from __future__ import annotations

import pytest
import torch

from sparse_ops.quantise import BLOCK, quantise

# How many blocks run at a time: two where blocks talk to each other.
PROGRAMS = {
    "activate_rows": 1, "cross_attention_rows": 1, "gather_rows": 1, "quantise_rows": 1, "group_norm_statistics": 2,
}  # fmt: skip
# Random cases, and the most rows of one: few where a sanitizer watches every access.
SIZES = {"fp16": (24,), "bf16": (24,), "asan": (6, 60), "tsan": (2, 40)}
CHOSEN = (("fp16", 0), ("fp16", 1), ("bf16", 2), ("asan", 1), ("tsan", 3))


@pytest.mark.parametrize(("flavour", "seed"), CHOSEN)
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_row_equals_the_reference(programs, program, flavour, seed):
    check(programs, program, flavour, seed, PROGRAMS[program])


@pytest.mark.proof
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("flavour", SIZES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_row_equals_the_reference_in_any_order(programs, program, flavour, seed):
    for blocks in (1, 2):
        check(programs, program, flavour, seed, blocks)


def check(programs, program, flavour, seed, blocks):
    done = programs.run(programs.build(program, flavour), *SIZES[flavour], seed=seed, blocks=blocks)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "equal to the reference" in done.stdout


@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize(("flavour", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_kernel_quantises_to_the_bits_of_torch(programs, tmp_path, kind, flavour, dtype):
    generator = torch.Generator().manual_seed(5)
    num_rows, num_channels = 120, 328
    rows = torch.randn(num_rows, num_channels, generator=generator)
    rows *= torch.exp2(torch.randint(-26, 12, (num_rows, 1), generator=generator).float())
    rows[::7, ::50] = torch.tensor([torch.nan, torch.inf, -torch.inf, 0, 65504, -1e30, 1e-7])
    rows[3::11, BLOCK : 2 * BLOCK] = 0
    rows = rows.to(dtype)
    given, made = tmp_path / "rows", tmp_path / "values"
    given.write_bytes(rows.view(torch.uint8).numpy().tobytes())
    done = programs.run(programs.build("quantise_rows", flavour), kind, num_rows, num_channels, given, made)
    assert done.returncode == 0, done.stdout[-4000:]

    values, scales = quantise(rows, kind)
    expected = values.view(torch.uint8).numpy().tobytes() + scales.view(torch.uint8).numpy().tobytes()
    assert made.read_bytes() == expected


# What a test must notice: (program, what is wrong, old text of the kernel, new text).
MUTATIONS = [
    ("activate_rows", "norm of the first row's image", "if (own != image) of", "if (image < 0) of"),
    ("cross_attention_rows", "maps not mixed", "+ (1.f - share) * map", "+ map"),
    ("gather_rows", "index shifted", "__ldg(index + row)", "__ldg(index + (row ? row - 1 : 0))"),
    ("quantise_rows", "scale of two blocks", "for (int m = kLanes / 2; m;", "for (int m = kLanes; m;"),
    ("group_norm_statistics", "barrier removed", "  __syncthreads();\n\n  auto write", "  auto write"),
]
ROW_AND_NORM = "\n    const int n = first + r;\n    if (statistics)"
SQUARES_OF_MEAN = "squares.x -= rows * of_tile.x * of_tile.x, squares.y -= rows * of_tile.y * of_tile.y;"
MORE_MUTATIONS = [
    ("activate_rows", "image of a halo row", "image_of(halo_starts, images, n - N)", "image_of(starts, images, n - N)"),
    ("activate_rows", "second part from its start", "other_stride + c - halo_columns", "other_stride + c"),
    ("activate_rows", "last column of the first part", ": c < halo_columns ?", ": c + 8 < halo_columns ?"),
    ("activate_rows", "first group for all", "if (++in_group == per_group) in_group = 0, group++;", "++in_group;"),
    ("activate_rows", "eps forgotten", "__ldg(variance + group) + eps", "__ldg(variance + group)"),
    ("activate_rows", "always SiLU", "u[i] = activate ? bits", "u[i] = true ? bits"),
    ("activate_rows", "stores behind the end", f"if (r >= left) continue;{ROW_AND_NORM}", ROW_AND_NORM),
    ("activate_rows", "one row too few", "left = min(N + M - first, ", "left = min(N + M - first - 1, "),
    ("cross_attention_rows", "barrier before a copy removed", "    __syncthreads();  // what", "    // what"),
    ("cross_attention_rows", "barrier after a copy removed", "num, num);\n    __syncthreads();", "num, num);"),
    ("cross_attention_rows", "text of the first image", "(size_t)tile.image * T + first", "(size_t)first"),
    ("cross_attention_rows", "alpha of the first image", "alpha[tile.image * T + t]", "alpha[t]"),
    ("cross_attention_rows", "maximum not shared", "top = warp_max(top);", ""),
    ("cross_attention_rows", "sum not shared", "1.f / warp_sum(sum)", "1.f / sum"),
    ("cross_attention_rows", "row guard removed", "if (own + r >= num_rows || column >= D)", "if (column >= D)"),
    ("cross_attention_rows", "a warp's second row for both", "sOwn[r * T + first + t];", "sOwn[T + first + t];"),
    ("cross_attention_rows", "last channels of a large head", "(kMostHead / 2 + 31) / 32", "kMostHead / 2 / 32"),
    ("cross_attention_rows", "padding as rows", "if (tile.image == images) {", "if (false) {"),
    ("cross_attention_rows", "queries behind the end", "row < valid ? *(const", "valid ? *(const"),
    ("gather_rows", "rows of out in a row", "row * (out_stride / kChunk)", "row * chunks"),
    ("gather_rows", "blocks do not walk", "begin += gridDim.x * kBlock", "begin += all"),
    ("gather_rows", "padding read", "if (from[u] < 0) continue;", "if (from[u] < -1) continue;"),
    ("gather_rows", "first column forgotten", "column[u] = first + (int)", "column[u] = (int)"),
    ("gather_rows", "scales from first", "column[u] / kScaleBlock", "(column[u] - first) / kScaleBlock"),
    ("gather_rows", "last chunk dropped", "i < all ? __ldg", "i + 1 < all ? __ldg"),
    ("gather_rows", "stores behind the end", "if (i < all) out[to[u]]", "out[to[u]]"),
    ("gather_rows", "rows of scales mixed up", "from[u] * scale_stride", "from[u] * (stride / kScaleBlock)"),
    ("gather_rows", "exponent of fp8", "decode(v.y, scale * 256.f)", "decode(v.y, scale * 128.f)"),
    ("gather_rows", "sign of fp8", "apart & 0x80008000u", "apart & 0x80000000u"),
    ("gather_rows", "sign of int8", "(float)(signed char)", "(float)(unsigned char)"),
    ("quantise_rows", "scale of half a block", "for (int m = kLanes / 2; m;", "for (int m = kLanes / 4; m;"),
    ("quantise_rows", "scale rounded down", "if (__half2float(v.half) < x) v.bits++;", ""),
    (
        "quantise_rows",
        "scale not capped",
        "fminf(largest * (1.f / Kind::LIMIT), Kind::MAX_SCALE)",
        "largest / Kind::LIMIT",
    ),
    ("quantise_rows", "scale not the stored one", "1.f / __half2float(scale)", "Kind::LIMIT / largest"),
    ("quantise_rows", "scale of another block", "scale_stride + block]", "scale_stride + blocks - 1 - block]"),
    ("quantise_rows", "NaN kept", "two.y == two.y ? two.y : 0.f", "two.y"),
    ("quantise_rows", "ties away from even", "0x7ffffu + (magnitude >> 20 & 1u)", "0x80000u"),
    ("quantise_rows", "channels behind the end", "row < num_rows && column < width", "row < num_rows"),
    ("quantise_rows", "not clamped", "fminf(fmaxf(x[i] * inverse, -Kind::LIMIT), Kind::LIMIT)", "x[i] * inverse"),
    (
        "group_norm_statistics",
        "rows of the first image",
        "(size_t)image * num_rows + split * per_split",
        "(size_t)split * per_split",
    ),
    ("group_norm_statistics", "zeros behind the end counted", "if (r >= rows) continue;", ""),
    (
        "group_norm_statistics",
        "squares not around the mean",
        "x = v[r].x - of_tile.x, y = v[r].y - of_tile.y;\n      squares.x += x * x, squares.y += y * y;\n    }",
        "x = v[r].x, y = v[r].y;\n      squares.x += x * x, squares.y += y * y;\n    }\n" + SQUARES_OF_MEAN,
    ),
    ("group_norm_statistics", "parts' means ignored", "p.m2 + p.count * (p.mean - mean) * (p.mean - mean)", "p.m2"),
    ("group_norm_statistics", "parts not weighed", "(float)rows_of(s) * D", "(float)(rows_of(s) > 0)"),
    ("group_norm_statistics", "edge of a range", "group * D - first_chunk * kChunk", "(group - first_group) * D"),
    ("group_norm_statistics", "thread rows of one size", "each + (from < more)", "each + (more > 0)"),
    ("group_norm_statistics", "one block early", "blockIdx.x, splits, flag)", "blockIdx.x, splits - 1, flag)"),
    ("group_norm_statistics", "ranges share a counter", "image * gridDim.x + blockIdx.x, splits", "image, splits"),
]


@pytest.mark.parametrize(("program", "what", "old", "new"), MUTATIONS, ids=[m[1].replace(" ", "-") for m in MUTATIONS])
def test_a_broken_kernel_is_noticed(programs, program, what, old, new):
    broken = programs.build(program, "fp16", changed=programs.mutate(f"{program}.cu", old, new), label=what)
    assert programs.run(broken, *SIZES["fp16"], seed=1).returncode


@pytest.mark.proof
@pytest.mark.parametrize(
    ("program", "what", "old", "new"), MORE_MUTATIONS, ids=[m[1].replace(" ", "-") for m in MORE_MUTATIONS]
)
def test_a_broken_kernel_is_noticed_one_way_or_another(programs, program, what, old, new):
    changed = programs.mutate(f"{program}.cu", old, new)

    def notices(flavour, seeds, blocks):
        broken = programs.build(program, flavour, changed=changed, label=what)
        return any(programs.run(broken, *SIZES[flavour], seed=seed, blocks=blocks).returncode for seed in seeds)

    assert notices("fp16", (0, 1, 2), 1) or notices("asan", (0, 1), 1) or notices("tsan", (0, 1), 2)


@pytest.mark.proof
def test_thread_sanitizer_sees_the_removed_barrier_in_any_order(programs):
    program, what, old, new = MUTATIONS[-1]
    broken = programs.build(program, "tsan", changed=programs.mutate(f"{program}.cu", old, new), label=what)
    assert "data race" in programs.run(broken, *SIZES["tsan"], seed=0).stdout
