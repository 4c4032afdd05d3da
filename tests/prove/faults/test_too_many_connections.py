"""Other applications take every connection that the server has."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from pushq.local.server import EmbeddedServer
from pushq.supervisor.readiness import AWAY
from tests.support.hurt import a_server_to_hurt
from tests.support.jobs import Connection, count, finished, has_count, insert
from tests.support.supervisors import QUICK, pushq, supervising
from tests.support.waiting import eventually, wait_until

TASKS = "tests.support.handlers:tasks"
OURS = "from pg_stat_activity where application_name like 'pushq %'"


class Crowd:
    """Connections of others."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server
        self._held: list[Connection] = []

    async def fill(self, *, leaving: int = 0) -> None:
        """Takes all that are left, but for some."""
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                self._held.append(await asyncpg.connect(self._server.url()))
        for _ in range(leaving):
            await self._held.pop().close()

    async def leave(self) -> None:
        while self._held:
            await self._held.pop().close()


@asynccontextmanager
async def a_crowded_server() -> AsyncIterator[tuple[EmbeddedServer, Connection, Crowd]]:
    room = {"max_connections": "16", "superuser_reserved_connections": "0", "max_wal_senders": "0"}
    async with a_server_to_hurt(**room) as (server, connection):
        crowd = Crowd(server)
        yield server, connection, crowd
        await crowd.leave()


async def test_a_supervisor_that_gets_no_connection_says_so_in_a_sentence() -> None:
    async with a_crowded_server() as (server, _, crowd):
        await crowd.fill()
        ended = pushq("supervise", TASKS, "--http-port", "0", url=server.url())

    assert ended.returncode == 1
    assert "too many clients already" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_a_pool_that_gets_no_connection_at_its_start_waits_for_one() -> None:
    async with a_crowded_server() as (server, connection, crowd):
        await crowd.fill(leaving=2)
        with supervising(server.url(), ready=False) as supervisor:
            wait_until(lambda: "pool started" in supervisor.said)
            jobs = await insert(connection, "echo", 5)
            await has_lapsed(leases=1)
            assert supervisor.get("/readyz")[0] == 503
            assert await connection.fetchval(f"select count(*) {OURS}") <= 2
            await crowd.leave()
            rows = await finished(connection, *jobs)
            supervisor.wait_ready()

            assert {(row["status"], row["attempt"]) for row in rows} == {("succeeded", 1)}
            assert "pool died" not in supervisor.said


async def test_a_pool_whose_connections_others_have_taken_keeps_its_jobs_and_writes_their_outcomes_later() -> None:
    async with a_crowded_server() as (server, connection, crowd):
        with supervising(server.url()) as supervisor:
            pools = supervisor.pools
            napping = await insert(connection, "sleep", 5, payload={"seconds": 2})
            await has_count(connection, 5, "status = 'running'")
            await eventually(lambda: _crowd_out(connection, crowd))

            waiting = await insert(connection, "echo", 5)
            await has_lapsed(leases=2)
            wait_until(lambda: "pool held up" in supervisor.said)
            assert supervisor.get("/readyz") == (503, f"{AWAY}\n")
            assert await count(connection, "status = 'running' and attempt = 1") == 5
            assert await connection.fetchval("select lease_until > now() from pushq.supervisors")
            await crowd.leave()
            rows = await finished(connection, *napping, *waiting)
            wait_until(lambda: "pools go on" in supervisor.said)

            assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 1, 0)}
            assert supervisor.pools == pools


async def _crowd_out(connection: Connection, crowd: Crowd) -> bool:
    """Whether the crowd has the connections by which the pool claims and writes outcomes: either may be the quicker."""
    claims_and_outcomes = f"{OURS} and application_name ~ '(claims|outcomes)$'"
    await connection.execute(f"select pg_terminate_backend(pid, 5000) {claims_and_outcomes}")
    await crowd.fill()
    return bool(await connection.fetchval(f"select count(*) = 0 {claims_and_outcomes}"))


async def has_lapsed(*, leases: int) -> None:
    """The fault lasts for a while."""
    await asyncio.sleep(leases * float(QUICK["LEASE"]))
