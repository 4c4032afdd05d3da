"""What people add to the table of jobs goes on into new days: computed columns, indexes, keys, triggers."""

from __future__ import annotations

from uuid import UUID

import pytest

from tests.support.jobs import Connection, finished, insert
from tests.support.supervisors import supervising

OWN = {
    "generated column": "alter table pushq.jobs add user_id text generated always as (payload ->> 'user_id') stored",
    "compression": "alter table pushq.jobs alter payload set compression pglz, alter payload set storage external",
    "index": "create index jobs_by_user on pushq.jobs ((payload ->> 'user_id'))",
    "index of ids": "create index jobs_by_id on pushq.jobs (id)",
    "key": "create unique index jobs_once on pushq.jobs (id, finished_on)",
    "foreign key": """
        create table public.customers (name text primary key); insert into public.customers values ('acme');
        alter table pushq.jobs add foreign key (tenant_id) references public.customers""",
    "check": "alter table pushq.jobs add constraint jobs_of_somebody check (tenant_id is not null)",
    "trigger": """
        create table public.ended (id uuid);
        create function public.note() returns trigger language plpgsql as
        $$ begin insert into public.ended values (new.id); return new; end $$;
        create trigger jobs_noted after insert on pushq.jobs for each row
        when (new.finished_at is not null) execute function public.note()""",
}
VIRTUAL = "alter table pushq.jobs add user_id text generated always as (payload ->> 'user_id') virtual"


COLUMNS = """
    select attname, attnotnull, attgenerated, attcompression, attstorage
    from pg_attribute where attnum > 0 and not attisdropped and attrelid = $1::text::regclass order by attname
"""
INDEXES_LACKING = """
    select array(
        select indexrelid::regclass::text from pg_index where indrelid = 'pushq.jobs'::regclass and indexrelid not in (
            select inhparent from pg_inherits join pg_index on indexrelid = inhrelid
            where indrelid = $1::text::regclass))
"""


async def tomorrow(connection: Connection) -> str:
    """The table of the last day, made anew as it is when it is due."""
    table: str = await connection.fetchval("select to_char(max(day), '\"pushq.jobs_\"YYYY_MM_DD') from pushq.days")
    await connection.execute(f"drop table {table}")
    made = await connection.fetch("select pushq.make_days() as day")
    assert [f"pushq.jobs_{row['day']:%Y_%m_%d}" for row in made] == [table]
    return table


async def end_and_retry(connection: Connection, job: UUID) -> None:
    for call, did in (("cancel", "cancelled"), ("retry", "queued"), ("cancel", "cancelled")):
        assert await connection.fetchval(f"select pushq.{call}($1)", job) == did


@pytest.mark.parametrize("what", OWN)
async def test_what_somebody_has_added_goes_on_into_a_new_day(connection: Connection, what: str) -> None:
    await connection.execute(OWN[what])
    [job] = await insert(connection, "echo", payload={"user_id": "7"}, tenant_id="acme")
    made = await tomorrow(connection)
    await end_and_retry(connection, job)

    assert await connection.fetch(COLUMNS, made) == await connection.fetch(COLUMNS, "pushq.jobs")
    assert await connection.fetchval(INDEXES_LACKING, made) == []


async def test_values_that_compute_themselves_are_there_once_a_job_is_finished(
    connection: Connection, database_url: str
) -> None:
    await connection.execute(OWN["generated column"])
    await connection.execute(OWN["trigger"])
    await tomorrow(connection)
    with supervising(database_url):
        rows = await finished(connection, *await insert(connection, "echo", payload={"user_id": "7"}))

    assert [(row["status"], row["user_id"]) for row in rows] == [("succeeded", "7")]
    assert await connection.fetchval("select array_agg(id) from public.ended") == [rows[0]["id"]]


async def test_a_column_that_is_computed_when_it_is_read_goes_on_where_the_server_knows_such(
    connection: Connection,
) -> None:
    if connection.get_server_version() >= (18,):
        await connection.execute(VIRTUAL)
    else:
        await connection.execute(OWN["generated column"])
    [job] = await insert(connection, "echo", payload={"user_id": "7"})
    await tomorrow(connection)
    await end_and_retry(connection, job)

    assert await connection.fetchval("select user_id from pushq.jobs where id = $1", job) == "7"
