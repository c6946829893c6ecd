from __future__ import annotations

import pytest
import torch

from service.engine.waits import Waits

GPU = torch.device("cuda")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]


def test_on_a_gpu_the_stream_waits_and_not_the_host():
    side, waits, idle = torch.cuda.Stream(), Waits(), Waits()
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)
        copied = side.record_event()
    with idle.timed(GPU):
        pass
    with waits.timed(GPU):
        copied.wait()
    assert not copied.query()
    assert waits.seconds() > 10 * idle.seconds()
