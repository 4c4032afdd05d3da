"""`pushq migrate --check` looks at what is there: what is missing, changed, open or closed is said, with the remedy."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import cast

import asyncpg
import pytest

from pushq.database.roles import Roles
from pushq.database.schema import compare, faults, faults_seen_by, wanted
from pushq.database.session import Session
from tests.migrations.schema import schema
from tests.support.commands import invoke
from tests.support.jobs import Connection
from tests.support.roles import drop, fresh_roles, granted
from tests.support.supervisors import ROOT

HOW = "`pushq migrate --sql` prints how it is made."
ROLES = "as the owner run what `pushq migrate --roles` prints"
LACKS = {
    "drop function pushq.cancel(uuid, text)": "function cancel(uuid, text)",
    "drop function pushq.schema_version()": "function schema_version()",
    "drop function pushq.attached_days()": "function attached_days()",
    "drop trigger jobs_ring_the_bell on pushq.jobs_unfinished": "trigger jobs_unfinished.jobs_ring_the_bell",
    "drop trigger zz_check_job on pushq.jobs_unfinished": "trigger jobs_unfinished.zz_check_job",
    "drop index pushq.jobs_unfinished_apart": "index jobs_unfinished_apart",
    "drop table pushq.census": "index census_pkey, table census",
    "drop trigger zz_check_state on pushq.jobs_unfinished": "trigger jobs_unfinished.zz_check_state",
    "alter table pushq.jobs drop result": "column jobs.result",
    "alter table pushq.queues drop constraint queues_name_has_1_to_200_characters": (
        "rule queues.queues_name_has_1_to_200_characters"
    ),
}
DIFFERS = {
    "drop sequence pushq.gate_7": "sequence gate_N (63)",
    "alter table pushq.jobs alter priority drop default": "column jobs.priority (smallint not null)",
    "alter table pushq.jobs alter task drop not null": "column jobs.task (text)",
    "alter table pushq.jobs_unfinished disable trigger jobs_ring_the_bell": (
        "trigger jobs_unfinished.jobs_ring_the_bell (disabled)"
    ),
    "create or replace function pushq.ring_bell(queue text) returns boolean language sql return false": (
        "function ring_bell(text)"
    ),
    "create or replace function pushq.utc_today() returns date language sql stable return current_date": (
        "function utc_today()"
    ),
    "alter function pushq.retire_days(interval) security invoker": (
        "function retire_days(interval) (returns setof record search_path=pg_catalog, pg_temp lock_timeout=500ms)"
    ),
    "alter function pushq.cancel(uuid, text) reset search_path": (
        "function cancel(uuid, text) (returns text security definer)"
    ),
    "drop index pushq.jobs_unfinished_apart; create index jobs_unfinished_apart on pushq.jobs_unfinished (id)": (
        "index jobs_unfinished_apart (CREATE INDEX jobs_unfinished_apart ON pushq.jobs_unfinished USING btree (id))"
    ),
}
RIGHTS = {
    "revoke select on sequence pushq.gate_3 from public, {producer}": (
        "everybody: select on gate_N, observer: select on gate_N, producer: select on gate_N"
    ),
    "revoke insert (payload) on pushq.jobs from {producer}": "producer: insert on jobs.payload",
    "revoke execute on all functions in schema pushq from public, {producer}": (
        "producer: execute on are_channels(text[]), "
        "producer: execute on broken_rule(text, jsonb, text, timestamp with time zone, integer, interval, text, text, "
        "text, text, text, integer, integer, integer, timestamp with time zone, timestamp with time zone, date, text, "
        "integer, uuid), producer: execute on broken_rule_of_needs(jsonb, text, text), "
        "producer: execute on broken_rule_of_options(text[], text, text), "
        "producer: execute on check_enqueue(text, interval, interval), "
        "producer: execute on enqueue(text, jsonb, text, integer, timestamp with time zone, integer, interval, text, "
        "text, text, text[], text, interval, interval, text, text, jsonb, text, text), "
        "producer: execute on enqueue_many(jsonb, text, interval, interval), "
        "producer: execute on find_standing(text, jsonb, text, smallint, timestamp with time zone, integer, interval, "
        "text, text, text, boolean, interval, interval, text, text) and 20 more"
    ),
    "revoke update on pushq.queues from {worker}": "worker: update on queues",
    "revoke execute on function pushq.make_days(int) from {worker}": "worker: execute on make_days(integer)",
    "revoke select on pushq.tallies from {observer}": "observer: select on tallies",
}
OPEN = {
    "grant execute on function pushq.retire_days(interval) to public": "execute on retire_days(interval)",
    "grant select on pushq.jobs_unfinished to public": "select on jobs_unfinished",
    "grant select (payload) on pushq.jobs to public": "select on jobs.payload",
    "grant update on sequence pushq.gate_3 to public": "update on gate_N",
}
DROP_THE_INDEX_OF_A_DAY = """
    do $$ begin execute format('drop index pushq.%I', to_char(pushq.utc_today(), '"jobs_"YYYY_MM_DD"_id"')); end $$
"""
OTHERS = {
    "alter table pushq.jobs add note text": "a job finishes: note; keep such values in your own table, by the job's",
    "alter table pushq.jobs add note text, add stars int not null default 1": "when a job finishes: note, stars; keep",
    "alter table pushq.jobs enable row level security": "hides the rows of jobs by row-level security without a policy",
    "alter table pushq.tasks owner to {observer}": "with another owner than the table of jobs: tasks to {observer}; `",
    "alter function pushq.make_days(int) owner to {worker}": "make_days() to {worker}; `alter … owner to` its owner.",
    "delete from pushq.migrations where version = 2": "lost rows that belong to the schema: migrations 2; run `pushq",
    DROP_THE_INDEX_OF_A_DAY: "has days without an index by which their jobs are found: pushq.jobs_",
    "delete from pushq.days": "lost rows that belong to the schema: days 2",
}
SAID = {
    **{change: f"lacks {what}; {HOW}" for change, what in LACKS.items()},
    **{change: f"has another {what} than the migrations make; {HOW}" for change, what in DIFFERS.items()},
    **{change: f"lacks rights of the roles: {what}; {ROLES}." for change, what in RIGHTS.items()},
    **{
        change: f"lets everybody do too much: {what}; revoke these rights from public, or {ROLES}."
        for change, what in OPEN.items()
    },
    **OTHERS,
}
HARMLESS = (
    "alter table pushq.jobs add user_id text generated always as (payload ->> 'user_id') stored",
    "create index jobs_by_task on pushq.jobs (task)",
    "create table pushq.of_mine (id uuid); grant select on pushq.of_mine to {producer}",
    "grant select (task, status), update (priority) on pushq.jobs to {producer}",
    "alter table pushq.jobs enable row level security; create policy mine on pushq.jobs to {producer} using (true)",
    "alter table pushq.jobs_unfinished set (fillfactor = 100, autovacuum_vacuum_threshold = 50)",
    "create function pushq.of_mine() returns int language sql return 1",
    "create trigger mine after insert on pushq.jobs for each row execute function pushq.ring_for_inserted_job()",
    "revoke all on schema pushq from {producer}, {worker}, {observer}",
    "revoke execute on all functions in schema pushq from public",
)


async def test_the_schema_is_written_down_as_the_migrations_and_the_roles_make_it(empty_database_url: str) -> None:
    """Where it is not: `python -m tests.migrations.schema > pushq/database/schema.txt`."""
    roles = fresh_roles()
    made = await schema(empty_database_url, roles)
    owner = await asyncpg.connect(empty_database_url)
    await drop(owner, roles)
    await owner.close()
    written = (ROOT / "pushq" / "database" / "schema.txt").read_text()
    assert sorted(set(made.splitlines()) ^ set(written.splitlines())) == []  # shows what differs
    assert made == written


async def test_whatever_is_wrong_is_said_with_its_remedy(connection: Connection) -> None:
    async with granted(connection) as roles:
        for change, what in SAID.items():
            said = await _said_after(connection, change, roles)
            assert len(said) == 1, (change, said)
            assert what.format(**asdict(roles)) in said[0], change
        for change in HARMLESS:
            assert await _said_after(connection, change, roles) == [], change


async def _said_after(connection: Connection, change: str, roles: Roles) -> list[str]:
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"set local search_path = pg_catalog; {change.format(**asdict(roles))}")
        return await faults_seen_by(cast("Session", connection), roles)
    finally:
        await transaction.rollback()


async def test_each_part_that_is_lost_is_missed() -> None:
    for part in wanted():
        found = list(compare(wanted(), {other: how for other, how in wanted().items() if other != part}))
        assert any(part[1] in name for _, name in found), part


def test_check_says_what_is_wrong_and_ends_with_1(database_url: str) -> None:
    sound = invoke("migrate", "--check", url=database_url)
    assert (sound.exit_code, sound.stderr) == (0, "")
    assert sound.stdout.endswith(" is up to date.\n")

    asyncio.run(_execute(database_url, "drop function pushq.retry(uuid, text); alter table pushq.jobs add note text"))
    broken = invoke("migrate", "--check", url=database_url)
    assert (broken.exit_code, broken.stderr, broken.stdout.count("\n")) == (1, "", 2)
    assert f" lacks function retry(uuid, text); {HOW}\n" in broken.stdout
    assert " has columns of your own, whose values are lost when a job finishes: note; " in broken.stdout


async def _execute(url: str, script: str) -> None:
    session = Session(url, "somebody")
    await session.execute_alone(script)
    await session.close()


@pytest.mark.parametrize("option", [(), ("--no-owner",)])
async def test_a_database_that_was_dumped_and_restored_has_no_fault(
    database_url: str, empty_database_url: str, server_bin_directory: Path, option: tuple[str, ...]
) -> None:
    dump = [str(server_bin_directory / "pg_dump"), *option, database_url]
    psql = [str(server_bin_directory / "psql"), "-qv", "ON_ERROR_STOP=1", empty_database_url]
    text = subprocess.run(dump, check=True, capture_output=True).stdout
    subprocess.run(psql, input=text, check=True, capture_output=True)

    assert await faults(empty_database_url) == []
