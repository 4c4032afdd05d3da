"""The primary dies and its standby takes over; the address by which everybody goes moves to it.

clients, supervisor ─→ address ─→ primary ─streams, in most tests synchronously─→ standby
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch
from uuid import UUID, uuid4

import asyncpg
import pytest

from pushq.database.migrate import migrate
from pushq.local.server import EmbeddedServer, _Runner
from tests.support.jobs import Connection, finished, has_count, insert, row_of
from tests.support.proxy import Proxy
from tests.support.server import embedded
from tests.support.supervisors import RunningSupervisor, pushq, supervising
from tests.support.waiting import eventually

RESUMES_WITHIN = 10.0
"""Seconds after the address leads to a server that can be written to."""
READ_ONLY = 3.0
AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

pytestmark = pytest.mark.timeout(120)  # two servers have to start beside everything else


async def test_after_a_failover_claims_resume_and_nothing_acknowledged_is_lost_or_finished_twice() -> None:
    async with _replicated() as (primary, standby, address), _working(primary, address, 3) as work:
        await _kill(primary)
        await _promote(standby)
        address.leads_to = standby
        await work.goes_on(standby, since=time.monotonic())
        await work.ends_once(standby)


async def test_an_address_that_leads_to_a_server_in_recovery_is_waited_out_in_a_sentence() -> None:
    async with _replicated() as (primary, standby, address), _working(primary, address, 3 + READ_ONLY) as work:
        await _kill(primary)
        address.leads_to = standby
        await eventually(lambda: work.is_told_by(standby))
        before = address.accepted - work.inserter.connects
        await asyncio.sleep(READ_ONLY)
        attempts = address.accepted - work.inserter.connects - before

        assert work.supervisor.process.poll() is None
        reasons = re.findall("database lost reason=(.*)", work.supervisor.said)
        assert len(reasons) == len(set(reasons)) <= 2, reasons  # the cut, and the recovery
        assert "takes no writes" in reasons[-1]
        assert attempts < 5 * 3 * READ_ONLY, "it spins"  # five sessions, each of which is tried more and more rarely
        await _promote(standby)
        await work.goes_on(standby, since=time.monotonic())
        await work.ends_once(standby)


async def test_a_standby_is_told_in_a_sentence_with_the_remedy() -> None:
    commands = (
        ["doctor"],
        ["enqueue", "x"],
        ["migrate"],
        ["queues", "pause", "x"],
        ["supervise", "tests.support.handlers:tasks"],
    )
    async with _replicated() as (_, standby, __):
        for command in commands:
            ended = await asyncio.to_thread(pushq, *command, url=standby.url(), HTTP_PORT="0")
            assert " takes no writes" in ended.stderr, command
            assert ended.stderr.endswith("; give the URL of the primary.\n")
            assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)


async def test_after_a_failover_that_forgot_a_claim_the_job_is_claimed_anew_and_whoever_held_it_is_refused() -> None:
    """The standby lacks the last commits. Both claims are the first there: only tokens tell them apart."""
    async with _replicated(synchronously=False) as (primary, standby, address):
        with supervising(address.url, "--concurrency", "2", ready=False, LOG_LEVEL="debug") as supervisor:
            await asyncio.to_thread(supervisor.wait_ready)
            async with _connected(primary) as connection:
                await connection.execute("select pushq.pause('default')")
                (job,) = await insert(connection, "sleep", payload={"seconds": 3})
                await _stop_streaming(standby, connection)
                await connection.execute("select pushq.resume('default')")
                await has_count(connection, 1, "status = 'running'")
                forgotten = await row_of(connection, job)
            await _kill(primary)
            await _promote(standby)
            address.leads_to = standby
            async with _connected(standby) as connection:
                await connection.execute("select pushq.resume('default')")
                await has_count(connection, 1, "status = 'running'")
                claimed_anew = await row_of(connection, job)
                await eventually(lambda: _is_told_that_it_came_too_late(supervisor, job))
                (row,) = await finished(connection, job)
            await eventually(lambda: _is_told_that_it_was_in_time(supervisor, job))
            ends = supervisor.said.count(f"job ended id={job}")

    assert forgotten["attempt"] == claimed_anew["attempt"] == 1
    assert forgotten["token"] != claimed_anew["token"] == row["token"]
    assert (row["status"], row["attempt"], row["crashes"]) == ("succeeded", 1, 0)
    assert ends == 1


async def _stop_streaming(standby: EmbeddedServer, primary: Connection) -> None:
    """With what the primary has committed up to now."""
    now = await primary.fetchval("select pg_current_wal_flush_lsn()::text")

    async def has_replayed() -> bool:
        return bool(await connection.fetchval("select pg_last_wal_replay_lsn() >= $1::text::pg_lsn", now))

    async with _connected(standby) as connection:
        await eventually(has_replayed)
        await connection.execute("alter system set primary_conninfo = ''")
        await connection.execute("select pg_reload_conf()")
    await eventually(lambda: _streams_to_nobody(primary))


async def _streams_to_nobody(primary: Connection) -> bool:
    return not await primary.fetchval("select count(*) from pg_stat_replication")


async def _is_told_that_it_was_in_time(supervisor: RunningSupervisor, job: UUID) -> bool:
    return f"job ended id={job} task=sleep queue=default attempt=1 outcome=succeeded" in supervisor.said


async def _is_told_that_it_came_too_late(supervisor: RunningSupervisor, job: UUID) -> bool:
    return f"outcome refused id={job} task=sleep outcome=succeeded" in supervisor.said


# What works meanwhile -------------------------------------------------------------------------------------------------


class Inserter:
    """An application: inserts job after job, and connects again when it is cut off. Notes what was acknowledged."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.tried: list[UUID] = []
        self.acknowledged: list[UUID] = []
        self.connects = 0

    async def run(self) -> None:
        while True:
            with suppress(*AWAY):
                self.connects += 1
                connection = await asyncpg.connect(self._url, timeout=2)
                try:
                    await self._insert(connection)
                finally:
                    connection.terminate()
            await asyncio.sleep(0.1)

    async def _insert(self, connection: Connection) -> None:
        while True:
            self.tried.append(uuid4())
            await connection.execute("insert into pushq.jobs (id, task) values ($1, 'echo')", self.tried[-1], timeout=2)
            self.acknowledged.append(self.tried[-1])
            await asyncio.sleep(0.01)


class Work:
    """A supervisor with jobs that outlast the failover, and the inserter beside it."""

    def __init__(self, supervisor: RunningSupervisor, inserter: Inserter, inserting: asyncio.Task[None]) -> None:
        self.supervisor = supervisor
        self.inserter = inserter
        self.inserting = inserting
        self.long: list[UUID] = []

    async def begin(self, connection: Connection, seconds: float) -> None:
        self.long = await insert(connection, "sleep", 5, payload={"seconds": seconds})
        await has_count(connection, 5, "status = 'running' and task = 'sleep'")
        await eventually(self._has_acknowledged_some)

    async def _has_acknowledged_some(self) -> bool:
        return len(self.inserter.acknowledged) > 50

    async def is_told_by(self, standby: EmbeddedServer) -> bool:
        """Whether it has asked a server that takes no writes to write."""
        async with _connected(standby) as connection:
            asked = await connection.fetchval(
                "select count(*) from pg_stat_activity where application_name ~ 'claims$'"
            )
        return bool(asked) and (await asyncio.to_thread(self.supervisor.get, "/readyz"))[0] == 503

    async def goes_on(self, server: EmbeddedServer, *, since: float) -> None:
        async with _connected(server) as connection:
            await finished(connection, *await insert(connection, "pid", 5), within=RESUMES_WITHIN)
        assert time.monotonic() - since < RESUMES_WITHIN

    async def ends_once(self, server: EmbeddedServer) -> None:
        """Everything has run, and the pool has been told of each job once that its outcome was taken."""
        self.inserting.cancel()
        async with _connected(server) as connection:
            await has_count(connection, 0, "finished_on = 'infinity'")
            rows = await finished(connection, *self.inserter.acknowledged, *self.long)
            ends = await connection.fetch("select id::text, status from pushq.jobs")
            counted = await connection.fetchval(_COUNTED)
        assert {(row["attempt"], row["failures"], row["crashes"]) for row in rows[-5:]} == {(1, 0, 0)}
        assert {row["status"] for row in ends} == {"succeeded"}
        assert counted == len(ends)
        said = re.findall(r"job ended id=(\S+) .*outcome=succeeded", self.supervisor.said)
        assert Counter(said) == Counter(row["id"] for row in ends)


_COUNTED = """
select sum(jobs) from (select * from pushq.tallies union all select * from pushq.tally_log) as counted
where outcome = 'succeeded'
"""


@asynccontextmanager
async def _working(primary: EmbeddedServer, address: Address, seconds: float) -> AsyncIterator[Work]:
    """seconds: how long some jobs take, that they outlast the failover."""
    # Its waiting must not hold up the loop, in which the address is served.
    with supervising(address.url, "--concurrency", "20", ready=False, LOG_LEVEL="debug") as supervisor:
        await asyncio.to_thread(supervisor.wait_ready)
        inserter = Inserter(address.url)
        inserting = asyncio.create_task(inserter.run())
        try:
            work = Work(supervisor, inserter, inserting)
            async with _connected(primary) as connection:
                await work.begin(connection, seconds)
            yield work
        finally:
            inserting.cancel()


# The servers ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _replicated(*, synchronously: bool = True) -> AsyncIterator[tuple[EmbeddedServer, EmbeddedServer, Address]]:
    """A primary with pushq's schema, a standby, for which its commits wait or not, and an address that leads to it."""
    with embedded({"wal_keep_size": "128MB"}) as primary:
        await migrate(primary.url())
        with _standby_of(primary) as standby:
            async with _connected(primary) as connection:
                if synchronously:
                    await connection.execute("alter system set synchronous_standby_names = '*'")
                    await connection.execute("select pg_reload_conf()")
                await eventually(lambda: _streams(connection, "sync" if synchronously else "async"))
            async with _address_of(primary) as address:
                yield primary, standby, address
        if primary.process.poll() is not None:
            primary.restart()  # which clears away the shared memory that a killed one leaves


async def _streams(primary: Connection, how: str) -> bool:
    return bool(await primary.fetchval("select exists (select from pg_stat_replication where sync_state = $1)", how))


@contextmanager
def _standby_of(primary: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """A server that begins with a copy of the primary, and follows it."""

    def copy(bin_directory: Path, run: _Runner) -> None:
        copying = run.start(
            [
                *(bin_directory / "pg_basebackup", "-D", run.directory / "data"),
                *("-d", f"host={primary.directory} port=5432 user=pushq"),
                *("--write-recovery-conf", "--checkpoint=fast", "--no-sync"),
            ]
        )
        assert copying.wait(30) == 0, run.last_words()

    with ExitStack() as running:
        with patch("pushq.local.server._initialise", copy):
            standby = running.enter_context(embedded({}))
        yield standby


async def _kill(server: EmbeddedServer) -> None:
    """The postmaster first: its children then can neither be replaced nor tell anybody."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    server.process.kill()
    for pid in map(int, children):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.process.wait(10)


async def _promote(standby: EmbeddedServer) -> None:
    async with _connected(standby) as connection:
        assert await connection.fetchval("select pg_promote(wait_seconds => 20)")


@asynccontextmanager
async def _connected(server: EmbeddedServer) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(server.url())
    try:
        yield connection
    finally:
        connection.terminate()


class Address(Proxy):
    """Where everybody connects. It can be moved: then it leads to another server. accepted: connections so far."""

    def __init__(self, url: str, leads_to: EmbeddedServer) -> None:
        super().__init__(url)
        self.leads_to = leads_to
        self.accepted = 0

    async def lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            await self.serve(reader, writer, server_url=self.leads_to.url())
        except OSError:  # there is no server
            writer.transport.abort()


@asynccontextmanager
async def _address_of(server: EmbeddedServer) -> AsyncIterator[Address]:
    with TemporaryDirectory() as directory:
        address = Address(f"postgresql://pushq@/postgres?host={directory}&port=5432", server)
        serving = await asyncio.start_unix_server(address.lead, Path(directory) / ".s.PGSQL.5432")
        try:
            yield address
        finally:
            serving.close()
            await address.abort()
