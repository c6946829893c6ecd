"""Programs that run kernels on the CPU; see build.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


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


@pytest.fixture(scope="session")
def programs(pytestconfig: pytest.Config):
    """build(name, flavour) -> executable, kept in pytest's cache between runs; run(executable, ...) -> what it said."""
    assert pytestconfig.cache is not None
    return build.Programs(pytestconfig.cache.mkdir("kernels"))
