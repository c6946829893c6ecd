"""What an import brings with it."""

from __future__ import annotations

import subprocess
import sys

WEB = {"fastapi", "starlette", "pydantic_settings", "uvicorn", "structlog", "prometheus_client"}


def test_the_engine_and_the_batcher_bring_no_web_stack():
    code = "import sys, service.engine.editor, service.batching.batcher; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603  # our own words
    assert WEB.isdisjoint(done.stdout.split())
