"""Recordings on the disk: kept by one command, read by the next, listed."""

from __future__ import annotations

import json

import pytest

from service import cli

OLD, NEW = "a snow mountain under a night sky", "a snow mountain under a night sky with a red house"
QUICK = ["--steps", "3", "--seed", "3", "--device", "cpu", "--json"]


@pytest.fixture(autouse=True)
def _own_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("RETOUCH_THREADS", "1")
    monkeypatch.setenv("RETOUCH_DISK_PATH", str(tmp_path / "recordings"))
    monkeypatch.chdir(tmp_path)


def receipt_of(capsys, *arguments):
    assert cli.main([*arguments, *QUICK]) == 0
    return json.loads(capsys.readouterr().out)


def listed(capsys, *arguments):
    assert cli.main(["inspect", *arguments]) == 0
    return capsys.readouterr().out


def test_what_one_command_recorded_the_next_one_reads(capsys):
    drawn = receipt_of(capsys, "generate", OLD)
    edited = receipt_of(capsys, "edit", "--source-prompt", OLD, "--prompt", NEW)
    assert edited["source_id"] == drawn["image_id"]
    assert "source" not in edited["seconds"]
    assert edited["bytes_moved"] > 0


def test_recordings_are_listed_with_their_bytes_and_lineage(capsys):
    edited = receipt_of(capsys, "edit", "--source-prompt", OLD, "--prompt", NEW)
    table = listed(capsys).splitlines()
    assert table[0].split()[:3] == ["recording", "edit", "of"]
    assert {edited["image_id"], edited["source_id"]} == {line.split()[0] for line in table[1:-1]}
    assert table[-1].startswith("2 recordings, ")
    by_id = {one["id"]: one for one in json.loads(listed(capsys, "--json"))}
    edit, source = by_id[edited["image_id"]], by_id[edited["source_id"]]
    assert (edit["parent_id"], edit["depth"], source["depth"]) == (edited["source_id"], 1, 0)
    assert sum(edit["bytes_by_plane"].values()) < sum(source["bytes_by_plane"].values())
    assert set(source["bytes_by_tier"]) == {"disk"}


def test_a_directory_that_is_not_there_is_named(capsys, monkeypatch):
    assert cli.main(["inspect", "--disk", "nowhere"]) == 2
    assert "--disk: there is no directory 'nowhere'" in capsys.readouterr().err
    monkeypatch.delenv("RETOUCH_DISK_PATH")
    assert cli.main(["inspect"]) == 2
    assert "--disk: name a directory of recordings" in capsys.readouterr().err
