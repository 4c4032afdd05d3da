"""The demo: it works on what it is given, says so, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from pushq.local.server import _remove_leftovers
from tests.support.supervisors import ROOT, environment, pushq
from tests.support.waiting import wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.py").write_text("print('hello')\n")
    (tmp_path / "bad.py").write_text("def broken(:\n    '''")
    (tmp_path / "good.txt").write_text("two words\n")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    Path(os.fsdecode(bytes(tmp_path / "name") + b"\xff")).write_text("a name that JSON cannot hold")
    return tmp_path


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where a demo puts its server: near the root, since a socket's path is short, and open to PostgreSQL's user."""
    with TemporaryDirectory(prefix="pushq-test-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@contextmanager
def started(folder: Path, temporary: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "pushq", "demo", str(folder), *flags],
        env=environment(None) | {"TMPDIR": str(temporary)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def processes(temporary: Path) -> list[str]:
    """The processes of a demo, by their environment; PostgreSQL's by their directory."""
    mark, found = os.fsencode(temporary), []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes()
            if mark in command or b"TMPDIR=" + mark in (process / "environ").read_bytes():
                found.append(command.replace(b"\0", b" ").decode())
    return found


def test_it_shows_every_file_and_ends_by_itself(folder: Path) -> None:
    ended = pushq("demo", str(folder))

    assert ended.returncode == 0, ended.stderr
    assert "5 jobs, one a file" in ended.stdout
    rows = {line.split()[0]: line.split()[1:4] for line in ended.stdout.splitlines() if re.match(r"\w+\.\w+ ", line)}
    assert rows["file.digest"] == ["1", "0", "0"]
    assert rows["text.lines"] == ["1", "1", "2"]
    assert int(rows["python.tokens"][0]) + int(rows["python.tokens"][1]) == 2
    assert 'pushq_jobs_finished_total{queue="default",status="failed",task="text.lines"} 1.0' in ended.stdout


def test_kept_it_stays_until_ctrl_c(folder: Path, temporary: Path) -> None:
    with started(folder, temporary, "--keep") as running:
        assert running.stdout
        said = "".join(iter(running.stdout.readline, "Ctrl-C ends the demo.\n"))
        url = re.search(r"DATABASE_URL='(\S+)' pushq jobs", said)
        assert url, said
        listed = pushq("jobs", "list", "--json", url=url[1])
        assert listed.stdout.count("\n") == 25  # five files and twenty pick-ups
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 0
        assert (processes(temporary), list(temporary.iterdir())) == ([], [])


def test_the_settings_of_another_queue_do_not_disturb_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PUSHQ_QUEUES=mail\nPUSHQ_LISTEN_DATABASE_URL=postgresql://nobody@127.0.0.1:1/x\n")
    ended = subprocess.run(
        [sys.executable, "-m", "pushq", "demo", "."],
        env=environment(None, HTTP_TOKEN="secret"),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "PostgreSQL is being set up": lambda temporary: any(temporary.glob("pushq-*")),
    "PostgreSQL starts": lambda temporary: any(temporary.glob("pushq-*/data/postmaster.pid")),
    "the supervisor starts": lambda temporary: any("pushq supervise" in command for command in processes(temporary)),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_stopped_while_it_starts_and_however_impatiently_it_leaves_nothing(
    folder: Path, temporary: Path, moment: str
) -> None:
    with started(folder, temporary, "--keep") as running:
        wait_until(lambda: MOMENTS[moment](temporary), within=20)
        running.send_signal(signal.SIGINT)
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 0
        assert (processes(temporary), list(temporary.iterdir())) == ([], [])


def test_sigterm_stops_it_as_ctrl_c_does(folder: Path, temporary: Path) -> None:
    with started(folder, temporary) as running:
        wait_until(lambda: MOMENTS["the supervisor starts"](temporary), within=20)
        running.terminate()
        assert running.wait(20) == 130
        assert (processes(temporary), list(temporary.iterdir())) == ([], [])


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_it_leaves_no_process_and_who_starts_next_removes_its_directory(
    folder: Path, temporary: Path, moment: str
) -> None:
    with started(folder, temporary, "--keep") as running:
        wait_until(lambda: MOMENTS[moment](temporary), within=20)
        running.kill()
        running.wait(20)
        wait_until(lambda: not processes(temporary), within=20)

    def is_clean() -> bool:
        _remove_leftovers(temporary)  # as the next start does; a process that is just ending may still hold the lock
        return not list(temporary.glob("pushq-postgres-*"))

    wait_until(is_clean)


@pytest.mark.parametrize(("name", "sentence"), [("nowhere", "is not a folder"), ("empty", "has no files")])
def test_a_folder_that_will_not_do_is_named(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "empty").mkdir()
    ended = pushq("demo", str(tmp_path / name))

    assert sentence in ended.stderr
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
