from __future__ import annotations

import io
import json
import logging
import sys

import pytest
import structlog

from service import logs

pytestmark = pytest.mark.anyio


@pytest.fixture
def written(monkeypatch):
    """What `configure` makes of both kinds of log; put back as it was."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    logs.configure("info")
    yield sys.stderr
    root.handlers[:], root.level = before, level
    structlog.reset_defaults()


def lines(written):
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_the_standard_librarys_logs_are_lines_of_json_with_their_traceback(written):
    try:
        divmod(1, 0)
    except ZeroDivisionError:
        logging.getLogger("service.batching").exception("job %s failed", "a")
    (line,) = lines(written)
    assert (line["event"], line["level"], line["logger"]) == ("job a failed", "error", "service.batching")
    assert "ZeroDivisionError" in line["exception"]


def test_lines_below_the_level_are_left_out(written):
    structlog.stdlib.get_logger("service").debug("a step")
    logging.getLogger("service").debug("a step")
    assert lines(written) == []


async def test_a_request_that_raises_has_its_line(written):
    async def app(*_):
        raise ZeroDivisionError

    ticks = iter([10.0, 12.5])
    with pytest.raises(ZeroDivisionError):
        await logs.RequestLog(app, clock=lambda: next(ticks))({"type": "http", "method": "GET"}, None, None)
    (line,) = lines(written)
    assert (line["event"], line["status"], line["seconds"], line["route"]) == ("request", 500, 2.5, None)


async def test_what_is_no_request_has_none(written):
    async def app(*_):
        pass

    await logs.RequestLog(app)({"type": "lifespan"}, None, None)
    assert lines(written) == []
