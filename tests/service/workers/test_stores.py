"""Where a worker keeps recordings: as much as it is told, or as is free."""

from __future__ import annotations

import os
from contextlib import closing

import pytest
import torch

from cache_store.store import Store
from cache_store.tiers.disk import Disk
from service.workers import stores
from service.workers.stores import add_device, look_into, open_store


class Quick:
    """A system that is sure to be there tomorrow."""

    def fsync(self, fd):
        """It needs none."""

    def __getattr__(self, call):
        return getattr(os, call)


@pytest.mark.parametrize(("device", "num_bytes"), [("cpu", 4000), ("cuda", 3000)])
def test_by_default_recordings_take_a_part_of_what_is_free(monkeypatch, tmp_path, device, num_bytes):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(stores, "host_budget", lambda *, pinned: 3000 if pinned else 4000)
    monkeypatch.setattr(stores, "disk_budget", {tmp_path / "cache": 5000}.get)
    with closing(open_store(device, "auto", str(tmp_path / "cache"), "auto")) as store:
        assert store.counts()["budget_bytes"] == {("host",): num_bytes, ("disk",): 5000}
    with closing(open_store(device, "auto", "", "auto")) as store:
        assert store.counts()["budget_bytes"] == {("host",): num_bytes}
    with closing(open_store(device, 100, str(tmp_path / "other"), 200)) as store:
        assert store.counts()["budget_bytes"] == {("host",): 100, ("disk",): 200}


def test_whoever_looks_into_a_directory_forgets_nothing_of_it(tmp_path):
    """There may be more than a store keeps where nobody says how much."""
    with closing(Store(0, 5000, disk=Disk(tmp_path, 1 << 30, system=Quick()))) as store:
        for number in range(1100):
            store.create(f"{number}", {}).commit()
        assert store.settle()
    assert len(look_into(tmp_path)) == len(list(tmp_path.glob("*.core"))) == 1100


def test_a_gpu_has_a_tier_of_its_own_where_it_has_room(monkeypatch):
    cpu = torch.device("cpu")
    for asked, num_bytes in (("auto", 0), (0, 0), (2048, 2048)):
        store = Store(0)
        add_device(store, cpu, asked)
        assert store.counts()["budget_bytes"].get(("device",), 0) == num_bytes
    monkeypatch.setattr(stores, "device_budget", {cpu: 1024}.get)
    add_device(store, cpu, "auto")
    assert store.counts()["budget_bytes"]["device",] == 1024
