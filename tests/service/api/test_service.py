from __future__ import annotations

import asyncio
import base64
import io

import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 30  # a test that hangs fails
EDIT = {"prompt": "a blue zebra", "source_prompt": "a red zebra"}


def picture(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


async def test_an_edit_answers_with_picture_mask_and_receipt(client):
    answer = (await client.post("/edit", json=EDIT)).json()
    assert set(answer) == {"image_id", "source_id", "image", "image_url", "mask", "receipt"}
    assert (answer["image_id"], answer["source_id"], answer["image_url"]) == ("id", "source", "/images/id")
    assert picture(answer["image"]).size == (64, 64)
    assert np.array_equal(np.asarray(picture(answer["mask"])), np.kron(np.eye(8, dtype=np.uint8), np.full((8, 8), 255)))
    assert answer["receipt"]["edited_ratio"] == 0.125


async def test_a_drawn_picture_has_no_mask(client):
    answer = (await client.post("/generate", json={"prompt": "a zebra"})).json()
    assert answer["mask"] is None
    assert answer["source_id"] is None


async def test_a_picture_that_is_not_kept_has_no_address(client):
    answer = (await client.post("/edit", json=EDIT | {"cache": "off"})).json()
    assert answer["image_url"] is None


async def test_a_full_queue_says_when_to_come_back(client, scripts):
    scripts.may_step.clear()
    first = asyncio.create_task(client.post("/generate", json={"prompt": "a zebra"}))
    await asyncio.to_thread(scripts.begun.wait, GUARD_SECONDS)
    refused = await client.post("/generate", json={"prompt": "another"})
    scripts.may_step.set()
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) == 10
    assert (await first).status_code == 200


async def test_a_client_that_goes_away_cancels_its_job(client, call, scripts):
    scripts.may_step.clear()
    request = call("/generate", {"prompt": "a zebra"})
    await asyncio.to_thread(scripts.begun.wait, GUARD_SECONDS)
    request.gone.set()
    await request.task
    scripts.may_step.set()
    assert await asyncio.to_thread(scripts.closed.wait, GUARD_SECONDS)
    assert (await request.start())[0] == 499
    assert (await client.post("/generate", json={"prompt": "the next"})).status_code == 200


async def test_a_job_that_outlives_the_drain_is_told_so(client, scripts):
    """The server cancels what runs when its time to drain is over; the client is answered all the same."""
    scripts.may_step.clear()
    request = asyncio.create_task(client.post("/generate", json={"prompt": "a zebra"}))
    await asyncio.to_thread(scripts.begun.wait, GUARD_SECONDS)
    request.cancel()
    response = await request
    scripts.may_step.set()
    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"
    assert response.json()["type"] == "urn:retouch:problem:not-ready"
    assert await asyncio.to_thread(scripts.closed.wait, GUARD_SECONDS)


async def test_readiness_waits_for_the_model_and_life_does_not(loading, scripts):
    assert (await loading.get("/healthz")).json() == {"state": "loading"}
    refused = await loading.get("/readyz")
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "5"
    assert (await loading.post("/generate", json={"prompt": "a zebra"})).status_code == 503
    scripts.may_load.set()
    loading.app.state.worker._batcher.wait_opened()
    assert (await loading.get("/readyz")).json() == {"state": "ready"}


async def test_a_dead_device_is_told_to_whoever_restarts_us(client):
    await client.app.state.worker.close()
    assert (await client.get("/healthz")).status_code == 503
    assert (await client.get("/readyz")).status_code == 503


async def test_each_request_is_one_line_without_prompts(client):
    with capture_logs() as lines:
        await client.post("/edit", json=EDIT)
        await client.get("/images/some-id")
        await client.get("/some-path")
    edited, missing, nowhere = lines
    assert (edited["method"], edited["route"], edited["status"]) == ("POST", "/edit", 200)
    assert edited["image_id"] == "id"
    assert set(edited["stage_seconds"]) == {"queue", "total"}
    assert (missing["route"], missing["status"], missing["problem"]) == ("/images/{image_id}", 404, "unknown-image")
    assert (nowhere["route"], nowhere["status"]) == (None, 404)
    assert "zebra" not in str(lines)
