"""The sweeper: who is dead, which days go, and that any number may sweep at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pushq.database.session import Session
from pushq.database.statements import statement
from pushq.events import ChoreDone, ChoreFailed, Event, subscribe
from pushq.sweeper import Sweeper
from pushq.sweeper.store import Sighting
from pushq.sweeper.witness import Witness
from tests.support.jobs import Connection, count, die_with_them, has_count, insert
from tests.support.store import Store
from tests.support.waiting import eventually


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
    await die_with_them(connection)
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


async def _append_tallies(connection: Connection, entries: int) -> None:
    await connection.execute(
        "insert into pushq.tally_log (queue, task, outcome, run_bucket, wait_bucket, jobs, run_seconds, wait_seconds) "
        "select 'default', 'task' || n % 100, 'succeeded', n % 3, n % 4, 2, 0.5, 0.25 from generate_series(1, $1) as n",
        entries,
    )


async def _is_folded(connection: Connection) -> bool:
    return not await connection.fetchval("select exists (select from pushq.tally_log)")


async def test_a_sweep_folds_all_tallies_there_are(database_url: str, connection: Connection) -> None:
    await _append_tallies(connection, 70_000)
    session = Session(database_url, "test")
    swept = await Sweeper(Store(session), retention=604800).sweep()
    await session.close()

    assert (swept.folded, await _is_folded(connection)) == (70_000, True)
    sums = "select sum(jobs), sum(run_seconds)::int, sum(wait_seconds)::int from pushq.tallies"
    assert tuple(await connection.fetchrow(sums) or ()) == (140_000, 35_000, 17_500)


async def test_while_there_is_more_to_fold_sweeps_follow_one_another_with_all_their_chores(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dead are declared dead by the second look at them."""
    monkeypatch.setattr("pushq.sweeper.LONGEST_FOLD", 0.0)
    await _append_tallies(connection, 70_000)
    await insert(connection, "echo", 3)
    await die_with_them(connection)
    session = Session(database_url, "test")
    sweeping = asyncio.create_task(Sweeper(Store(session), retention=604800).run(3600))
    await has_count(connection, 3, "status = 'queued' and crashes = 1")
    await eventually(lambda: _is_folded(connection))
    sweeping.cancel()
    await session.close()


async def test_a_log_that_never_stands_still_keeps_no_sweeper_from_resting(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes while it folds is for the next time."""
    monkeypatch.setattr("pushq.sweeper.LONGEST_FOLD", 0.0)
    session = Session(database_url, "test")
    sweeper = Sweeper(Store(session), retention=604800)
    for _ in range(3):
        await _append_tallies(connection, 1)
        assert (await sweeper.sweep()).folded == 1
        assert not sweeper._is_behind
    await session.close()


async def test_who_sweeps_once_folds_all_tallies_however_long_it_takes(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushq.sweeper.LONGEST_FOLD", 0.0)
    await _append_tallies(connection, 70_000)
    session = Session(database_url, "test")
    swept = await Sweeper(Store(session), retention=604800).sweep_whole()
    await session.close()

    assert (swept.folded, await _is_folded(connection)) == (70_000, True)


async def test_what_another_sweeper_folds_is_left_to_it_and_not_waited_for(
    database_url: str, connection: Connection
) -> None:
    await _append_tallies(connection, 70_000)
    session = Session(database_url, "test", settings={"lock_timeout": "100ms"})
    async with connection.transaction():
        assert await connection.fetchval(statement("fold"), 20_000) == 20_000
        assert (await Store(session).fold(20_000)).entries == 0
    while (await Store(session).fold(20_000)).entries:
        pass
    await session.close()

    assert await connection.fetchval("select sum(jobs) from pushq.tallies") == 140_000


async def _lock_tallies(connection: Connection) -> str:
    await connection.execute(
        "insert into pushq.tally_log (queue, task, outcome, run_bucket, wait_bucket, jobs, run_seconds, wait_seconds) "
        "values ('default', 'echo', 'succeeded', 1, 1, 1, 1, 1)"
    )
    return "lock table pushq.tallies in share mode"


async def _lock_jobs(connection: Connection) -> str:
    """As ANALYZE and VACUUM do, for long where the table is large."""
    name = await connection.fetchval("select 'jobs_' || to_char(max(day), 'YYYY_MM_DD') from pushq.days")
    await connection.execute(
        f"drop table pushq.{name}; delete from pushq.days where day = (select max(day) from pushq.days)"
    )
    return "lock table pushq.jobs in share update exclusive mode"


@pytest.mark.parametrize("lock", [_lock_tallies, _lock_jobs])
async def test_a_chore_that_cannot_be_done_keeps_no_supervisor_from_being_declared_dead(
    database_url: str, connection: Connection, lock: Callable[[Connection], Awaitable[str]]
) -> None:
    """It is said while it lasts, and when it is over."""
    statement = await lock(connection)
    await insert(connection, "echo", 3)
    await die_with_them(connection)
    events: list[Event] = []
    session = Session(database_url, "test", settings={"lock_timeout": "300ms"})
    sweeper = Sweeper(Store(session), retention=604800)
    with subscribe(events.append):
        async with connection.transaction():
            await connection.execute(statement)
            sweeping = asyncio.create_task(sweeper.run(0.1))
            await has_count(connection, 3, "status = 'queued' and crashes = 1")
        await eventually(lambda: _has_said(events, ChoreDone))
    sweeping.cancel()
    await session.close()

    assert any(isinstance(event, ChoreFailed) and "lock timeout" in event.reason for event in events)


async def _has_said(events: list[Event], kind: type[Event]) -> bool:
    return any(isinstance(event, kind) for event in events)


async def test_what_somebody_left_behind_who_said_goodbye_is_due_again_at_no_charge(
    database_url: str, connection: Connection
) -> None:
    """Its row was locked as its supervisor stopped. The dead, on the other hand, are charged also for such a row."""
    polite, dead = await insert(connection, "echo", 2)
    await die_with_them(connection)
    await connection.execute("update pushq.jobs_unfinished set supervisor = 'polite' where id = $1", polite)
    session = Session(database_url, "test")
    sweeper = Sweeper(Store(session), retention=604800)
    async with connection.transaction():
        await connection.fetch("select from pushq.jobs_unfinished for update")
        await sweeper.sweep()
        await eventually(lambda: _declares_dead(sweeper, "dead", "polite"))
        assert await count(connection, "status = 'running'") == 2
    await _declares_dead(sweeper, "dead", "polite")
    await session.close()

    rows = await connection.fetch("select id, status, crashes from pushq.jobs_unfinished")
    assert {tuple(row) for row in rows} == {(polite, "queued", 0), (dead, "queued", 1)}


async def _declares_dead(sweeper: Sweeper, *names: str) -> bool:
    return (await sweeper.sweep()).dead == names


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
