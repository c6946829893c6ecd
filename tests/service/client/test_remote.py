"""`retouch --server`: the same flags, files and outputs, by the client."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import termios

import numpy as np
import pytest
from PIL import Image

from service import cli
from service.api.keys import make_key
from service.errors import BusyError, ConflictError, JobFailedError
from service.jobs import Receipt

OLD = "a snow mountain under a night sky with a red house"
NEW = "a snow mountain under a night sky with a blue house"
QUICK = ["--steps", "2", "--seed", "3"]
GUARD_SECONDS = 30  # a test that hangs fails


@pytest.fixture(autouse=True)
def _own_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("RETOUCH_THREADS", "1")
    monkeypatch.delenv("RT_KEY", raising=False)
    monkeypatch.chdir(tmp_path)


def edit(url, *more):
    return ["edit", "--server", url, "--source-prompt", OLD, "--prompt", NEW, *more]


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_a_server_makes_the_files_that_are_made_here(postcard_url, tmp_path, capsys):
    Image.fromarray(np.tri(256, dtype=bool)).save("half.png")
    files = ["new.png", "old.png", "mask.png"]
    flags = ["--mask", "half.png", "--json", *QUICK]

    def run(where, *arguments):
        (tmp_path / where).mkdir()
        paths = [f"{where}/{file}" for file in files]
        outs = zip(["--out", "--source-out", "--mask-out"], paths, strict=True)
        assert cli.main([*arguments, *flags, *[word for pair in outs for word in pair]]) == 0
        said = capsys.readouterr()
        assert all(path in said.err for path in paths)
        return [pixels(path) for path in paths], json.loads(said.out)

    there, receipt = run("there", *edit(postcard_url))
    here, own = run("here", *edit("")[:1], *edit("")[3:], "--device", "cpu")
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(here, there, strict=True))
    assert set(receipt) == set(own)
    assert all(receipt[name] == own[name] for name in ("image_id", "source_id", "edited_ratio"))


def test_a_picture_is_drawn_into_a_file_named_by_its_id(scripted_server, worker, tmp_path, capsys):
    assert cli.main(["generate", "дом", "--server", scripted_server[0], "--seed", "7"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["retouch-id.png"]
    assert capsys.readouterr().err == "retouch-id.png: the picture\n1.0 s\n"
    (job,) = worker.jobs
    assert (job.prompt, job.sampling.given()) == ("дом", {"seed": 7})


def test_flags_are_fields(scripted_server, worker):
    flags = ["--margin", "2", "--preset", "fisedit", "--dry-run", "--preview-every", "3"]
    assert cli.main(edit(scripted_server[0], *flags)) == 0
    (job,) = worker.jobs
    assert (job.rules.margin, job.rules.attention, job.dry_run, job.preview_every) == (2, "masked", True, 3)


def test_the_source_may_be_a_picture_that_the_server_keeps(postcard_url, capsys):
    assert cli.main(["generate", "--server", postcard_url, OLD, "--out", "old.png", "--json", *QUICK]) == 0
    source_id = json.loads(capsys.readouterr().out)["image_id"]
    by_id = ["edit", "--server", postcard_url, "--image-id", source_id, "--prompt", NEW]
    assert cli.main([*by_id, "--source-out", "source.png", "--out", "new.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source_id"] == source_id
    assert np.array_equal(pixels("source.png"), pixels("old.png"))
    assert cli.main(["edit", "--server", postcard_url, "--image-id", "unknown", "--prompt", NEW]) == 1
    assert capsys.readouterr().err == "retouch: no image has the id 'unknown'\n"


def test_without_a_source_the_server_looks_for_one(scripted_server, worker):
    flags = ["--min-similarity", "0.5", "--cache", "read_only", "--deadline-seconds", "60"]
    assert cli.main(["edit", "--server", scripted_server[0], "--prompt", NEW, *flags]) == 0
    (job,) = worker.jobs
    assert (job.image_id, job.source_prompt, job.min_similarity) == (None, None, 0.5)
    assert (job.cache, job.deadline_seconds) == ("read_only", 60)


def test_the_same_key_of_a_job_runs_it_once(scripted_server, worker):
    for _ in range(2):
        assert cli.main(edit(scripted_server[0], "--out", "new.png", "--idempotency-key", "mine")) == 0
    assert len(worker.jobs) == 1


def test_where_no_retouch_is_that_is_said(scripted_server, capsys):
    url = f"{scripted_server[0]}/elsewhere"
    assert cli.main(edit(url)) == 1
    assert capsys.readouterr().err.startswith(f"retouch: {url}: no Retouch is there: the server answered 404: ")


def test_a_source_that_is_not_kept_is_told(scripted_server, worker, tmp_path, capsys):
    del worker
    assert cli.main(edit(scripted_server[0], "--out", "new.png", "--source-out", "old.png")) == 0
    assert "old.png: not written, the source is not there" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["new.png"]


def test_words_that_the_model_does_not_know_are_told(scripted_server, worker, capsys):
    worker.receipt = Receipt("id", "source", edited_ratio=0.25, seconds={"total": 2.0}, unknown_words=("zebra",))
    assert cli.main(edit(scripted_server[0])) == 0
    said = capsys.readouterr().err
    assert "25% of the picture changed, 2.0 s" in said
    assert "words that the model does not know: zebra" in said


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConflictError("num_inference_steps", "is the source's, 1"), 2, "--steps: is the source's, 1"),
        (BusyError(12), 1, "the queue is full; try again in 12 s"),
        (JobFailedError("the device failed"), 1, "the device failed"),
        (ZeroDivisionError("secret"), 1, "the service met a defect; its log has the traceback"),
    ],
)
def test_a_servers_errors_are_those_that_are_met_here(scripted_server, worker, capsys, tmp_path, error, code, text):
    worker.error = error
    assert cli.main(edit(scripted_server[0])) == code
    assert capsys.readouterr().err == f"retouch: {text}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--model", "postcard"], "--model: does not go with --server"),
        (["--device", "cpu"], "--device: does not go with --server"),
        (["--seed", "-1"], "--seed"),
        (["--preview-every", "-1"], "--preview-every"),
        (["--mask", "missing.png"], "--mask"),
        (["--out", "no/such/directory.png"], "--out"),
        (["--min-similarity", "0.5"], "--min-similarity: is for an edit whose source is looked for"),
        (["--idempotency-key", "ö"], "--idempotency-key: must be printable ASCII"),
        (["--key", "rt_secret"], "--key: must name a file that can be read and holds the key"),
        (["--server", "localhost"], "--server: must be http://"),
    ],
)
def test_bad_input_is_told_before_anything_is_asked(scripted_server, worker, capsys, flags, name):
    assert cli.main(edit(scripted_server[0], *flags)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line
    assert "rt_secret" not in line
    assert worker.jobs == []


def test_a_server_that_is_not_there_is_a_failure(unused_url, capsys):
    assert cli.main(edit(unused_url)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"retouch: {unused_url}: ")


def test_a_key_comes_from_a_file_or_the_environment(open_server, monkeypatch, tmp_path, capsys):
    key, entry = make_key("ann")
    (tmp_path / "key").write_text(key + "\n")
    with open_server(api_keys=entry) as (url, worker):
        assert cli.main(edit(url)) == 1
        assert capsys.readouterr().err == "retouch: a key is needed: Authorization: Bearer KEY\n"
        assert cli.main(edit(url, "--key", "key")) == 0
        monkeypatch.setenv("RT_KEY", key)
        assert cli.main(edit(url)) == 0
    assert [job.tenant for job in worker.jobs] == ["ann", "ann"]


def test_an_interrupt_cancels_the_job_on_the_server(scripted_server, worker, tmp_path):
    worker.is_held = True
    command = [sys.executable, "-m", "service.cli", *edit(scripted_server[0])]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as running:  # noqa: S603  # our own words
        assert worker.begun.wait(GUARD_SECONDS)
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=GUARD_SECONDS)[1]
    assert (running.returncode, said) == (130, "retouch: interrupted\n")
    assert worker.ended.wait(GUARD_SECONDS)
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_is_shown_how_far_a_job_is(scripted_server, worker, tmp_path):
    del worker
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [sys.executable, "-m", "service.cli", *edit(scripted_server[0], "--preview-every", "1")]
    subprocess.run(command, stderr=theirs, cwd=tmp_path, check=True, timeout=GUARD_SECONDS)  # noqa: S603  # our own words
    os.close(theirs)
    said = os.read(ours, 65536).decode()
    os.close(ours)
    assert "waiting" in said
    assert "drawing 12%: 100%" in said
    assert said.endswith("12% of the picture changed, 1.0 s\r\n")


def test_no_torch_is_loaded_for_a_server(scripted_server, worker, tmp_path):
    del worker
    code = (
        "import sys; from service import cli; assert cli.main(sys.argv[1:]) == 0\n"
        "print(sorted({'torch', 'diffusers', 'fastapi', 'transformers'} & set(sys.modules)))"
    )
    run = [sys.executable, "-c", code, *edit(scripted_server[0])]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path)  # noqa: S603  # our own words
    assert done.stdout.splitlines()[-1] == "[]"
