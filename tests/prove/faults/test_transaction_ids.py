"""The server has no transaction ids left to give, since a replication slot that somebody forgot keeps the old ones."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from pushq.local.server import EmbeddedServer
from tests.support.hurt import a_server_to_hurt
from tests.support.jobs import Connection, count, finished, has_count, insert
from tests.support.supervisors import pushq, supervising
from tests.support.waiting import eventually, wait_until

LEFT = 3000
"""Ids that the server still gives."""
RESERVED = 3_000_000
"""PostgreSQL refuses to give any more that many before they would begin to come round."""
IDS_IN_A_SEGMENT = 32 * 8192 * 4
SETTINGS = {"wal_level": "logical", "autovacuum_naptime": "1s", "autovacuum_vacuum_cost_delay": "0"}
IS_FROZEN_AS_FAR_AS_MAY_BE = """
select min(datfrozenxid::text::bigint) >= (select catalog_xmin::text::bigint from pg_replication_slots) from pg_database
"""
REFUSED = "database is not accepting commands"
TASKS = "tests.support.handlers:tasks"


@asynccontextmanager
async def an_old_server() -> AsyncIterator[tuple[EmbeddedServer, Connection]]:
    """One that has given nearly all of its ids since the slot was made."""
    async with a_server_to_hurt(**SETTINGS) as (server, connection):
        await connection.execute("select pg_create_logical_replication_slot('forgotten', 'test_decoding')")
        oldest = await connection.fetchval("select catalog_xmin::text::bigint from pg_replication_slots")
        connection.terminate()
        _age(server, oldest + (2**31 - 1) - RESERVED - LEFT)
        survivor = await asyncpg.connect(server.url())
        await eventually(lambda: survivor.fetchval(IS_FROZEN_AS_FAR_AS_MAY_BE), within=60)
        yield server, survivor
        survivor.terminate()


def _age(server: EmbeddedServer, next_id: int) -> None:
    """Stops the server, and starts it again with `next_id` as its next transaction id."""
    data = server.directory / "data"
    owner = data.stat()
    server.process.send_signal(signal.SIGINT)
    server.process.wait()
    command: list[str | Path] = [server.bin_directory / "pg_resetwal", "-x", str(next_id), data]
    runs_as = (owner.st_uid, owner.st_gid) if os.geteuid() == 0 else (None, None)  # PostgreSQL's programs refuse root
    subprocess.run(command, cwd="/", check=True, capture_output=True, user=runs_as[0], group=runs_as[1])
    outcomes = data / "pg_xact" / f"{next_id // IDS_IN_A_SEGMENT:04X}"  # what became of the ids just before
    outcomes.write_bytes(bytes(IDS_IN_A_SEGMENT // 4))
    os.chown(outcomes, owner.st_uid, owner.st_gid)
    server.restart()


async def _use_up_ids(connection: Connection) -> None:
    async def are_used_up() -> bool:
        try:
            for _ in range(LEFT):
                await connection.execute("select pg_current_xact_id()")
        except asyncpg.ProgramLimitExceededError:
            return True
        return False

    await eventually(are_used_up)


@pytest.mark.timeout(120)  # what is old takes a while to freeze
async def test_without_transaction_ids_jobs_wait_uncharged_and_go_on_once_there_are_some() -> None:
    async with an_old_server() as (server, connection):
        with supervising(server.url()) as supervisor:
            pools = supervisor.pools
            running = await insert(connection, "sleep", 5, payload={"seconds": 8})
            await has_count(connection, 5, "status = 'running'")
            await _use_up_ids(connection)
            wait_until(lambda: REFUSED in supervisor.said and supervisor.get("/readyz")[0] == 503)
            wait_until(lambda: 'pushq_workers{state="busy"} 0' in supervisor.get("/metrics")[1])  # their work is done
            assert await count(connection, "status = 'running'") == 5
            another = pushq("supervise", TASKS, "--http-port", "0", url=server.url())
            await connection.execute("select pg_drop_replication_slot('forgotten')")
            rows = await finished(connection, *running, within=60)
            supervisor.wait_ready()

            assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 1, 0)}
            assert supervisor.pools == pools
            assert another.returncode == 1
            assert REFUSED in another.stderr
            assert "Traceback" not in another.stderr + supervisor.said
