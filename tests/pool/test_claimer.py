"""The claimer, where a job's claim is undone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import anyio
import pytest

from pushq import Job, Tasks
from pushq.database.session import Session
from pushq.errors import DatabaseAway
from pushq.events import Event, JobsPassedOver, StatementRejected, subscribe
from pushq.pool import claimer
from pushq.pool.claimer import Claimer
from pushq.pool.doorbell import Doorbell
from pushq.pool.intake import Intake
from pushq.pool.lanes import Lanes
from pushq.pool.loads import Loads
from pushq.pool.outbox import Outbox
from pushq.pool.seats import Seat
from pushq.pool.store import Claimant, Terms
from tests.support.jobs import Connection, count, has_count, insert
from tests.support.store import Store
from tests.support.waiting import eventually

DAWDLE = """
create function public.dawdle() returns trigger language plpgsql as 'begin perform pg_sleep(60); return new; end';
create trigger dawdle before update on pushq.jobs_unfinished for each row
when (old.correlation_id = 'slow') execute function public.dawdle();
"""


@asynccontextmanager
async def claiming(
    url: str,
    connection: Connection,
    *,
    of: type[Store] = Store,
    tasks: Tasks | None = None,
    taken: list[Job] | None = None,
) -> AsyncIterator[list[Event]]:
    """A claimer whose workers take jobs and never end, and whose statements may take 0.3 s; and what it publishes.

    tasks: those beside `echo`. taken: the jobs that workers have taken.
    """
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until) "
        "values ('here', 'here', 1, '1 hour', now() + interval '1 hour')"
    )
    session = Session(url, "test", settings={"statement_timeout": "300ms", "lock_timeout": "100ms"})
    intake, events = Intake(50), list[Event]()
    store, claimant = of(session), Claimant("here", 1, ("default",), ("echo", *(tasks.names if tasks else ())))
    lanes = Lanes(store, claimant, loads=Loads(tasks or ()), intake=intake, outbox=Outbox(), doorbell=Doorbell())
    one = Claimer(
        store,
        claimant,
        loads=lanes.loads,
        intake=intake,
        outbox=lanes.outbox,
        doorbell=lanes.doorbell,
        gate=None,
        poll_interval=0.1,
        lanes=lanes,
    )

    async def work() -> None:
        while load := await intake.take(Seat()):
            if taken is not None:
                taken.extend(load if isinstance(load, list) else [load])

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


batches = Tasks()


@batches.register("in.batches", batch=100)
async def in_batches(jobs: list[Job]) -> None: ...


class LosesTheReply(Store):
    """To the first claim that fills batches. The database has carried out the claim."""

    lost = 0

    async def claim(
        self,
        claimant: Claimant,
        token: UUID,
        limit: int,
        since: float | None = None,
        until: float | None = None,
        terms: Terms = Terms(),  # noqa: B008
    ) -> list[Job]:
        jobs = await super().claim(claimant, token, limit, since, until, terms)
        if claimant.tasks == ("in.batches",) and not LosesTheReply.lost:
            LosesTheReply.lost = len(jobs)
            raise DatabaseAway("The reply is lost.")
        return jobs


async def test_jobs_of_a_claim_that_fills_batches_and_whose_reply_is_lost_are_taken_back(
    database_url: str, connection: Connection
) -> None:
    jobs, taken = await insert(connection, "in.batches", 300), list[Job]()
    async with claiming(database_url, connection, of=LosesTheReply, tasks=batches, taken=taken):
        await eventually(lambda: _are(taken, 300))
    assert LosesTheReply.lost == 250
    assert sorted(job.id for job in taken) == sorted(jobs)


async def _are(taken: list[Job], count: int) -> bool:
    return len(taken) >= count


async def test_a_job_that_cannot_be_claimed_to_fill_a_batch_holds_up_no_other(
    database_url: str, connection: Connection
) -> None:
    await connection.execute(DAWDLE)
    await insert(connection, "in.batches", 100)
    await insert(connection, "in.batches", correlation_id="slow")
    await insert(connection, "echo", 7)
    async with claiming(database_url, connection, tasks=batches):
        await has_count(connection, 107, "status = 'running'", within=30)
        await connection.execute("drop function public.dawdle cascade")
        await has_count(connection, 108, "status = 'running'")


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
