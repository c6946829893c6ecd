from __future__ import annotations

import openai
import pytest

from service.errors import BusyError, DeadlineError, JobFailedError, NotReadyError

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("error", [DeadlineError(5.0), JobFailedError("the device failed"), ZeroDivisionError()])
async def test_what_would_fail_again_is_not_tried_again(client, scripts, openai_of, error):
    scripts.error = error
    patient = openai_of(client).with_options(max_retries=2)
    with pytest.raises(openai.InternalServerError):
        await patient.images.generate(prompt="a house")
    assert len(scripts.jobs) == 1


@pytest.mark.parametrize("error", [BusyError(3.0), NotReadyError("draining")])
async def test_what_passes_is_left_to_the_client(client, scripts, error):
    scripts.error = error
    response = await client.post("/v1/images/generations", json={"prompt": "a house"})
    assert "retry-after" in response.headers
    assert "x-should-retry" not in response.headers
