"""The page about backups, copies and upgrades does what the page says."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from tests.support.jobs import Connection, count, finished, insert
from tests.support.pages import Shell, blocks, commands, section
from tests.support.supervisors import supervising

PAGE = "how-to/back-up-and-upgrade.md"
NAMES = "pushq_(producer|worker|observer|admin|tenant)"


class Roles:
    """Roles belong to the whole server: each test has names of its own."""

    def __init__(self) -> None:
        self.suffix = uuid4().hex[:8]

    def of_ours(self, text: str) -> str:
        return re.sub(NAMES, rf"\g<0>_{self.suffix}", text)

    def in_script(self, script: str) -> str:
        renaming = rf"pushq migrate --roles | sed -E 's/{NAMES}/&_{self.suffix}/g' |"
        return script.replace("pushq migrate --roles |", renaming)


@pytest.fixture
async def copy(empty_database_url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(empty_database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def roles(copy: Connection) -> AsyncIterator[Roles]:
    roles = Roles()
    yield roles
    await copy.execute("drop schema if exists pushq cascade")
    await copy.execute(
        roles.of_ours("drop role if exists pushq_producer, pushq_worker, pushq_observer, pushq_admin, pushq_tenant")
    )


@pytest.fixture
def shell(database_url: str, empty_database_url: str, server_bin_directory: Path, tmp_path: Path) -> Shell:
    of_copy = dict.fromkeys(("RESTORED", "STAGING", "NEW"), empty_database_url)
    return Shell(
        database_url, server_bin_directory, tmp_path, of_copy | {"PRODUCTION": database_url, "OLD": database_url}
    )


async def test_a_restored_queue_holds_its_jobs_until_it_is_resumed(
    shell: Shell, connection: Connection, copy: Connection, roles: Roles, empty_database_url: str
) -> None:
    (back_up,) = commands(section(PAGE, "Back up"))
    (restore,) = commands(section(PAGE, "Restore after a loss"))
    (uninstall, drop_roles) = blocks("sql", section(PAGE, "Uninstall"))
    await insert(connection, "mail.welcome")
    (echo,) = await insert(connection, "echo")
    shell.run(back_up)
    said = shell.run(roles.in_script(restore).removesuffix("pushq queues resume --all"))

    assert "is up to date." in said
    rows = await copy.fetch("select task, status from pushq.jobs order by task")
    assert [tuple(row) for row in rows] == [
        ("echo", "queued"),
        ("mail.welcome", "cancelled"),
    ]
    with supervising(empty_database_url):
        assert await copy.fetchval("select pushq.resume('*')") == "resumed"
        assert [row["id"] for row in await finished(copy, echo)] == [echo]

    await copy.execute(uninstall)
    await copy.execute(roles.of_ours(drop_roles))
    assert await copy.fetchval("select to_regnamespace('pushq')") is None


async def test_a_copy_has_none_of_production_s_jobs(
    shell: Shell, connection: Connection, copy: Connection, roles: Roles
) -> None:
    page = section(PAGE, "Copy without production's jobs")
    ((script,), (forget,)) = commands(page), blocks("sql", page)
    await insert(connection, "mail.welcome", 3)

    assert "is up to date." in shell.run(roles.in_script(script))
    assert await count(copy) == 0
    assert (await copy.fetchval("select count(*) from pushq.days")) > 0
    await insert(copy, "mail.welcome")
    await copy.execute(forget)
    assert await count(copy) == 0


async def test_finished_jobs_can_be_left_out_of_a_dump(shell: Shell, connection: Connection, copy: Connection) -> None:
    (back_up,) = commands(section(PAGE, "Back up"))
    (left_out,) = re.findall(r"`(--exclude-table-data=.*)`", section(PAGE, "Back up"))
    gone, kept = await insert(connection, "mail.welcome", 2)
    await connection.execute("select pushq.cancel($1)", gone)
    shell.run(f"{back_up} {left_out}; pg_restore --no-owner --no-privileges --dbname $RESTORED app.dump")

    assert await copy.fetchval("select id from pushq.jobs") == kept


async def test_unfinished_jobs_move_to_another_schema(
    shell: Shell, connection: Connection, copy: Connection, roles: Roles
) -> None:
    save, load = commands(section(PAGE, "Downgrade, or move to another database"))
    columns = re.findall(r'FIELDS="(.*)"', save)[0]
    await insert(connection, "mail.welcome", unique_key="welcome", timeout=None, payload={"user_id": 1})
    await connection.execute("insert into pushq.jobs (task, timeout) values ('echo', '1 minute')")
    shell.run(save)
    shell.run(roles.in_script(load))

    unfinished = f"select {columns} from pushq.jobs where finished_on = 'infinity' order by id"
    assert await copy.fetch(unfinished) == await connection.fetch(unfinished)
