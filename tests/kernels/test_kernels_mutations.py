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

CONV_WAIT = "    cp_async_wait<T::STAGES - 2>();\n  }"
ATTENTION_WAIT = "    cp_async_wait<0>();\n    __syncthreads();  // this"
ATTENTION_Q = "  cp_async_wait<1>();\n  __syncthreads();\n  unsigned fq"

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
    Mutation("wait in the loop removed", "conv_rows.cu", CONV_WAIT, "  }", SYNCHRONISATION),
    Mutation(
        "wait before the loop removed", "conv_rows.cu",
        "  cp_async_wait<T::STAGES - 2>();\n  int stage", "  int stage", SYNCHRONISATION,
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
        "channel guard of rows removed", "conv_rows.cu",
        "valid = source >= 0 && c < C;", "valid = source >= 0;", RESULTS,
    ),
    Mutation(
        "channel guard of weights removed", "conv_rows.cu", "n0 + row < Cout && c < C", "n0 + row < Cout", ("asan",),
    ),
    Mutation(
        "output channel guard of weights removed", "conv_rows.cu", "n0 + row < Cout && c < C", "c < C", ("asan",),
    ),
    Mutation("row guard removed", "conv_rows.cu", "if (row >= N) continue;", "", RESULTS),
    Mutation("output channel guard removed", "conv_rows.cu", "if (col >= Cout) continue;", "", RESULTS),
    Mutation(
        "hidden, it copies only zeros: the last split runs over the end", "conv_rows.cu",
        "steps = min(steps_per_split, all_steps - first)", "steps = steps_per_split", (),
    ),
    Mutation(
        "embedding of the first image", "conv_rows.cu", "image_of(starts, images, row)", "0", RESULTS,
    ),
    Mutation("a row too late in its image", "rows.cuh", "row >= __ldg(starts", "row > __ldg(starts", RESULTS),
    Mutation(
        "taps of the weight reversed", "conv_rows.cu",
        "kTaps + tap) * C + c", "kTaps + 8 - tap) * C + c", RESULTS,
    ),
    Mutation(
        "ldmatrix chunks of B exchanged", "conv_rows.cu",
        "k * 2 + (lane >> 3 & 1)", "k * 2 + 1 - (lane >> 3 & 1)", RESULTS,
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
        "key off by one", "attention_rows.cu", "(size_t)(key + row) * key", "(size_t)(key + row + 1) * key", RESULTS,
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
        ATTENTION_Q, "  cp_async_wait<1>();\n  unsigned fq", SYNCHRONISATION,
    ),
    Mutation(
        "wait for Q removed", "attention_rows.cu", ATTENTION_Q, "  __syncthreads();\n  unsigned fq", SYNCHRONISATION,
    ),
    Mutation(
        "K and V filled into the slot being read", "attention_rows.cu",
        "if (left > kKeys) load(slot ^ 1,", "if (left > kKeys) load(slot,", RESULTS,
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
    Mutation("row guard removed", "attention_rows.cu", "if (row >= sRows[1]) continue;", "", RESULTS),
    Mutation(
        "query guard removed", "attention_rows.cu",
        "tile.first + row < tile.last &&", "tile.last >= 0 &&", ("asan", "race"),
    ),
    Mutation(
        "head size guard of the result removed", "attention_rows.cu",
        "if (d < D) *(Pair*)", "*(Pair*)", RESULTS,
    ),
    Mutation(
        "head size guard of the copy removed", "attention_rows.cu",
        "row < left && chunk * kChunk < D", "row < left", ("asan",),
    ),
    Mutation(
        "padding taken for an image", "attention_rows.cu",
        "if (tile.image < images) first_key", "if (tile.image <= images) first_key", ("asan",),
    ),
    Mutation("padding left out", "rows.cuh", "|| image == images) break;", "|| image + 1 == images) break;", RESULTS),
    Mutation(
        "a tile with rows of the next image", "rows.cuh",
        "min(first + (number + 1) * most, last)}", "first + (number + 1) * most}", RESULTS,
    ),
    Mutation("a tile too few for an image", "rows.cuh", "+ most - 1) / most;", ") / most;", RESULTS),
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
