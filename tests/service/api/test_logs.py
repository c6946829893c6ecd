from __future__ import annotations

import io
import json
import logging
import sys

import pytest
import structlog
import uvicorn
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from service import logs
from service.errors import BusyError, JobFailedError
from service.jobs import Fallback, Receipt

pytestmark = pytest.mark.anyio

WORDS = "a zebra that nobody may read of"
EDIT = {"prompt": WORDS, "source_prompt": f"{WORDS}, as it was"}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def written(request, monkeypatch):
    """What `configure` makes of both kinds of log, for a file or what is asked for; put back as it was."""
    root = logging.getLogger()
    monkeypatch.setattr(logging.getLogger("httpx"), "disabled", True)  # the client's
    before, level = list(root.handlers), root.level
    monkeypatch.setattr(sys, "stderr", getattr(request, "param", io.StringIO)())
    logs.configure("info")
    yield sys.stderr
    root.handlers[:], root.level = before, level
    structlog.reset_defaults()


def lines(written):
    return [json.loads(line) for line in written.getvalue().splitlines()]


def requests(written):
    return [line for line in lines(written) if line["event"] == "request"]


def refused_by_pydantic():
    class Body(BaseModel):
        number: int

    try:
        Body(number=WORDS)
    except ValidationError as error:
        return error


def test_the_standard_librarys_logs_are_lines_of_json_with_their_traceback(written):
    try:
        divmod(1, 0)
    except ZeroDivisionError:
        logging.getLogger("service.batching").exception("job %s failed", "a")
    (line,) = lines(written)
    assert (line["event"], line["level"], line["logger"]) == ("job a failed", "error", "service.batching")
    assert "ZeroDivisionError" in line["exception"]


def test_a_servers_own_logs_are_lines_like_all_others(written):
    uvicorn.Config(app=None, log_config=None)
    logging.getLogger("uvicorn.error").info("Application startup complete.")
    (line,) = lines(written)
    assert (line["event"], line["logger"]) == ("Application startup complete.", "uvicorn.error")


def test_lines_below_the_level_are_left_out(written):
    structlog.stdlib.get_logger("service").debug("a step")
    logging.getLogger("service").debug("a step")
    assert lines(written) == []


def test_a_traceback_is_pythons_own(written):
    def fail():
        try:
            divmod(1, 0)
        except ZeroDivisionError as error:
            raise KeyError("name") from error

    try:
        fail()
    except KeyError as error:
        error.__cause__.__cause__ = error  # causes that go round end
        logging.getLogger("service").exception("failed")
    (line,) = lines(written)
    assert line["exception"].count("Traceback (most recent call last):") == 2
    assert line["exception"].index("ZeroDivisionError") < line["exception"].index(logs.CAUSE.strip())
    assert line["exception"].endswith("KeyError: 'name'")


@pytest.mark.parametrize(
    "error",
    [refused_by_pydantic(), RequestValidationError(refused_by_pydantic().errors())],
    ids=["ours", "the framework's"],
)
def test_errors_that_repeat_what_was_given_are_told_without_it(written, error):
    assert WORDS in str(error)

    both = ExceptionGroup("both", [error, KeyError("other")])
    both.__cause__ = error
    logging.getLogger("service").error("failed", exc_info=both)
    (line,) = lines(written)
    assert WORDS not in line["exception"]
    assert line["exception"].count(f"{type(error).__name__}: 1 errors in what was given") == 2
    assert "KeyError: 'other'" in line["exception"]


@pytest.mark.parametrize("written", [Terminal], indirect=True)
def test_on_a_terminal_it_is_the_same_for_people(written):
    logging.getLogger("service").error("failed", exc_info=refused_by_pydantic())
    assert "Traceback (most recent call last):" in written.getvalue()
    assert "ValidationError: 1 errors in what was given" in written.getvalue()
    assert WORDS not in written.getvalue()


async def test_a_request_is_one_line_with_all_that_is_known_of_it(client, scripts, written):
    seconds, fallbacks = {"detect": 0.25, "total": 1.0}, (Fallback("denoise", "why"),)
    scripts.receipt = Receipt("id", "source", edited_ratio=0.125, seconds=seconds, fallbacks=fallbacks)
    await client.post("/edit", json=EDIT)
    (line,) = requests(written)
    assert (line["method"], line["route"], line["status"], line["level"]) == ("POST", "/edit", 200, "info")
    assert (line["image_id"], line["edited_ratio"], line["fallbacks"]) == ("id", 0.125, ["denoise: why"])
    assert set(line["stage_seconds"]) == {"queue", "detect", "total"}
    assert line["seconds"] >= 0
    assert "cancelled" not in line


async def test_a_line_says_who_asked_and_by_which_id(keyed, written):
    headers = {"authorization": "Bearer ann-key", "x-request-id": "ticket-7"}
    await keyed.post("/generate", json={"prompt": WORDS}, headers=headers)
    await keyed.post("/generate", json={"prompt": WORDS}, headers={"authorization": "Bearer guessed-key"})
    known, unknown = requests(written)
    assert (known["tenant"], known["request_id"]) == ("ann", "ticket-7")
    assert (unknown["status"], unknown["problem"]) == (401, "unauthorized")
    assert "tenant" not in unknown
    assert "-key" not in written.getvalue()


async def test_a_refused_request_says_by_which_problem(client, written):
    await client.post("/edit", json={"prompt": ["x"]})
    await client.get("/images/some-id")
    await client.get("/some-path")
    invalid, missing, nowhere = requests(written)
    assert (invalid["route"], invalid["status"], invalid["problem"]) == ("/edit", 422, "input")
    assert (missing["route"], missing["status"], missing["problem"]) == ("/images/{image_id}", 404, "unknown-image")
    assert (nowhere["route"], nowhere["status"]) == (None, 404)


async def test_a_client_that_goes_away_is_told_with_its_cancelled_job(call, scripts, written):
    scripts.may_step.clear()
    begun = call("/generate", {"prompt": WORDS, "stream": True})
    await begun.start()
    begun.gone.set()
    await begun.task
    scripts.may_step.set()
    (line,) = requests(written)
    assert (line["status"], line["problem"], line["cancelled"]) == (499, "client-gone", True)


async def test_a_machine_that_asks_how_we_are_is_told_and_not_logged(client, written):
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await client.get(path)).status_code == 200
    assert requests(written) == []
    await client.app.state.worker.close()
    await client.get("/readyz")
    (line,) = requests(written)
    assert (line["route"], line["status"]) == ("/readyz", 503)


async def test_no_prompt_is_in_the_logs_of_a_session_whatever_goes_wrong(client, call, scripts, written):
    await client.post("/generate", json={"prompt": WORDS})
    await client.post("/edit", json=EDIT)
    await client.post("/edit", json={"prompt": {"a": WORDS}, "seed": WORDS})
    await client.post("/edit", content=f'{{"prompt": "{WORDS}')
    await client.post(f"/{WORDS}", json={})
    for error in (JobFailedError("no"), BusyError(1.0), refused_by_pydantic(), RuntimeError("a defect")):
        scripts.error = error
        await client.post("/edit", json=EDIT)
        stream = call("/edit", EDIT | {"stream": True})
        await stream.start()
        await stream.task
    client.app.state.worker.read = None  # a defect of ours, which the server answers
    await client.get("/images/some-id")
    assert len(requests(written)) == 14
    assert sum("exception" in line for line in lines(written)) >= 4
    assert "zebra" not in written.getvalue()
    assert "a defect" in written.getvalue()


async def test_prompts_are_in_the_line_where_that_is_wanted(open_client, written):
    async with open_client(log_prompts=True) as client:
        await client.post("/edit", json=EDIT)
        await client.post("/generate", json={"prompt": WORDS})
        await client.post("/generate", json={})
    edited, drawn, refused = requests(written)
    assert (edited["prompts"], edited["source_prompts"]) == ([WORDS], [EDIT["source_prompt"]])
    assert drawn["prompts"] == [WORDS]
    assert "source_prompts" not in drawn
    assert "prompts" not in refused
