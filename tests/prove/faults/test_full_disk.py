"""The disk is full: pushq waits, quietly, until somebody has made room."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from pushq.database.migrate import migrate
from pushq.local.server import EmbeddedServer
from tests.support.jobs import Connection, count, has_count
from tests.support.supervisors import RunningSupervisor, supervising
from tests.support.waiting import eventually, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a disk that is small")
NO_ROOM = "No space left on device"
WATCHED = 4.0
"""Seconds."""


class Disk:
    """A small file system of the server's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", self.path], check=True)


@contextmanager
def a_small_disk(server: EmbeddedServer, size: str) -> Iterator[Disk]:
    disk = Disk(server.directory / "small")
    disk.path.mkdir()
    owner = server.directory.stat()
    options = f"size={size},mode=700,uid={owner.st_uid},gid={owner.st_gid}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "pushq-test", disk.path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this root may not mount: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk.path], check=True)


async def test_when_the_tables_have_no_room_pushq_waits_quietly_and_goes_on_when_they_have() -> None:
    with EmbeddedServer() as server, a_small_disk(server, "6m") as disk:
        administrator = await asyncpg.connect(server.url())
        await administrator.execute(f"create tablespace small location '{disk.path}'")
        await administrator.execute("alter database postgres set default_tablespace = small")
        await administrator.close()
        await migrate(server.url())
        connection = await asyncpg.connect(server.url())
        # Full pages, as a backlog leaves them: to claim a job takes room, too.
        await connection.execute("alter table pushq.jobs_unfinished set (fillfactor = 100)")
        with supervising(server.url(), POLL_INTERVAL="1") as supervisor:
            pools = supervisor.pools
            acknowledged = await _insert_until_full(connection)
            wait_until(lambda: NO_ROOM in supervisor.said and supervisor.get("/readyz")[0] == 503)
            await _is_quiet(server, supervisor)
            disk.resize("200m")
            await has_count(connection, len(acknowledged), "status = 'succeeded'", within=30)

            assert await count(connection, "attempt > 1 or crashes > 0 or failures > 0") == 0
            assert await _are_there(connection, acknowledged)
            assert supervisor.pools == pools
        await connection.close()


async def _insert_until_full(connection: Connection) -> list[UUID]:
    """The ids of the jobs whose INSERT was acknowledged."""
    chance, acknowledged, refused = random.Random(6), list[UUID](), 0
    statement = "insert into pushq.jobs (task, payload) select 'echo', jsonb_build_object('word', $1::text || n) from "
    while refused < 20:
        word = f"{chance.getrandbits(6000):x}"  # hardly to be compressed
        try:
            rows = await connection.fetch(f"{statement} generate_series(1, 10) as n returning id", word)
        except asyncpg.DiskFullError:
            refused += 1
            await asyncio.sleep(0.05)
        else:
            acknowledged += [row["id"] for row in rows]
    return acknowledged


async def _is_quiet(server: EmbeddedServer, supervisor: RunningSupervisor) -> None:
    """No hot loop: few tries, few lines, hardly any work."""
    log = server.directory / "log"
    tries, lines, seconds = log.read_text().count(NO_ROOM), supervisor.said.count("\n"), _cpu_seconds(supervisor)
    await asyncio.sleep(WATCHED)
    tries, lines = log.read_text().count(NO_ROOM) - tries, supervisor.said.count("\n") - lines
    seconds = _cpu_seconds(supervisor) - seconds

    assert 0 < tries <= 4 * WATCHED
    assert lines < WATCHED
    assert seconds < 0.25 * WATCHED


def _cpu_seconds(supervisor: RunningSupervisor) -> float:
    """Of the supervisor and its pools."""
    return sum(
        sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
        / os.sysconf("SC_CLK_TCK")
        for pid in (supervisor.process.pid, *supervisor.pools)
    )


async def _are_there(connection: Connection, ids: list[UUID]) -> bool:
    found = await connection.fetchval("select count(distinct id) from pushq.jobs where id = any($1)", ids)
    return bool(found == len(ids) == len(set(ids)))


async def test_when_the_wal_has_no_room_and_the_server_is_down_for_it_no_acknowledged_job_is_lost() -> None:
    """An abandoned replication slot keeps all WAL; the server panics, and does not come up until it has room."""
    with EmbeddedServer() as server, a_small_disk(server, "64m") as disk:
        _move_wal(server, disk)
        await migrate(server.url())
        with supervising(server.url(), "--concurrency", "20") as supervisor:
            pools = supervisor.pools
            acknowledged = await _insert_until_down(server)
            assert NO_ROOM in (server.directory / "log").read_text()
            wait_until(lambda: "database lost" in supervisor.said)
            disk.resize("1g")
            server.restart()
            connection = await eventually(lambda: _connected(server), within=20)
            assert connection is not None
            await connection.execute("select pg_drop_replication_slot('abandoned')")
            await has_count(connection, 0, "status in ('queued', 'running')", within=30)

            assert await _are_there(connection, acknowledged)
            assert await count(connection, "status <> 'succeeded' or failures > 0 or crashes > 0") == 0
            assert supervisor.pools == pools
            reasons = re.findall("database lost reason=(.*)", supervisor.said)
            assert len(reasons) == len(set(reasons)), reasons
            await connection.close()


def _move_wal(server: EmbeddedServer, disk: Disk) -> None:
    server.process.send_signal(signal.SIGINT)
    server.process.wait()
    wal = server.directory / "data" / "pg_wal"
    subprocess.run(["cp", "-a", f"{wal}/.", disk.path], check=True)
    shutil.rmtree(wal)
    wal.symlink_to(disk.path)
    server.restart()


async def _insert_until_down(server: EmbeddedServer) -> list[UUID]:
    connection = await asyncpg.connect(server.url())
    await connection.execute("select pg_create_physical_replication_slot('abandoned', true)")
    acknowledged = list[UUID]()
    try:
        while True:
            rows = await connection.fetch(
                "insert into pushq.jobs (task, payload) select 'sleep', '{\"seconds\": 0.01}' "
                "from generate_series(1, 20) returning id"
            )
            acknowledged += [row["id"] for row in rows]
            await connection.execute("select pg_switch_wal()")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        connection.terminate()
    wait_until(lambda: server.process.poll() is not None)
    return acknowledged


async def _connected(server: EmbeddedServer) -> Connection | None:
    try:
        return await asyncpg.connect(server.url())
    except (OSError, asyncpg.PostgresError):
        return None
