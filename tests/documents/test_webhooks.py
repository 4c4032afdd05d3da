"""docs/how-to/webhooks.md: what the page shows runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import IO

from pushq.webhooks.deliver import DELAYS, MAX_ATTEMPTS
from pushq.webhooks.http import DEADLINE
from tests.support.commands import invoke
from tests.support.jobs import Connection, has_count, insert
from tests.support.pages import blocks, commands, section
from tests.support.supervisors import ROOT, supervising
from tests.support.waiting import wait_until

PAGE = "how-to/webhooks.md"
TEXT = (ROOT / "docs" / PAGE).read_text()


async def test_the_receiver_in_python_verifies_what_the_subscription_signs(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    (program,) = blocks("python", section(PAGE, "Receive it"))
    (tmp_path / "receiver.py").write_text(program)
    _, subscribe = blocks("sql", section(PAGE, "Ask for it"))
    serve = [sys.executable, "-u", "-m", "uvicorn", "receiver:app", "--port", "0"]
    with (tmp_path / "said").open("w+") as file, _started(serve, tmp_path, file) as app:
        try:
            port = wait_until(lambda: re.findall(r"running on http://127.0.0.1:(\d+)", _read(tmp_path)), within=20)[0]
            await connection.execute(subscribe)
            await connection.execute("update pushq.webhooks set url = $1", f"http://127.0.0.1:{port}/hook")
            with supervising(database_url, "--queue=reports", "--queue=default", WEBHOOK_ALLOW="127.0.0.1/32"):
                (job,) = await insert(connection, "echo", queue="reports")
                await has_count(connection, 2, "queue = 'pushq.webhooks' and status = 'succeeded'")
        finally:
            app.terminate()

    assert re.findall(r"^job\.\S+ \S+$", _read(tmp_path), re.MULTILINE) == [
        f"job.running {job}",
        f"job.succeeded {job}",
    ]


def _started(command: list[str], folder: Path, said: IO[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)


def _read(folder: Path) -> str:
    return (folder / "said").read_text()


async def test_the_statements(connection: Connection) -> None:
    by_url, subscribe = blocks("sql", section(PAGE, "Ask for it"))
    await connection.execute(by_url)
    await connection.execute(subscribe)
    (rotate,) = blocks("sql", section(PAGE, "Receive it"))
    before, after = rotate.strip().splitlines()
    await connection.execute(before)
    new, old = await connection.fetchval("select secrets from pushq.webhooks")
    assert old in subscribe
    await connection.execute(after)
    assert await connection.fetchval("select secrets from pushq.webhooks") == [new]


def test_the_commands_are_known() -> None:
    for command in commands(TEXT):
        for line in command.splitlines():
            words = line.split()
            assert invoke(*words[1:3], "--help").exit_code == 0 if words[1] == "webhooks" else words[1] == "supervise"


def test_the_page_has_the_figures_of_the_program() -> None:
    named = "after 5 seconds, 1, 5 and 30 minutes, 1, 2, 5, 10, 14, 20 and 24 hours"
    assert named in " ".join(TEXT.split())
    assert [*DELAYS] == [5, 60, 300, 1800, *(hours * 3600 for hours in (1, 2, 5, 10, 14, 20, 24))]
    assert len(DELAYS) + 1 == MAX_ATTEMPTS == 12
    assert f"within {DEADLINE:g} seconds" in TEXT
