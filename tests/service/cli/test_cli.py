from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points

import numpy as np
import pytest
from PIL import Image

from service import cli
from service.api.keys import Keys
from service.batching import runner
from service.commands.files import check_files, write
from service.errors import InputError, JobFailedError
from service.jobs import Accepted, Failed

OLD = "a snow mountain under a night sky with a red house"
NEW = "a snow mountain under a night sky with a blue house"
QUICK = ["--steps", "3", "--seed", "3", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _own_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("RETOUCH_THREADS", "1")
    monkeypatch.chdir(tmp_path)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def edit(*more):
    return ["edit", "--source-prompt", OLD, "--prompt", NEW, *more]


def test_a_picture_is_drawn_into_a_file_named_by_its_id(tmp_path, capsys):
    assert cli.main(["generate", OLD, *QUICK]) == 0
    (written,) = tmp_path.iterdir()
    assert written.match("retouch-*.png")
    said = capsys.readouterr()
    assert said.out == ""
    assert written.name in said.err
    assert pixels(written).ndim == 3


def test_an_edit_writes_its_files_and_prints_its_receipt(tmp_path, capsys):
    assert cli.main(["generate", OLD, "--out", "source.png", *QUICK]) == 0
    size = pixels("source.png").shape[:2]
    half = np.zeros(size, np.uint8)
    half[:, : size[1] // 2] = 255
    Image.fromarray(half).save("half.png")
    files = ["--out", "new.png", "--source-out", "old.png", "--mask-out", "mask.png"]
    assert cli.main(edit("--mask", "half.png", "--json", *files, *QUICK)) == 0
    receipt = json.loads(capsys.readouterr().out)
    assert receipt["edited_ratio"] == 0.5
    assert receipt["source_id"] != receipt["image_id"]
    assert np.array_equal(np.asarray(Image.open("mask.png")), half)
    old, new = pixels("old.png"), pixels("new.png")
    assert np.array_equal(old, pixels("source.png"))
    far = size[1] // 2 + 8  # by default a rim of one latent position is pasted too
    assert np.array_equal(old[:, far:], new[:, far:])
    assert not np.array_equal(old, new)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "half.png",
        "mask.png",
        "new.png",
        "old.png",
        "source.png",
    ]


def test_the_source_may_be_a_picture_on_the_disk(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("RETOUCH_DISK_PATH", str(tmp_path / "kept"))
    assert cli.main(["generate", OLD, "--json", *QUICK]) == 0
    source_id = json.loads(capsys.readouterr().out)["image_id"]
    assert cli.main(["edit", "--image-id", source_id, "--prompt", NEW, "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["source_id"] == source_id


def test_a_dry_run_has_no_picture_to_write(capsys):
    assert cli.main(edit("--dry-run", "--out", "picture.png", *QUICK)) == 2
    assert "--out: a dry run draws no picture" in capsys.readouterr().err


def test_a_dry_run_writes_the_mask_only(tmp_path, capsys):
    assert cli.main(edit("--dry-run", "--mask-out", "mask.png", *QUICK)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]
    assert "%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "COMMAND"),
        (["paint"], "paint"),
        (["generate"], "PROMPT"),
        (["generate", " "], "PROMPT"),
        (["generate", OLD, "--seed", "x"], "--seed"),
        (["generate", OLD, "--seed", "-1"], "--seed"),
        (["generate", OLD, "--steps", "0"], "--steps"),
        (["generate", OLD, "--width", "100"], "--width"),
        (["generate", OLD, "--guidance-scale", "nan"], "--guidance-scale"),
        (["generate", OLD, "--sampler", "euler"], "--sampler"),
        (["generate", OLD, "--out", "no/such/directory.png"], "--out"),
        (["generate", OLD, "--out", "."], "--out"),
        (["generate", OLD, "--out", "/dev/null"], "--out"),
        (["generate", OLD, "--device", "banana"], "--device"),
        (["generate", OLD + "\x00"], "PROMPT"),
        (edit("--out", "a.png", "--source-out", "./a.png"), "--source-out"),
        (edit("--source-out", "a.png", "--mask-out", "a.png"), "--mask-out"),
        (["generate", OLD, "--model", "./nowhere"], "--model"),
        (["edit", "--prompt", NEW], "--source-prompt"),
        (["edit", "--prompt", NEW], "--image-id"),
        (edit("--image-id", "a"), "--image-id"),
        (["edit", "--prompt", NEW, "--image-id", ""], "--image-id"),
        (["edit", "--prompt", "", "--source-prompt", OLD], "--prompt"),
        (edit("--mask", "missing.png"), "--mask"),
        (edit("--mask", __file__), "--mask"),
        (edit("--mask-mode", "given"), "--mask"),
        (edit("--margin", "99"), "--margin"),
        (edit("--deep-every", "0"), "--deep-every"),
        (edit("--steps", "9999"), "--steps"),
        (["serve", "--port", "99999"], "--port"),
        (["serve", "--device", "banana"], "--device"),
        (["serve", "--running-jobs", "none"], "--running-jobs"),
        (["serve", "--drain-seconds", "-1"], "--drain-seconds"),
        (["key", "an/n"], "NAME"),
        (["generate", OLD, "--key", "file"], "--key"),
        (["generate", OLD, "--preview-every", "2"], "--preview-every"),
        (["generate", OLD, "--cache", "write"], "--cache"),
        (["generate", OLD, "--deadline-seconds", "9"], "--deadline-seconds"),
        (["generate", OLD, "--idempotency-key", "k"], "--idempotency-key"),
        (edit("--min-similarity", "0.5"), "--min-similarity: goes with --server"),
    ],
)
def test_bad_input_is_one_line_that_names_the_argument(capsys, arguments, name):
    assert exit_code(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert name in line


def exit_code(arguments):
    try:
        return cli.main(arguments)
    except SystemExit as left:
        return left.code


def test_an_unknown_setting_is_bad_input(monkeypatch, capsys):
    monkeypatch.setenv("RETOUCH_SEED", "1")
    assert cli.main(["serve"]) == 2
    assert "RETOUCH_SEED" in capsys.readouterr().err


def test_a_sentence_model_that_is_not_there_is_bad_input_by_the_settings_name(monkeypatch, capsys):
    monkeypatch.setenv("RETOUCH_EMBEDDING_MODEL", "./nowhere")
    assert cli.main(["serve"]) == 2
    assert "RETOUCH_EMBEDDING_MODEL: there is no directory './nowhere'" in capsys.readouterr().err


def test_a_failed_job_is_a_failure(monkeypatch, capsys, tmp_path):
    events = [Accepted("id", None, 1), Failed(JobFailedError("the device went away"))]
    monkeypatch.setattr(runner, "run", lambda *_: events)
    assert cli.main(["generate", OLD, *QUICK]) == 1
    assert "the device went away" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_defect_is_told_with_its_cause_and_no_log_to_look_into(monkeypatch, capsys):
    def defect(*_):
        raise ZeroDivisionError("of the engine")

    monkeypatch.setattr(runner.editor, "start", defect)
    monkeypatch.setattr(
        runner.Runner.__init__, "__kwdefaults__", runner.Runner.__init__.__kwdefaults__ | {"start": defect}
    )
    assert cli.main(["generate", OLD, *QUICK]) == 1
    assert "retouch: a defect, see above: ZeroDivisionError: of the engine" in capsys.readouterr().err


def test_an_interrupt_is_130(monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupted)
    assert cli.main(["generate", OLD, "--out", "new.png", *QUICK]) == 130
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_replaced_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write(tmp_path / "taken", b"png")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_links_stay_links_to_what_is_written(tmp_path):
    (tmp_path / "link.png").symlink_to("kept.png")
    write(tmp_path / "link.png", b"png")
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "kept.png").read_bytes() == b"png"


def test_two_names_of_one_file_are_refused(tmp_path):
    (tmp_path / "link.png").symlink_to("a.png")
    with pytest.raises(InputError, match="another picture's file"):
        check_files({"out": tmp_path / "a.png", "mask_out": tmp_path / "link.png"})


def test_a_link_that_goes_round_is_refused(tmp_path):
    (tmp_path / "round.png").symlink_to("round.png")
    with pytest.raises(InputError, match=r"round\.png"):
        check_files({"out": tmp_path / "round.png"})


def test_serving_takes_flags_over_the_environment(monkeypatch):
    served = {}
    monkeypatch.setattr("service.server.serve", lambda app, settings: served.update(title=app.title, settings=settings))
    monkeypatch.setattr("service.logs.configure", lambda level: served.update(level=level))
    monkeypatch.setenv("RETOUCH_HOST", "127.0.0.2")
    monkeypatch.setenv("RETOUCH_OPEN", "true")
    assert (
        cli.main(["serve", "--port", "8123", "--disk-bytes", "auto", "--queue-jobs", "3", "--log-prompts", "--no-open"])
        == 0
    )
    assert (served["settings"].host, served["settings"].port) == ("127.0.0.2", 8123)
    assert (served["settings"].disk_bytes, served["settings"].queue_jobs) == ("auto", 3)
    assert (served["settings"].log_prompts, served["settings"].open) == (True, False)
    assert (served["title"], served["level"]) == ("Retouch", "info")


def test_a_port_that_others_reach_needs_keys(capsys):
    assert cli.main(["serve", "--host", "0.0.0.0"]) == 2  # noqa: S104  # that is what is refused
    assert "--host: 0.0.0.0 is reached from elsewhere" in capsys.readouterr().err


def test_a_key_is_made_with_the_entry_for_the_setting(capsys):
    assert cli.main(["key", "ann"]) == 0
    key, entry = capsys.readouterr().out.splitlines()
    assert Keys.parse(entry).tenant_of(f"Bearer {key}") == "ann"


@pytest.mark.parametrize("command", [[], ["generate"], ["edit"], ["serve"]])
def test_help_loads_no_network_library(command):
    code = (
        "import sys; from service import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit: print(sorted({'torch', 'diffusers', 'fastapi', 'transformers'} & set(sys.modules)))"
    )
    run = [sys.executable, "-c", code, *command, "--help"]
    done = subprocess.run(run, capture_output=True, text=True, check=True)  # noqa: S603  # our own words
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "service.cli", "edit", "--prompt"], capture_output=True, check=False)
    assert done.returncode == 2
    (command,) = entry_points(group="console_scripts", name="retouch")
    assert command.value == "service.cli:main"
