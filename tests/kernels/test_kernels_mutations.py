"""The tests of the kernels can fail: one line of a kernel is broken at a time, and what must notice does.

Who notices a mutation:
    results      wrong numbers (or a deadlock, a misaligned copy) under one of the seeds 0 to 5
    asan         AddressSanitizer, at seed 1: what is read or written beyond an array without changing a result
    race         ThreadSanitizer, one block at a time
    block_race   ThreadSanitizer, two blocks at a time: races between blocks
    nobody       hidden: equal in result, or not shown by the emulation. The entry says which, and that it stays so
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

ARGUMENTS = {"conv_rows": (2, 130), "attention_rows": (9, 130)}
SMALL = {"conv_rows": (1, 66), "attention_rows": (6, 66)}  # for sanitizers, which are slow


class Mutation(NamedTuple):
    what: str
    file: str
    old: str
    new: str
    noticed_by: tuple[str, ...]
    times: int = 1  # how often `old` stands in the file


RESULTS = ("results",)
SYNCHRONISATION = ("results", "race")  # a missing barrier or wait shows in both

CONV_WAIT = "    cp_async_wait<T::STAGES - 2>();\n    if (ACTIVATE"
CONV_ACTIVATE = "    if (ACTIVATE && step + 1 < steps) activate(step + 1, stage);\n"
ATTENTION_WAIT = "    cp_async_wait<0>();\n    __syncthreads();  // this"
ATTENTION_Q = "  cp_async_wait<0>();\n  __syncthreads();\n  if (num_keys"
LIST = "    load_keys(slot, first_key + 2 * kKeys, left - 2 * kKeys);\n"

ARRIVAL = (
    Mutation(
        "arrival: barrier before the counter removed", "rows.cuh",
        "  __threadfence();\n  __syncthreads();\n  if (threadIdx", "  __threadfence();\n  if (threadIdx",
        ("block_race",),
    ),
    Mutation(
        "arrival: barrier after the flag removed", "rows.cuh",
        "  }\n  __syncthreads();\n  __threadfence();", "  }\n  __threadfence();", ("race",),
    ),
    Mutation("arrival: counter not reset", "rows.cuh", "if (last) *arrived = 0;", "", RESULTS),
    Mutation("arrival: one block early", "rows.cuh", "== splits - 1", "== splits - 2", RESULTS),
    Mutation(
        "hidden, x86 keeps the order of stores: fences removed", "rows.cuh", "  __threadfence();\n", "", (), times=2,
    ),
)  # fmt: skip
CONV = (
    Mutation("main barrier removed", "conv_rows.cu", "    __syncthreads();  // `stage`", "    //", SYNCHRONISATION),
    Mutation(
        "barrier after the neighbour table removed", "conv_rows.cu",
        "-1;\n  __syncthreads();", "-1;\n", SYNCHRONISATION,
    ),
    Mutation("wait in the loop removed", "conv_rows.cu", CONV_WAIT, "    if (ACTIVATE", SYNCHRONISATION),
    Mutation(
        "wait before the loop removed", "conv_rows.cu",
        "  cp_async_wait<T::STAGES - 2>();\n  if (ACTIVATE && steps", "  if (ACTIVATE && steps", SYNCHRONISATION,
    ),
    Mutation(
        "wait one group short", "conv_rows.cu",
        CONV_WAIT, CONV_WAIT.replace("STAGES - 2", "STAGES - 1"), SYNCHRONISATION,
    ),
    Mutation(
        "commit skipped when nothing was loaded", "conv_rows.cu",
        "load(step + T::STAGES - 1, next);\n    cp_async_commit();",
        "{ load(step + T::STAGES - 1, next); cp_async_commit(); }", SYNCHRONISATION,
    ),
    Mutation(
        "activation before the wait", "conv_rows.cu",
        "    cp_async_wait<T::STAGES - 2>();\n" + CONV_ACTIVATE,
        CONV_ACTIVATE + "    cp_async_wait<T::STAGES - 2>();\n", SYNCHRONISATION,
    ),
    Mutation(
        "a neighbour's chunk activated", "conv_rows.cu",
        "(uint4*)(sA + stage * T::A + swizzle<T::BK>(row, a_chunk))",
        "(uint4*)(sA + stage * T::A + swizzle<T::BK>(row ^ 8, a_chunk))", SYNCHRONISATION,
    ),
    Mutation(
        "filled the stage being read", "conv_rows.cu",
        "load(step + T::STAGES - 1, next);", "load(step + T::STAGES - 1, stage);", RESULTS,
    ),
    Mutation(
        "a tap dropped", "conv_rows.cu", "tap = (first + step) % kTaps;\n    Element",
        "tap = (first + step) % kTaps / 2 * 2;\n    Element", RESULTS,
    ),
    Mutation(
        "neighbour 0 taken for none", "conv_rows.cu",
        "valid = source >= 0 && c < C", "valid = source > 0 && c < C", RESULTS,
    ),
    Mutation(
        "zero rows activated", "conv_rows.cu", "if (sNeighbors[row * kTaps + tap] < 0) continue;", "", RESULTS,
    ),
    Mutation(
        "channel guard of rows removed", "conv_rows.cu",
        "valid = source >= 0 && c < C;", "valid = source >= 0;", RESULTS,
    ),
    Mutation(
        "channel guard of weights removed", "conv_rows.cu", "b_inside && c0 + row < C", "b_inside", RESULTS,
    ),
    Mutation(
        "output channel guard of weights removed", "conv_rows.cu",
        "b_inside && c0 + row < C", "(b_inside || true) && c0 + row < C", ("asan",),
    ),
    Mutation("row guard removed", "conv_rows.cu", "if (row >= N) continue;", "", RESULTS),
    Mutation("output channel guard removed", "conv_rows.cu", "if (col >= Cout) continue;", "", RESULTS),
    Mutation(
        "hidden, it copies only zeros: the last split runs over the end", "conv_rows.cu",
        "steps = min(steps_per_split, all_steps - first)", "steps = steps_per_split", (),
    ),
    Mutation(
        "image of the tile's first row for all", "conv_rows.cu",
        "image[min(m0 + a_row + p * T::A_ROWS, N - 1)]", "image[m0]", RESULTS,
    ),
    Mutation(
        "embedding of the first image", "conv_rows.cu",
        "(size_t)image[row] * Cout : 0", "(size_t)image[0] * Cout : 0", RESULTS,
    ),
    Mutation(
        "taps and channels exchanged in the weight", "conv_rows.cu",
        "(size_t)(tap * C + c0 + row) * Cout", "(size_t)((c0 + row) * 9 + tap) * Cout", RESULTS,
    ),
    Mutation(
        "ldmatrix rows of A shifted", "conv_rows.cu",
        "wm + i * 16 + (lane & 15), k * 2", "wm + i * 16 + ((lane + 1) & 15), k * 2", RESULTS,
    ),
    Mutation(
        "fragment columns exchanged", "conv_rows.cu",
        "mma(acc[i][j * 2 + 1], fa[i], fb[2], fb[3])", "mma(acc[i][j * 2 + 1], fa[i], fb[3], fb[2])", RESULTS,
    ),
    *ARRIVAL,
)  # fmt: skip
ATTENTION = (
    Mutation(
        "recorded row off by one", "attention_rows.cu",
        "(size_t)(-1 - r) * recorded_stride", "(size_t)(-r) * recorded_stride", RESULTS,
    ),
    Mutation("main barrier removed", "attention_rows.cu", "    __syncthreads();  // this", "    //", SYNCHRONISATION),
    Mutation(
        "wait in the loop removed", "attention_rows.cu",
        ATTENTION_WAIT, "    __syncthreads();  // this", SYNCHRONISATION,
    ),
    Mutation(
        "wait one group short", "attention_rows.cu",
        ATTENTION_WAIT, ATTENTION_WAIT.replace("<0>", "<1>"), SYNCHRONISATION,
    ),
    Mutation(
        "barrier after Q removed", "attention_rows.cu",
        ATTENTION_Q, "  cp_async_wait<0>();\n  if (num_keys", SYNCHRONISATION,
    ),
    Mutation(
        "wait for Q removed", "attention_rows.cu", ATTENTION_Q, "  __syncthreads();\n  if (num_keys", SYNCHRONISATION,
    ),
    Mutation(
        "list of keys loaded one step late", "attention_rows.cu",
        LIST + "    cp_async_commit();\n", "    cp_async_commit();\n" + LIST, SYNCHRONISATION,
    ),
    Mutation(
        "list slot being read is filled", "attention_rows.cu",
        "load_keys(slot, first_key + 2", "load_keys(slot ^ 1, first_key + 2", SYNCHRONISATION,
    ),
    Mutation(
        "K and V filled into the slot being read", "attention_rows.cu",
        "if (left > kKeys) load(slot ^ 1,", "if (left > kKeys) load(slot,", RESULTS,
    ),
    Mutation(
        "fresh row 0 taken for recorded", "attention_rows.cu", "is_fresh = r >= 0", "is_fresh = r > 0", RESULTS,
    ),
    Mutation("keys behind the end not masked", "attention_rows.cu", "if (left < kKeys) {", "if (false) {", RESULTS),
    Mutation("mask one key late", "attention_rows.cu", ">= left) s[j][e]", "> left) s[j][e]", RESULTS),
    Mutation(
        "row maximum not shared", "attention_rows.cu",
        "top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));", "", RESULTS,
    ),
    Mutation(
        "row sum not shared", "attention_rows.cu", "l[h] += __shfl_xor_sync(0xffffffffu, l[h], 1);", "", RESULTS,
    ),
    Mutation(
        "output not rescaled", "attention_rows.cu",
        "o[j][h * 2] *= shrink, o[j][h * 2 + 1] *= shrink;", ";", RESULTS,
    ),
    Mutation(
        "P fragments exchanged", "attention_rows.cu",
        "bits(pair(left_s[2], left_s[3])),", "bits(pair(right_s[0], right_s[1])),", RESULTS,
    ),
    Mutation(
        "K fragment rows shifted", "attention_rows.cu",
        "j * 16 + (lane & 7) + (lane >> 4) * 8", "j * 16 + (lane & 7) + (lane >> 3 & 1) * 8", RESULTS,
    ),
    Mutation("empty split joined", "attention_rows.cu", "if (ml.y == 0.f) continue;", "", RESULTS),
    Mutation(
        "second half of a tile scaled as the first", "attention_rows.cu",
        "o[j][2] * a1 + v.z * b1", "o[j][2] * a0 + v.z * b0", RESULTS,
    ),
    Mutation("row guard removed", "attention_rows.cu", "if (row >= again[2]) continue;", "", RESULTS),
    Mutation(
        "query guard removed", "attention_rows.cu",
        "first_row + row < last_row &&", "last_row >= 0 &&", ("asan", "race"),
    ),
    Mutation(
        "head size guard of the result removed", "attention_rows.cu",
        "if (d < T::D) *(Pair*)", "*(Pair*)", RESULTS,
    ),
    Mutation(
        "head size guard of the copy removed", "attention_rows.cu",
        "row < left && chunk * kChunk < T::D", "row < left", ("asan",),
    ),
    Mutation(
        "swizzle forgotten for V", "attention_rows.cu",
        "v_tile + swizzle<T::DP>(k * 16 + (lane & 15), j * 2 + (lane >> 4))",
        "v_tile + (k * 16 + (lane & 15)) * T::DP + (j * 2 + (lane >> 4)) * 8", RESULTS,
    ),
    *ARRIVAL,
)  # fmt: skip
MUTATIONS = [("conv_rows", m) for m in CONV] + [("attention_rows", m) for m in ATTENTION]
NAMES = [f"{program}: {m.what}" for program, m in MUTATIONS]


def who_notices(programs, program, changed, asked):
    """Those of `asked` that notice the changed kernel."""
    settings = {"changed": changed, "define": programs.two_entries[program], "label": "mutated"}

    def fails(executable, arguments, **run):
        return programs.run(executable, *arguments[program], endless_seconds=120, **run).returncode != 0

    def results():
        executable = programs.build(program, "fp16", **settings)
        return any(fails(executable, ARGUMENTS, seed=seed) for seed in range(6))

    notice = {
        "results": results,
        "asan": lambda: fails(programs.build(program, "asan", **settings), SMALL, seed=1),
        "race": lambda: fails(programs.build(program, "tsan", **settings), SMALL, seed=0),
        "block_race": lambda: fails(programs.build(program, "tsan", **settings), SMALL, seed=2, blocks=2),
    }
    return tuple(name for name in asked if notice[name]())


@pytest.mark.parametrize(("program", "mutation"), [("conv_rows", CONV[0]), ("attention_rows", ATTENTION[0])])
def test_a_removed_barrier_and_a_shifted_index_are_noticed(programs, program, mutation):
    changed = programs.mutate(mutation.file, mutation.old, mutation.new)
    assert who_notices(programs, program, changed, ("results",)) == ("results",)


@pytest.mark.proof
@pytest.mark.parametrize("program", ["conv_rows", "attention_rows"])
def test_nobody_notices_the_kernels_as_they_are(programs, program):
    assert who_notices(programs, program, {}, ("results", "asan", "race", "block_race")) == ()


@pytest.mark.proof
@pytest.mark.parametrize(("program", "mutation"), MUTATIONS, ids=NAMES)
def test_a_mutation_is_noticed_by_those_who_must(programs, program, mutation):
    changed = programs.mutate(mutation.file, mutation.old, mutation.new, mutation.times)
    asked = mutation.noticed_by or ("results", "asan", "race", "block_race")
    assert who_notices(programs, program, changed, asked) == mutation.noticed_by
