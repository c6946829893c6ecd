from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.errors import InputError
from service.settings import PREFIX, Settings, read_settings

EXAMPLE = Path(__file__).parents[3] / ".env.example"
COMPOSE = EXAMPLE.with_name("docker-compose.yml")


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch):
    import os  # noqa: PLC0415

    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def test_the_example_lists_every_setting_with_its_meaning_and_default():
    blocks = [
        f"# {field.description}\n{PREFIX}{name.upper()}={field.default}\n"
        for name, field in Settings.model_fields.items()
    ]
    assert EXAMPLE.read_text().split("\n\n", 1)[1] == "\n".join(blocks)


def test_what_compose_sets_are_settings_and_metrics_have_a_port_of_their_own(monkeypatch):
    for name, value in re.findall(r'^ +(RETOUCH_\w+): "?([^"\s]+)', COMPOSE.read_text(), re.MULTILINE):
        monkeypatch.setenv(name, value)
    settings = read_settings(host="0.0.0.0")  # noqa: S104  # as the image is started
    assert (settings.open, settings.metrics, settings.has_open_metrics) == (True, 9464, False)


def test_the_environment_is_read_and_flags_win_over_it(monkeypatch):
    monkeypatch.setenv("RETOUCH_PORT", "1")
    monkeypatch.setenv("RETOUCH_THREADS", "3")
    settings = read_settings(port=2, host=None)
    assert (settings.port, settings.num_threads, settings.host) == (2, 3, "127.0.0.1")
    assert read_settings().port == 1


@pytest.mark.parametrize("name", ["cache_bytes", "device_cache_bytes", "disk_bytes"])
def test_bytes_of_a_tier_are_a_number_or_what_is_free(monkeypatch, name):
    assert getattr(read_settings(), name) == "auto"
    for text, value in (("0", 0), ("1024", 1024), ("auto", "auto")):
        monkeypatch.setenv(PREFIX + name.upper(), text)
        assert getattr(read_settings(), name) == value
    for text in ("-1", "much"):
        monkeypatch.setenv(PREFIX + name.upper(), text)
        with pytest.raises(InputError, match=f"{PREFIX}{name.upper()}: .*{text}"):
            read_settings()


def test_an_empty_value_is_the_default(monkeypatch):
    monkeypatch.setenv("RETOUCH_THREADS", "")
    assert read_settings().num_threads is None


def test_a_name_that_does_not_exist_is_refused_with_a_hint(monkeypatch):
    monkeypatch.setenv("RETOUCH_CACHE_BYTE", "1")
    with pytest.raises(InputError, match=r"RETOUCH_CACHE_BYTE: .*did you mean RETOUCH_CACHE_BYTES"):
        read_settings()


def test_a_name_like_no_other_is_refused_with_all_names(monkeypatch):
    monkeypatch.setenv("RETOUCH_XYZZY", "1")
    with pytest.raises(InputError, match="RETOUCH_HOST, "):
        read_settings()


@pytest.mark.parametrize(("name", "value"), [("PORT", "http"), ("RUNNING_JOBS", "0"), ("THREADS", "many")])
def test_a_wrong_value_is_refused_by_its_name(monkeypatch, name, value):
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(InputError, match=f"{PREFIX}{name}: .*{value}"):
        read_settings()


def test_a_wrong_flag_is_refused_by_its_own_name():
    with pytest.raises(InputError) as refused:
        read_settings(port=70000)
    assert refused.value.field == "port"


def test_settings_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1
