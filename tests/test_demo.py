"""The demo: it works on what it is given, says so, and leaves nothing behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.supervisors import environment, pushq
from tests.support.waiting import wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.py").write_text("print('hello')\n")
    (tmp_path / "bad.py").write_text("def broken(:\n    '''")
    (tmp_path / "good.txt").write_text("two words\n")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    return tmp_path


@contextmanager
def _started(folder: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "pushq", "demo", str(folder), *flags],
        env=environment(None) | {"PUSHQ_TEST_MARK": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def _left_running(folder: Path) -> list[str]:
    """The processes that the demo of this folder has started, by their environment; PostgreSQL's by their directory."""
    mark, found = f"PUSHQ_TEST_MARK={folder}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def _wait_nothing_is_left(folder: Path) -> None:
    deadline = time.monotonic() + 20
    while (left := _left_running(folder)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []


def test_it_shows_every_file_and_ends_by_itself(folder: Path) -> None:
    ended = pushq("demo", str(folder))

    assert ended.returncode == 0, ended.stderr
    assert "5 jobs, one a file" in ended.stdout
    rows = {line.split()[0]: line.split()[1:4] for line in ended.stdout.splitlines() if re.match(r"\w+\.\w+ ", line)}
    assert rows["file.digest"] == ["1", "0", "0"]
    assert rows["text.lines"] == ["1", "1", "2"]
    assert int(rows["python.tokens"][0]) + int(rows["python.tokens"][1]) == 2
    assert 'pushq_jobs_finished_total{queue="default",status="failed",task="text.lines"} 1.0' in ended.stdout


def test_kept_it_stays_until_ctrl_c(folder: Path) -> None:
    with _started(folder, "--keep") as running:
        assert running.stdout is not None
        said = ""
        for line in running.stdout:
            said += line
            if "Ctrl-C ends it." in line:
                break
        url = re.search(r"DATABASE_URL='(\S+)' pushq jobs", said)
        assert url, said
        listed = pushq("jobs", "list", "--json", url=url[1])
        assert listed.stdout.count("\n") == 25  # five files and twenty pick-ups
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 0

    _wait_nothing_is_left(folder)


@pytest.mark.parametrize("moment", [0.0, 0.3, 0.8, 1.5, 2.5])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_at_any_moment_it_leaves_no_process(folder: Path, moment: float, number: signal.Signals) -> None:
    with _started(folder, "--keep") as running:
        wait_until(lambda: _left_running(folder))
        try:
            running.wait(moment)
        except subprocess.TimeoutExpired:
            running.send_signal(number)
        running.wait(20)

    _wait_nothing_is_left(folder)
    wait_until(lambda: not _servers_without_owner())


def _servers_without_owner() -> list[str]:
    """PostgreSQL servers of a demo whose parent is gone; they have another environment than ours."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if b"pushq-postgres-" in command and "PPid:\t1\n" in (process / "status").read_text():
                found.append(command.decode())
        except OSError:
            continue
    return found


@pytest.mark.parametrize(("name", "sentence"), [("nowhere", "is not a folder"), ("empty", "has no files")])
def test_a_folder_that_will_not_do_is_named(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "empty").mkdir()
    ended = pushq("demo", str(tmp_path / name))

    assert sentence in ended.stderr
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
