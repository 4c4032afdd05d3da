"""The page about developing, typed into an empty folder."""

from __future__ import annotations

import os
import pty
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.jobs import Connection, finished, insert
from tests.support.pages import Shell, blocks, commands, section
from tests.support.supervisors import ROOT
from tests.support.waiting import eventually

PAGE = "how-to/develop.md"


@pytest.fixture
def shell(database_url: str, server_bin_directory: Path, tmp_path: Path) -> Shell:
    (module,) = blocks("python", (ROOT / "docs" / PAGE).read_text())
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "jobs.py").write_text(module)
    return Shell(database_url, server_bin_directory, tmp_path)


async def test_a_change_restarts_the_supervisor_even_after_an_error(shell: Shell, connection: Connection) -> None:
    watch = commands(section(PAGE, "Reload after a change"))[0].splitlines()[1]
    module = shell.directory / "app" / "jobs.py"
    right, wrong = module.read_text().replace("Hello", "Good day"), "this is no Python"

    with started(shell, watch) as terminal:
        assert '"Hello from None, Ada!"' in await result_of_greet(connection)
        module.write_text(wrong)
        await says(terminal, "pushq: ")
        module.write_text(right)
        assert '"Good day from None, Ada!"' in await result_of_greet(connection)


@pytest.mark.parametrize("kind", ["async def", "def"])
async def test_a_handler_stops_at_the_debugger_s_prompt(shell: Shell, connection: Connection, kind: str) -> None:
    (supervise,) = commands(section(PAGE, "Debugger"))
    module = shell.directory / "app" / "jobs.py"
    stopping = module.read_text().replace("    log.info(", "    breakpoint()\n    log.info(")
    module.write_text(stopping.replace("async def", kind))

    with started(shell, supervise) as terminal:
        (job,) = await insert(connection, "greet", payload={"name": "Ada"})
        await says(terminal, "(Pdb)")
        terminal.type_in("p name")
        await says(terminal, "'Ada'")
        terminal.type_in("continue")
        await finished(connection, job)
        terminal.press_ctrl_c()
        if kind == "async def":
            await says(terminal, "Program interrupted")
            terminal.type_in("continue")
        await says(terminal, "supervisor stopped")


async def test_handlers_see_the_variables_of_the_file_only_by_dotenv_run(shell: Shell, connection: Connection) -> None:
    text = section(PAGE, "Settings in `.env`")
    (shell.directory / ".env").write_text(*blocks("ini", text))
    (supervise,) = commands(text)

    with started(shell, supervise.removeprefix("dotenv run -- ")) as terminal:
        assert '"Hello from None, Ada!"' in await result_of_greet(connection)
        assert "concurrency=2" in terminal.said()
    with started(shell, supervise):
        assert '"Hello from localhost, Ada!"' in await result_of_greet(connection)


def test_a_job_by_hand(shell: Shell) -> None:
    (greet,) = commands(section(PAGE, "A job by hand"))
    with started(shell, "pushq supervise app.jobs:tasks"):
        assert "Hello from None, Ada!" in shell.run(greet)


def test_bash_completes_commands(shell: Shell) -> None:
    (line,) = commands(section(PAGE, "Completion"))
    ask = 'COMP_WORDS=(pushq mig) COMP_CWORD=1; _pushq_completion pushq; echo "${COMPREPLY[@]}"'

    assert shell.run(f"{line}\n{ask}") == "migrate\n"


async def result_of_greet(connection: Connection) -> str:
    (job,) = await insert(connection, "greet", payload={"name": "Ada"})
    (row,) = await finished(connection, job)
    return str(row["result"])


async def says(terminal: Terminal, words: str) -> None:
    async def look() -> bool:
        return words in terminal.said()

    await eventually(look)


class Terminal:
    """A program's terminal."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._said = b""

    def said(self) -> str:
        """All that the program has written so far."""
        while select.select([self._file], [], [], 0)[0]:
            try:
                self._said += os.read(self._file, 65536)
            except OSError:  # the program has ended
                break
        return self._said.decode()

    def type_in(self, line: str) -> None:
        os.write(self._file, f"{line}\n".encode())

    def press_ctrl_c(self) -> None:
        os.write(self._file, b"\x03")


@contextmanager
def started(shell: Shell, command: str) -> Iterator[Terminal]:
    """A program at a terminal of its own, which is closed at the end."""
    pid, file = pty.fork()
    if pid == 0:
        os.chdir(shell.directory)
        os.execvpe("bash", ["bash", "-c", command], shell.env)
    terminal = Terminal(file)
    try:
        yield terminal
    except BaseException:
        print(terminal.said())
        raise
    finally:
        os.close(file)  # hangs up, so the program drains
        _reap(pid)


def _reap(pid: int) -> None:
    """Waits for a program to end, and kills the program if it does not."""
    deadline = time.monotonic() + 10
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.02)
