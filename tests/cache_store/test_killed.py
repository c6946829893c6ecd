"""A process is killed at any point of writing: what was announced is there, nothing is there by halves."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cache_store.store import Store
from cache_store.tiers.disk import Disk

PROGRAM = Path(__file__).with_name("killed.py")
MANY = 100  # calls at which it is killed, at least


def load():
    spec = importlib.util.spec_from_file_location("killed", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


killed = load()


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    """A directory for each call at which it was killed, and one in which it lived to the end."""
    directory = tmp_path_factory.mktemp("killed")
    subprocess.run([sys.executable, PROGRAM, directory], check=True, timeout=300)  # noqa: S603  # our own program
    return sorted((path for path in directory.iterdir() if path.is_dir()), key=lambda path: int(path.name))


def told(directory):
    """Of each recording the last that was told."""
    path = directory.with_suffix(".told")
    return dict(line.split()[::-1] for line in path.read_text().splitlines()) if path.exists() else {}


def check(store, name):
    """Its core is whole; whether it has rows, and then they are."""
    with store.open(name) as recording:
        own, others = (float(recording.blob(part)) for part in ("own", "others"))
        assert recording.blob("latents").equal(torch.full((500,), own))
        if recording.activations is None:
            return False
        expected = torch.full((64, 64), others).half()
        expected[killed.KEPT] = own
        for step in range(2):
            assert recording.rows(step, "rows", torch.arange(64)).equal(expected)
        assert (recording.rows(0, "norms", torch.arange(1)) == own).all()
        return True


def test_a_process_killed_at_any_call_loses_nothing_and_leaves_nothing_by_halves(lives):
    assert len(lives) > MANY
    for directory in lives:
        said = told(directory)
        store = Store(1 << 20, disk=Disk(directory, 1 << 20))
        assert "damaged" not in store.counts()
        whole = {name: check(store, name) for name in store.ids()}
        for name, last in said.items():
            if last == "there":
                assert whole[name], (directory, name)
            if last == "gone":
                assert name not in whole, (directory, name)
        on_disk = {path.name for path in directory.iterdir()}
        assert not any(name.endswith(".part") for name in on_disk)
        for name in list(whole):
            store.delete(name)
        assert store.settle()
        assert store.counts()["used_bytes"]["disk",] == 0
        assert {path.name for path in directory.iterdir()} == {"retouch.lock"}
        store.close()


def test_what_lived_to_the_end_told_all(lives):
    assert told(lives[-1]) == {"root": "gone", "edit": "gone", "deep": "gone", "other": "there"}
