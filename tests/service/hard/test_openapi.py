"""The service against its own description: whatever is asked is answered as that says, and never by a defect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from service.api.keys import make_key

CONFIG = Path(__file__).parent / "schemathesis.toml"
GUARD_SECONDS = 300  # a test that hangs fails
LEAST_REQUESTS = 1000


def test_schemathesis_finds_no_answer_that_is_not_described(open_service, device, tmp_path):
    """Examples, edges of every field, requests that are wrong by one thing, chains over kept pictures; and keys."""
    key, entry = make_key("ann")
    with open_service(api_keys=entry, key_jobs=0, key_requests_per_minute=0) as server:
        program = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
        words = [f"{server.url}/openapi.json", "--header", f"Authorization: Bearer {key}", "--no-color"]
        told = subprocess.run(  # noqa: S603  # our own words
            [*program, *words], capture_output=True, text=True, check=False, timeout=GUARD_SECONDS, cwd=tmp_path
        )
        assert told.returncode == 0, told.stdout
        assert device.calls.num_reached > 0
        assert server.server_state.total_requests > LEAST_REQUESTS
