"""The claimer, where a job's claim is undone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from pushq.database.session import Session
from pushq.events import Event, JobsPassedOver, StatementRejected, subscribe
from pushq.pool import claimer
from pushq.pool.claimer import Claimer
from pushq.pool.doorbell import Doorbell
from pushq.pool.intake import Intake
from pushq.pool.loads import Loads
from pushq.pool.outbox import Outbox
from pushq.pool.store import Claimant
from tests.support.jobs import Connection, count, has_count, insert
from tests.support.store import Store
from tests.support.waiting import eventually

DAWDLE = """
create function public.dawdle() returns trigger language plpgsql as 'begin perform pg_sleep(60); return new; end';
create trigger dawdle before update on pushq.jobs_unfinished for each row
when (old.correlation_id = 'slow') execute function public.dawdle();
"""


@asynccontextmanager
async def claiming(url: str, connection: Connection) -> AsyncIterator[list[Event]]:
    """A claimer whose workers take jobs and never end, and whose statements may take 0.3 s; and what it publishes."""
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until) "
        "values ('here', 'here', 1, '1 hour', now() + interval '1 hour')"
    )
    session = Session(url, "test", settings={"statement_timeout": "300ms", "lock_timeout": "100ms"})
    intake, events = Intake(50), list[Event]()
    one = Claimer(
        Store(session),
        Claimant("here", 1, ("default",), ("echo",)),
        loads=Loads(()),
        intake=intake,
        outbox=Outbox(),
        doorbell=Doorbell(),
        gate=None,
        poll_interval=0.1,
    )

    async def work() -> None:
        while await intake.take():
            pass

    with subscribe(events.append):
        async with anyio.create_task_group() as group:
            group.start_soon(one.run)
            for _ in range(intake.workers):
                group.start_soon(work)
            yield events
            group.cancel_scope.cancel()
    await session.close()


async def test_a_job_whose_claim_takes_too_long_is_passed_over_and_holds_up_no_other(
    database_url: str, connection: Connection
) -> None:
    await connection.execute(DAWDLE)
    await insert(connection, "echo", correlation_id="slow")
    await insert(connection, "echo", 7)
    async with claiming(database_url, connection) as events:
        await has_count(connection, 7, "status = 'running'")
        assert any(isinstance(event, JobsPassedOver) for event in events)
        await connection.execute("drop function public.dawdle cascade")
        await has_count(connection, 8, "status = 'running'")


async def test_a_job_whose_trigger_waits_for_a_lock_is_passed_over_in_the_end(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claimer, "ROLLED_BACK", 2)
    await connection.execute(DAWDLE.replace("pg_sleep(60)", "pg_advisory_xact_lock(7)"))
    await insert(connection, "echo", correlation_id="slow")
    await insert(connection, "echo", 7)
    await connection.execute("select pg_advisory_lock(7)")
    async with claiming(database_url, connection):
        await has_count(connection, 7, "status = 'running'")
        await connection.execute("select pg_advisory_unlock(7)")
        await has_count(connection, 8, "status = 'running'")


async def test_where_no_job_is_at_fault_none_is_passed_over(database_url: str, connection: Connection) -> None:
    """A statement-level trigger: what it says is the same for all."""
    await connection.execute(
        "create function public.say_no() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;"
        "create trigger say_no before update on pushq.jobs_unfinished execute function public.say_no()"
    )
    await insert(connection, "echo", 7)
    async with claiming(database_url, connection) as events:
        await eventually(lambda: _is_published(events, StatementRejected))
        assert await count(connection, "status = 'running'") == 0
        await connection.execute("drop function public.say_no cascade")
        await has_count(connection, 7, "status = 'running'")

    assert not any(isinstance(event, JobsPassedOver) for event in events)


async def _is_published(events: list[Event], kind: type[Event]) -> bool:
    return any(isinstance(event, kind) for event in events)
