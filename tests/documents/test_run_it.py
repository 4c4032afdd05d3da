"""The page about running pushq: its logins, each with no more rights than it needs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from pushq.local.server import EmbeddedServer
from tests.support.jobs import finished
from tests.support.pages import Shell, blocks, commands, section
from tests.support.supervisors import supervising

PAGE = "how-to/run-it.md"


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """Roles belong to a whole server, where other tests make pushq's too."""
    with EmbeddedServer(durable=False) as server:
        yield server


async def test_the_owner_migrates_the_app_inserts_and_the_supervisors_run(
    own_server: EmbeddedServer, server_bin_directory: Path, tmp_path: Path
) -> None:
    (statements,) = blocks("sql", section(PAGE, "Logins"))
    administrator = await asyncpg.connect(own_server.url())
    for statement in statements.strip().removesuffix(";").split(";"):
        await administrator.execute(statement)
    await administrator.close()

    (script,) = commands(section(PAGE, "Logins"))
    export, migrate, roles = script.split("\n")
    assert export == "export PUSHQ_DATABASE_URL=postgresql://owner:first@localhost/app"
    shell = Shell(_url(own_server, "owner"), server_bin_directory, tmp_path)
    await asyncio.to_thread(shell.run, f"{migrate}\n{roles}")

    app, owner = await asyncpg.connect(_url(own_server, "app")), await asyncpg.connect(_url(own_server, "owner"))
    with supervising(_url(own_server, "worker")):
        job = await app.fetchval("insert into pushq.jobs (task) values ('echo') returning id")
        (row,) = await finished(owner, job)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute("delete from pushq.jobs")
    await app.close()
    await owner.close()
    assert row["status"] == "succeeded"


def _url(server: EmbeddedServer, login: str) -> str:
    return server.url("app").replace("://pushq@", f"://{login}@")
