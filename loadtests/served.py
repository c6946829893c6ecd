"""A service to measure: a process of its own, or one that runs somewhere."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import httpx
from prometheus_client.parser import text_string_to_metric_families

READY_SECONDS = 120.0  # a model is loaded in much less
POLL_SECONDS = 0.1
LOG_BYTES = 4000  # of its end, in a note


@contextmanager
def served(**settings: str) -> Iterator[str]:
    """The address of a `retouch serve` of its own, when it is ready; settings by their names without RETOUCH_.

    RuntimeError where it does not come up. Whatever error is met here, the end of the service's log is its note.
    """
    port = _free_port()
    environment = os.environ | {f"RETOUCH_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "service.cli", "serve", "--port", str(port)]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, env=environment, stderr=log) as process:  # noqa: S603  # our own words
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_ready(url, process)
            yield url
        except Exception as error:  # whatever it is, what the service said belongs to it
            error.add_note(f"the service's log ends so:\n{_end_of(log)}")
            raise
        finally:
            process.terminate()


async def metrics_of(client: httpx.AsyncClient) -> dict[str, float]:
    """Every sample of /metrics that has no labels, by its name; empty where the service does not show them."""
    response = await client.get("/metrics")
    if not response.is_success:
        return {}
    families = text_string_to_metric_families(response.text)
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


def _wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            if httpx.get(f"{url}/readyz").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(POLL_SECONDS)
    raise RuntimeError("the service did not come up")


def _end_of(log: BinaryIO) -> str:
    """Read where it lies: the service, which may live, goes on writing at the place that both share."""
    size = os.fstat(log.fileno()).st_size
    return os.pread(log.fileno(), LOG_BYTES, max(0, size - LOG_BYTES)).decode(errors="replace")


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
