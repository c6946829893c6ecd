"""Kernels on the CPU, thread by thread, against float64; see cudacpu.h for what the emulation shows and what not."""

from __future__ import annotations

from pathlib import Path

import pytest

KERNELS = Path(__file__).resolve().parents[2] / "sparse_ops" / "kernels"
PROGRAMS = ("conv_rows", "attention_rows")
# Random cases an entry beside the edges (conv_rows), cases an entry (attention_rows); most rows.
FEW = {"conv_rows": (1, 70), "attention_rows": (4, 70)}
MANY = {"conv_rows": (2, 260), "attention_rows": (9, 130)}
SMALL = {"conv_rows": (1, 70), "attention_rows": (6, 70)}  # for sanitizers, which are slow
SANITIZED = {"attention_rows": ("ATTENTION_ROWS_ENTRIES(X)=X(48, 4) X(64, 8) X(112, 8) X(160, 4)",)}  # else all entries


def check(programs, executable, arguments, **settings):
    done = programs.run(executable, *arguments, **settings)
    assert done.returncode == 0, done.stdout
    assert "cases equal to the reference" in done.stdout


def test_every_kernel_has_a_program_that_runs_it_on_the_cpu():
    kernels = {path.stem for path in KERNELS.glob("*.cu")}
    assert kernels
    assert kernels <= {path.stem for path in Path(__file__).parent.glob("*.cpp")}


@pytest.mark.parametrize(("flavour", "seed"), [("fp16", 0), ("fp16", 1), ("bf16", 2)])
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_kernel_equals_the_reference(programs, program, flavour, seed):
    check(programs, programs.build(program, flavour), FEW[program], seed=seed)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_kernel_reads_and_writes_nothing_beyond_its_arrays(programs, program):
    executable = programs.build(program, "asan", define=programs.two_entries[program], label="two")
    check(programs, executable, FEW[program], seed=3)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_kernel_has_no_races_between_threads_nor_blocks(programs, program):
    executable = programs.build(program, "tsan", define=programs.two_entries[program], label="two")
    check(programs, executable, FEW[program], seed=4, blocks=2)


def test_a_race_inside_a_warp_is_reported(programs):
    program = programs.build("warp_race", "tsan")
    assert programs.run(program, "synchronised").returncode == 0
    racing = programs.run(program)
    assert racing.returncode == 66
    assert "WARNING: ThreadSanitizer: data race" in racing.stdout


@pytest.mark.proof
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("flavour", ["fp16", "bf16", "asan", "tsan"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_kernel_equals_the_reference_in_many_cases(programs, program, flavour, blocks, seed):
    sanitized = flavour in {"asan", "tsan"}
    define = SANITIZED.get(program, ()) if sanitized else ()
    executable = programs.build(program, flavour, define=define)
    check(programs, executable, (SMALL if sanitized else MANY)[program], seed=seed, blocks=blocks)
