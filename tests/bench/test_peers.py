"""The comparison with peers: what it says of a machine that lacks something. `tests/prove/bench` runs the contests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from pushq.bench.ground import database_in, with_socket_as_host
from pushq.bench.peers.catalogue import PEERS, PUSHQ
from pushq.bench.peers.installed import Installed
from pushq.bench.peers.program import running
from pushq.errors import PushqError, UsageError
from tests.support.commands import invoke
from tests.support.server import Server
from tests.support.waiting import eventually


@pytest.mark.parametrize("system", [PUSHQ, *PEERS], ids=lambda system: system.name)
def test_every_system_has_an_adapter_and_fixed_versions(system: object) -> None:
    assert isinstance(system, type(PUSHQ))
    assert system.file.is_file()
    json.dumps([dict(system.drain), dict(system.live)])
    assert all("==" in package or "@" in package.lstrip("@") for package in system.packages)


def test_without_npm_a_sentence_says_what_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for peer in PEERS:
        if peer.language == "Python":
            (tmp_path / peer.name).mkdir()
            (tmp_path / peer.name / "installed").write_text(" ".join(peer.packages))
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(UsageError, match="npm is not found, and Graphile Worker and pg-boss need it: install Node"):
        Installed(tmp_path).install(lambda _: None)


async def test_other_drivers_reach_the_socket_by_a_url_with_the_socket_as_host(server: Server) -> None:
    url = with_socket_as_host(server.url)

    assert urlsplit(url).query == ""
    connection = await asyncpg.connect(url)
    assert await connection.fetchval("select current_database()") == database_in(server.url)
    await connection.close()


def test_a_url_with_a_host_stays_as_it_is() -> None:
    assert with_socket_as_host("postgresql://me:pw@db:5433/x?sslmode=require") == (
        "postgresql://me:pw@db:5433/x?sslmode=require"
    )


def test_the_contests_are_listed(tmp_path: Path) -> None:
    listed = invoke("bench", "--list", "--peers", str(tmp_path), "--json")

    assert [json.loads(line)["scenario"] for line in listed.stdout.splitlines()] == [
        "drain",
        "pick-up",
        "insert",
        "bulk",
        "idle",
    ]


async def test_a_program_that_ends_by_itself_is_noticed_and_named(capfd: pytest.CaptureFixture[str]) -> None:
    program = "import sys; sys.stdin.readline(); print('{}', flush=True); sys.exit('broken')"

    async with running([sys.executable, "-c", program], "awa") as worker:
        worker.check_alive()
        await worker.tell()
        assert await worker.answer() == {}
        with pytest.raises(PushqError, match="program for awa ended"):
            await worker.answer()

        async def is_noticed() -> bool:
            try:
                worker.check_alive()
            except PushqError:
                return True
            return False

        await eventually(is_noticed)
    assert "broken" in capfd.readouterr().err
