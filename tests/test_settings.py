from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from pushq.errors import SettingsError
from pushq.settings import Settings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose `.env` is the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(**flags: object) -> str:
    with pytest.raises(SettingsError) as refused:
        Settings.load(**flags)
    return str(refused.value)


def test_without_a_word_the_defaults_hold() -> None:
    settings = Settings.load()
    assert settings.url is None
    assert settings.queues is None
    assert (settings.concurrency, settings.processes, settings.http_port) == (10, 1, 9464)
    assert (settings.heartbeat_interval, settings.lease, settings.poll_interval) == (10, 30, 30)
    assert (settings.sweep_interval, settings.shutdown_timeout, settings.retention) == (15, 25, 604800)


def test_a_flag_beats_the_environment_and_that_beats_the_file(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / ".env").write_text("PUSHQ_CONCURRENCY=1\nPUSHQ_PROCESSES=2\nPUSHQ_WAKE=poll\n")
    monkeypatch.setenv("PUSHQ_CONCURRENCY", "3")
    monkeypatch.setenv("PUSHQ_PROCESSES", "4")
    settings = Settings.load(concurrency=5, processes=None)
    assert (settings.concurrency, settings.processes, settings.wake) == (5, 4, "poll")


def test_the_database_is_pushqs_own_url_or_else_database_url(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / ".env").write_text("DATABASE_URL=postgresql://file/d\n")
    assert Settings.load().url == "postgresql://file/d"
    monkeypatch.setenv("DATABASE_URL", "postgresql://environment/d")
    assert Settings.load().url == "postgresql://environment/d"
    monkeypatch.setenv("PUSHQ_DATABASE_URL", "postgresql://own/d")
    assert Settings.load().url == "postgresql://own/d"
    assert Settings.load(database_url="postgresql://flag/d").url == "postgresql://flag/d"


def test_the_bell_is_heard_where_the_queue_is_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHQ_DATABASE_URL", "postgresql://pooler/d")
    assert Settings.load().listen_url == "postgresql://pooler/d"
    monkeypatch.setenv("PUSHQ_LISTEN_DATABASE_URL", "postgresql://direct/d")
    assert Settings.load().listen_url == "postgresql://direct/d"


@pytest.mark.parametrize("text", ["mail,reports", " mail , reports, mail,"])
def test_queues_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PUSHQ_QUEUES", text)
    assert Settings.load().queues == ("mail", "reports")
    assert Settings.load(queues=("b", "a")).queues == ("b", "a")
    assert Settings.load(queues=()).queues == ("mail", "reports")


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "PUSHQ_CONCURRENCY",
        "PUSHQ_DATABASE_URL",
        "PUSHQ_QUEUES",
        "DATABASE_URL",
        "PUSHQ_HTTP_TOKEN",
    ):
        monkeypatch.setenv(name, "")
    settings = Settings.load()
    assert (settings.concurrency, settings.url, settings.queues, settings.http_token) == (
        10,
        None,
        None,
        None,
    )


def test_words_may_be_written_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHQ_LOG_LEVEL", "WARNING")
    assert Settings.load().log_level == "warning"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CONCURRENCY", "0"),
        ("CONCURRENCY", "ten"),
        ("HTTP_PORT", "65536"),
        ("HTTP_PORT", "-1"),
        ("LEASE", "nan"),
        ("LEASE", "inf"),
        ("SWEEP_INTERVAL", "0"),
        ("SHUTDOWN_TIMEOUT", "-1"),
        ("POLL_INTERVAL", "-0.5"),
        ("POLL_INTERVAL", "6s"),
        ("WAKE", "sometimes"),
        ("LOG_FORMAT", "xml"),
        ("QUEUES", "q" * 201),
    ],
)
def test_a_value_that_cannot_be_used_is_named_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"PUSHQ_{name}", value)
    sentence = refusal()
    assert sentence.startswith(f"PUSHQ_{name}={value} cannot be used: it ")
    assert re.fullmatch(r"[^\n]+\.", sentence)


@pytest.mark.parametrize(
    ("text", "number"),
    [("30s", "30"), ("1.5 min", "90"), ("500ms", "0.5"), ("2h", "7200"), ("7 days", "604800"), ("soon", "30 or 0.5")],
)
def test_a_duration_with_a_unit_is_answered_with_its_seconds(
    monkeypatch: pytest.MonkeyPatch, text: str, number: str
) -> None:
    monkeypatch.setenv("PUSHQ_LEASE", text)
    assert refusal() == f"PUSHQ_LEASE={text} cannot be used: it should be seconds, as a plain number: {number}."


def test_a_file_that_is_a_pipe_is_read_once(elsewhere: Path) -> None:
    os.mkfifo(elsewhere / ".env")
    text = "PUSHQ_CONCURRENCY=3\n# a long one\n" + "OTHER=x\n" * 20_000 + "DATABASE_URL=postgresql://pipe/d\n"
    writer = threading.Thread(target=lambda: (elsewhere / ".env").write_text(text))
    writer.start()
    settings = Settings.load()
    writer.join()
    assert (settings.concurrency, settings.url) == (3, "postgresql://pipe/d")


def test_a_pipe_that_nobody_fills_is_refused(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushq.settings._PIPE_PATIENCE", 0.05)
    os.mkfifo(elsewhere / ".env")
    assert refusal() == "The file .env is a pipe, into which nobody has written for 0.05 s."


def test_a_file_that_cannot_be_read_is_refused_and_a_folder_is_none(elsewhere: Path) -> None:
    (elsewhere / ".env").write_bytes(b"PUSHQ_CONCURRENCY=\xff\n")
    assert refusal().startswith("The file .env cannot be read: ")
    (elsewhere / ".env").unlink()
    (elsewhere / ".env").mkdir()  # as some name a virtual environment
    assert Settings.load().concurrency == 10


def test_a_lease_that_one_lost_heartbeat_would_end_is_refused() -> None:
    assert "at least three times PUSHQ_HEARTBEAT_INTERVAL=10" in refusal(lease=29.0)
    assert Settings.load(lease=3.0, heartbeat_interval=1.0).lease == 3


def test_a_pool_that_would_never_look_is_refused() -> None:
    assert "PUSHQ_POLL_INTERVAL=0" in refusal(wake="poll", poll_interval=0.0)
    assert Settings.load(wake="notify", poll_interval=0.0).poll_interval == 0


def test_a_misspelt_name_is_pointed_out_with_the_one_that_was_meant(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / ".env").write_text("PUSHQ_HTTP_PROT=1\n")
    assert refusal() == "There is no setting PUSHQ_HTTP_PROT; did you mean PUSHQ_HTTP_PORT?"
    monkeypatch.setenv("PUSHQ_CONCURENCY", "5")
    assert refusal() == "There is no setting PUSHQ_CONCURENCY; did you mean PUSHQ_CONCURRENCY?"


def test_names_that_others_give_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHQ_TEST_DATABASE_URL", "postgresql://h/d")
    monkeypatch.setenv("PUSHQ_PG_BINDIR", "/usr/bin")
    for name in (
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_HTTP",
        "METRICS_SERVICE_HOST",
        "PORT_80_TCP_ADDR",
    ):
        monkeypatch.setenv(f"PUSHQ_{name}", "10.0.0.1")
    monkeypatch.setenv("PUSHQ_PORT", "tcp://10.0.0.1:80")
    assert Settings.load().concurrency == 10


def test_a_port_under_the_wrong_name_is_pointed_out_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHQ_PORT", "9464")
    assert "PUSHQ_HTTP_PORT" in refusal()


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHQ_DATABASE_URL", "postgresql://u:secret@h/d")
    monkeypatch.setenv("PUSHQ_HTTP_TOKEN", "secret")
    assert "secret" not in repr(Settings.load())
    assert "secret" not in refusal(lease=1.0)
    assert "secret" not in refusal(http_token=["secret"])


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings.load().concurrency = 1  # type: ignore[misc]
