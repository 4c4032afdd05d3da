"""What `pushq bench share` compares is what it says. `tests/prove/bench` runs the scenario."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pushq.bench.backend import NO_CPU, Backend, backend, claim_and_finish, load_anew
from pushq.bench.bare import Rows, claim_arguments_before_lanes, finish_arguments, register
from pushq.bench.connection import connected, session_settings
from pushq.bench.deliver.before import BEFORE as BEFORE_DELIVER
from pushq.bench.free import Before, migrate_until
from pushq.bench.ground import Ground
from pushq.bench.lanes.before import BEFORE as BEFORE_LANES
from pushq.bench.pgbench import Pgbench
from pushq.bench.run import Record, Run, Scope, Teller
from pushq.bench.share.before import BEFORE as BEFORE_SHARE
from pushq.bench.share.events import failures, noting
from pushq.database.statements import statement
from tests.support.jobs import Connection
from tests.support.server import Server


@pytest.fixture
def run(server: Server, connection: Connection) -> Run:
    ground = Ground(server.url, Pgbench.find(Path(server.bin_directory)))
    return Run(ground, connection, Scope(), Record(), Teller())


@pytest.mark.parametrize(
    ("before", "column"), [(BEFORE_SHARE, "waiters"), (BEFORE_DELIVER, "webhook_url"), (BEFORE_LANES, "needs")]
)
async def test_the_schema_before_lacks_the_features_and_its_statements_end_jobs(
    run: Run, empty_database_url: str, before: Before, column: str
) -> None:
    async with connected(empty_database_url) as connection:
        await migrate_until(connection, before.version)
        await register(empty_database_url)
        await load_anew(connection, 20)
        async with backend(run, empty_database_url, session_settings(is_durable=False)) as pool:
            took = await claim_and_finish(
                pool, before.claim, before.finish, finish_arguments, 10, 2, claim_arguments_before_lanes
            )
            assert took > 0

        assert await connection.fetchval("select pushq.schema_version()") == before.version
        assert await connection.fetchval("select count(*) from pushq.jobs where status = 'succeeded'") == 20
        assert not await connection.fetchval(
            "select count(*) from pg_attribute where attrelid = 'pushq.jobs'::regclass and attname = $1", column
        )


@pytest.mark.parametrize(
    ("finish", "arguments", "all_events", "kinds"),
    [
        ("finish", failures, False, {}),
        ("finish_noting", lambda rows: noting(rows, failures(rows)), False, {"failed": 20}),
        ("finish", finish_arguments, False, {}),
        ("finish_noting", lambda rows: noting(rows, finish_arguments(rows)), True, {"claimed": 20, "succeeded": 20}),
    ],
)
async def test_jobs_end_with_the_events_that_are_measured(
    run: Run,
    database_url: str,
    connection: Connection,
    finish: str,
    arguments: Callable[[Rows], tuple[object, ...]],
    all_events: bool,
    kinds: dict[str, int],
) -> None:
    await connection.execute("select pushq.keep_all_events('default', $1)", all_events)
    await register(database_url)
    await load_anew(connection, 20)
    async with backend(run, database_url, session_settings(is_durable=False)) as pool:
        await claim_and_finish(pool, statement("claim"), statement(finish), arguments, 10, 2)

    rows = await connection.fetch("select kind, count(*) from pushq.job_events group by kind")
    assert dict(map(tuple, rows)) == kinds
    assert not await connection.fetchval("select count(*) from pushq.jobs_unfinished")


async def test_the_cpu_of_a_process_that_is_not_the_servers_is_not_measured(
    run: Run, database_url: str, connection: Connection
) -> None:
    async with backend(run, database_url) as seen:
        if seen.schedstat:  # else the server is on another machine
            before = seen.spent()
            await connection.fetchval("select pg_sleep(0.05)")
            assert seen.spent() - before < 0.05
            assert not run.remarks
        else:
            assert run.remarks == [NO_CPU]

    assert Backend.of(connection, os.getpid(), "no_such_database").schedstat is None


async def test_a_role_that_the_run_made_is_dropped_at_the_end_unless_somebody_else_uses_it(
    server: Server, connection: Connection
) -> None:
    used, unused = (f"pushq_bench_{os.getpid()}_{name}" for name in ("used", "unused"))
    async with Ground.opened(server.url, Pgbench.find(Path(server.bin_directory))) as ground:
        ground.roles |= {used, unused}
        for role in ground.roles:
            await connection.execute(f"create role {role}")
        async with ground.database() as url, connected(url) as ours:
            await ours.execute(f"grant usage on schema pushq to {used}, {unused}")
        await connection.execute(f"grant usage on schema pushq to {used}")

    left = "select rolname::text from pg_roles where rolname = any($1)"
    assert [row["rolname"] for row in await connection.fetch(left, [used, unused])] == [used]
    await connection.execute(f"drop owned by {used}; drop role {used}")
