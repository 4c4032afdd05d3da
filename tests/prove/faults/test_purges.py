"""What hinders the purge of finished jobs: triggers, locks and publications of others, and days that are others'."""

from __future__ import annotations

import re
from datetime import date, timedelta

import pytest

from tests.support.days import make_day
from tests.support.history import finish_in_the_past, sweeping
from tests.support.jobs import Connection, row_of

SPOIL = "create trigger objection before delete on {day} for each row execute function public.objection()"
TO_DELETES = {
    "raises": (
        "if old.correlation_id = 'mine' then raise exception 'mine'; end if; return old;",
        "of the day {day} jobs cannot be purged: mine \\(P0001\\).",
    ),
    "skips": (
        "if old.correlation_id = 'mine' then return null; end if; return old;",
        "of the day {day} jobs cannot be purged: a trigger or a row-level policy keeps 1 of {free}.",
    ),
}


@pytest.mark.parametrize("objection", TO_DELETES)
async def test_a_trigger_that_keeps_a_job_from_being_purged_is_told_and_other_blocks_and_days_go_on(
    database_url: str, connection: Connection, objection: str
) -> None:
    body, trouble = TO_DELETES[objection]
    today = await connection.fetchval("select pushq.current_day()")
    await make_day(connection, date(2020, 1, 1))
    await connection.execute("select pushq.keep('default', '1 hour')")
    [kept] = await finish_in_the_past(connection, ago=timedelta(hours=2), correlation_id="mine")
    await finish_in_the_past(connection, 30_000, ago=timedelta(hours=2))
    await finish_in_the_past(connection, ago=timedelta(hours=2), day=date(2020, 1, 1))
    await connection.execute(
        f"create function public.objection() returns trigger language plpgsql as $$ begin {body} end $$;"
        + SPOIL.format(day=f"pushq.jobs_{today:%Y_%m_%d}")
    )
    async with sweeping(database_url, retention=1e9) as sweeper:
        sweeper._blocks = 8
        done = await sweeper.sweep()

    (told,) = done.troubles
    assert re.fullmatch(trouble.format(day=today, free=r"\d+"), told)
    assert done.purged > 29_000
    assert await row_of(connection, kept)
    assert await connection.fetchval("select count(*) from pushq.jobs where finished_on = '2020-01-01'") == 0

    await connection.execute("drop function public.objection() cascade; update pushq.purges set next_at = now()")
    async with sweeping(database_url, retention=1e9) as sweeper:
        assert (await sweeper.sweep()).troubles == ()
    assert await connection.fetchval("select count(*) from pushq.jobs") == 0


async def test_a_publication_of_all_tables_hinders_no_purge(database_url: str, connection: Connection) -> None:
    await connection.execute("select pushq.keep('default', '1 hour'); create publication everything for all tables")
    await finish_in_the_past(connection, 10, ago=timedelta(hours=2))
    async with sweeping(database_url) as sweeper:
        done = await sweeper.sweep()
    await connection.execute("drop publication everything")
    assert (done.purged, done.troubles) == (10, ())


async def test_a_day_whose_table_is_locked_is_purged_later_and_the_others_now(
    database_url: str, connection: Connection
) -> None:
    """As by `create index`."""
    today = await connection.fetchval("select pushq.current_day()")
    await make_day(connection, date(2020, 1, 1))
    await connection.execute("select pushq.keep('default', '1 hour')")
    for day in (today, date(2020, 1, 1)):
        await finish_in_the_past(connection, ago=timedelta(hours=2), day=day)
    async with sweeping(database_url, retention=1e9) as sweeper:
        async with connection.transaction():
            await connection.execute(f"lock table pushq.jobs_{today:%Y_%m_%d} in share mode")
            locked = await sweeper.sweep()
        free = await sweeper.sweep()
    assert (locked.purged, locked.troubles) == (1, ())
    assert (free.purged, free.troubles) == (1, ())


async def test_a_day_that_is_detached_is_not_purged(database_url: str, connection: Connection) -> None:
    await make_day(connection, date(2020, 1, 1))
    await connection.execute("select pushq.keep('default', '1 hour')")
    await finish_in_the_past(connection, ago=timedelta(hours=2), day=date(2020, 1, 1))
    await connection.execute("alter table pushq.jobs detach partition pushq.jobs_2020_01_01")
    purge = "select purged from pushq.purge_day('2020-01-01', '7 days')"
    assert await connection.fetchval(purge) == 0
    async with sweeping(database_url, retention=1e9) as sweeper:
        assert (await sweeper.sweep()).purged == 0
    assert await connection.fetchval("select count(*) from pushq.jobs_2020_01_01") == 1
