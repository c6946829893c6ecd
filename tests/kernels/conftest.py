"""Programs that run kernels on the CPU; see build.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sparse_ops import launch


def _load(name: str) -> ModuleType:
    """A module beside this file: tests are no package, so there is nothing to import it from."""
    spec = importlib.util.spec_from_file_location(f"kernel_tests_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build = _load("build")
launches = _load("bridge")


@pytest.fixture(scope="session")
def programs(pytestconfig: pytest.Config):
    """build(name, flavour) -> executable, kept in pytest's cache between runs; run(executable, ...) -> what it said."""
    assert pytestconfig.cache is not None
    return build.Programs(pytestconfig.cache.mkdir("kernels"))


@pytest.fixture
def make_bridge(programs):
    """make_bridge("bridge") -> a `launch` for kernels of tests/kernels/bridge.cpp on CPU tensors."""
    return lambda program: launches.Bridge(programs, program)


@pytest.fixture
def bridge(make_bridge, monkeypatch):
    """What `sparse_ops.cuda` launches runs on the CPU; a device of 8 multiprocessors."""
    made = make_bridge("bridge")
    monkeypatch.setattr(launch, "launch", made.launch)
    monkeypatch.setattr(launch, "num_multiprocessors", lambda _: 8)
    monkeypatch.setattr(launch, "current_stream", lambda _: 0)
    return made
