"""The sweeper: who is dead, which days go, and that any number may sweep at once."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from pushq.database.session import Session
from pushq.database.store import Claimant, Sighting, Store
from pushq.sweeper import Sweeper
from pushq.sweeper.witness import Witness
from tests.support.jobs import Connection, count, insert


def sighting(heartbeat: int = 1, *, expired: bool = True, lease: float = 30) -> Sighting:
    return Sighting("host", heartbeat, expired, lease)


def test_who_has_expired_and_stood_still_for_a_lease_is_dead() -> None:
    witness = Witness()
    assert witness.dead([sighting(expired=False)], 0, 0) == []
    assert witness.dead([sighting(expired=False)], 15, 15) == []
    assert witness.dead([sighting()], 30, 30) == [("host", 1)]


def test_who_has_expired_by_the_database_s_clock_alone_is_not_dead() -> None:
    witness = Witness()
    assert witness.dead([sighting()], 0, 0) == []
    assert witness.dead([sighting()], 29, 29) == []


def test_who_gives_a_sign_of_life_is_not_dead_however_late() -> None:
    witness = Witness()
    for beat in range(10):
        assert witness.dead([sighting(beat)], beat * 29, beat * 29) == []


def test_after_an_answer_that_took_long_nobody_is_dead_yet() -> None:
    witness = Witness()
    witness.dead([sighting()], 0, 0)
    assert witness.dead([sighting()], 20, 60) == []
    assert witness.dead([sighting()], 89, 89) == []
    assert witness.dead([sighting()], 90, 90) == [("host", 1)]


async def test_any_number_of_sweepers_requeue_each_job_once(database_url: str, connection: Connection) -> None:
    await insert(connection, "echo", 3000)
    await connection.execute(
        "update pushq.jobs_unfinished set status = 'running', supervisor = 'long gone', pool = 1, attempt = 1, "
        "token = gen_random_uuid(), started_at = now()"
    )
    sessions = [Session(database_url, f"test {number}") for number in range(5)]
    sweepers = [Sweeper(Store(session), retention=604800) for session in sessions]
    for _ in range(3):
        await asyncio.gather(*(sweeper.sweep() for sweeper in sweepers))
    for session in sessions:
        await session.close()

    counts = await connection.fetch("select status, crashes, count(*) from pushq.jobs group by 1, 2")
    assert [tuple(row) for row in counts] == [("queued", 1, 3000)]
    requeued = "select sum(jobs) from (select * from pushq.tallies union all select * from pushq.tally_log) as t"
    assert await connection.fetchval(requeued) == 3000


async def test_days_past_retention_are_emptied_and_dropped_while_an_insert_is_open(
    database_url: str, connection: Connection
) -> None:
    await connection.execute(
        """
        create table pushq.jobs_2020_01_01 (like pushq.jobs including defaults including constraints);
        alter table pushq.jobs attach partition pushq.jobs_2020_01_01 for values from ('2020-01-01') to ('2020-01-02');
        insert into pushq.days (day) values ('2020-01-01');
        insert into pushq.jobs (task, status, finished_on, finished_at)
        values ('old', 'succeeded', '2020-01-01', now());
        """
    )
    session = Session(database_url, "test", deadline=1)
    sweeper = Sweeper(Store(session), retention=1)
    transaction = connection.transaction()
    await transaction.start()
    await insert(connection, "echo")
    blocked = await sweeper.sweep()
    await transaction.commit()
    swept = await sweeper.sweep()
    await session.close()

    assert blocked.retired == ("2020-01-01",)
    assert blocked.dropped == ()
    assert swept.dropped == ("2020-01-01",)
    assert await connection.fetchval("select to_regclass('pushq.jobs_2020_01_01')") is None
    assert await connection.fetchval("select count(*) from pushq.days where day = '2020-01-01'") == 0


async def test_jobs_of_a_task_that_nobody_knows_stand_in_nobody_s_way_and_run_once_somebody_does(
    database_url: str, connection: Connection
) -> None:
    async def sweep_with(tasks: list[str]) -> None:
        await connection.execute(
            "insert into pushq.supervisors (name, host, pid, lease, lease_until, tasks) "
            "values ('here', 'here', 1, '1 hour', now() + interval '1 hour', $1) "
            "on conflict (name) do update set tasks = excluded.tasks",
            tasks,
        )
        await connection.execute("update pushq.census_clock set taken_at = '-infinity'")
        await sweeper.sweep()

    newcomers = await insert(connection, "newcomer", 12_000)
    (known,) = await insert(connection, "echo")
    session = Session(database_url, "test")
    store, sweeper = Store(session), Sweeper(Store(session), retention=604800)
    claimant = Claimant("here", 1, ("default",), ("echo", "newcomer"))

    await sweep_with(["echo"])
    assert [job.id for job in await store.claim(claimant, uuid4(), 10)] == [known]
    await sweep_with(["echo", "newcomer"])
    assert [job.id for job in await store.claim(claimant, uuid4(), 10)] == newcomers[:10]
    assert await count(connection, "parked") == 0
    await session.close()


async def test_without_any_supervisor_nothing_is_parked(database_url: str, connection: Connection) -> None:
    await insert(connection, "echo", 2000)
    session = Session(database_url, "test")
    await Sweeper(Store(session), retention=604800).sweep()
    await session.close()

    assert await count(connection, "parked") == 0
