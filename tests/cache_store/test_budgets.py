import shutil

import pytest
import torch

from cache_store.tiers.budgets import device_budget, disk_budget, host_budget


@pytest.fixture
def meminfo(tmp_path):
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:       16384 kB\nMemFree:         1000 kB\nMemAvailable:    8192 kB\n")
    return path


def test_half_of_what_is_available_is_for_rows(meminfo, tmp_path):
    assert host_budget(meminfo, tmp_path) == 4096 * 1024


@pytest.mark.parametrize(("limit", "budget"), [("max", 4096 * 1024), ("3000", 1000), ("1000", 0)])
def test_a_container_has_what_it_may_still_take(meminfo, tmp_path, limit, budget):
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert host_budget(meminfo, tmp_path) == budget


@pytest.mark.parametrize(("available_kb", "budget"), [(8192, 4096 << 10), (64 << 20, 8 << 30)])
def test_of_large_memory_only_a_part_is_locked(meminfo, tmp_path, available_kb, budget):
    meminfo.write_text(f"MemAvailable: {available_kb} kB\n")
    assert host_budget(meminfo, tmp_path, pinned=True) == budget
    assert host_budget(meminfo, tmp_path) == available_kb << 9


def test_without_a_word_free_pages_count(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\n")
    assert host_budget(tmp_path / "meminfo", tmp_path) > 0
    assert host_budget(tmp_path / "none", tmp_path) > 0


def test_this_machine_has_some():
    assert host_budget() > 0


def test_a_cpu_is_no_device_of_its_own():
    assert device_budget(torch.device("cpu")) == 0


def test_a_disk_counts_what_is_there_already(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10_000, 9_000, 1_000))
    assert disk_budget(tmp_path / "not" / "yet") == 500
    (tmp_path / "a.rows").write_bytes(bytes(3_000))
    assert disk_budget(tmp_path) == 2_000
