"""What the table itself promises, to whoever inserts."""

from __future__ import annotations

import asyncpg
import pytest

from pushq.database.migrate import roles
from tests.support.jobs import Connection, count

LONG = "x" * 201


@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        ({"task": "''"}, "jobs_task_has_1_to_200_characters"),
        ({"task": f"'{LONG}'"}, "jobs_task_has_1_to_200_characters"),
        ({"queue": "''"}, "jobs_queue_has_1_to_200_characters"),
        ({"queue": f"'{LONG}'"}, "jobs_queue_has_1_to_200_characters"),
        ({"unique_key": "''"}, "jobs_unique_key_has_1_to_200_characters"),
        ({"unique_key": f"'{LONG}'"}, "jobs_unique_key_has_1_to_200_characters"),
        ({"tenant_id": f"'{LONG}'"}, "jobs_tenant_id_has_1_to_200_characters"),
        ({"correlation_id": f"'{LONG}'"}, "jobs_correlation_id_has_1_to_200_characters"),
        ({"submitted_by": "''"}, "jobs_submitted_by_has_1_to_200_characters"),
        ({"payload": "'[]'"}, "jobs_payload_is_object"),
        ({"payload": "'null'"}, "jobs_payload_is_object"),
        ({"payload": "'\"text\"'"}, "jobs_payload_is_object"),
        ({"payload": "jsonb_build_object('a', repeat('x', 1048576))"}, "jobs_payload_is_at_most_1_mib"),
        ({"run_at": "'0044-03-15 BC'"}, "jobs_run_at_is_between_1970_and_9999"),
        ({"run_at": "'12000-01-01'"}, "jobs_run_at_is_between_1970_and_9999"),
        ({"run_at": "'infinity'"}, "jobs_run_at_is_between_1970_and_9999"),
        ({"run_at": "'-infinity'"}, "jobs_run_at_is_between_1970_and_9999"),
        ({"max_attempts": "0"}, "jobs_max_attempts_is_1_to_10000"),
        ({"max_attempts": "-1"}, "jobs_max_attempts_is_1_to_10000"),
        ({"timeout": "'0'"}, "jobs_timeout_is_positive_and_at_most_a_year"),
        ({"timeout": "'-1 second'"}, "jobs_timeout_is_positive_and_at_most_a_year"),
        ({"timeout": "'2 years'"}, "jobs_timeout_is_positive_and_at_most_a_year"),
        ({"attempt": "-1"}, "jobs_counts_are_not_negative"),
        ({"status": "'done'", "finished_on": "current_date", "finished_at": "now()"}, "jobs_status_is_known"),
        ({"status": "'succeeded'"}, "jobs_finished_status_has_a_day"),
        ({"finished_at": "now()"}, "jobs_finished_job_has_an_instant"),
        ({"status": "'running'"}, "jobs_running_job_has_an_owner"),
        ({"token": "gen_random_uuid()"}, "jobs_queued_job_has_no_owner"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
async def test_a_row_that_breaks_a_rule_is_refused_by_a_constraint_whose_name_says_it(
    connection: Connection, columns: dict[str, str], constraint: str
) -> None:
    given = {"task": "'a'"} | columns
    with pytest.raises(asyncpg.CheckViolationError) as refusal:
        await connection.execute(f"insert into pushq.jobs ({', '.join(given)}) values ({', '.join(given.values())})")

    assert refusal.value.constraint_name == constraint
    assert await count(connection) == 0


async def test_a_payload_of_almost_a_mib_is_taken(connection: Connection) -> None:
    await connection.execute(
        "insert into pushq.jobs (task, payload) values ('a', jsonb_build_object('a', repeat('x', 1048500)))"
    )


async def test_ids_are_time_ordered_and_of_version_7(connection: Connection) -> None:
    await connection.execute("insert into pushq.jobs (task) values ('a')")
    await connection.execute("select pg_sleep(0.002)")
    await connection.execute("insert into pushq.jobs (task) values ('b')")
    rows = await connection.fetch("select id, task from pushq.jobs order by id")

    assert [row["task"] for row in rows] == ["a", "b"]
    assert {row["id"].version for row in rows} == {7}
    assert {row["id"].variant for row in rows} == {"specified in RFC 4122"}


async def test_a_key_belongs_to_one_unfinished_job_of_a_tenant(connection: Connection) -> None:
    key = "insert into pushq.jobs (task, unique_key, tenant_id) values ('a', 'k', $1) on conflict do nothing"
    assert await connection.execute(key, None) == "INSERT 0 1"
    assert await connection.execute(key, None) == "INSERT 0 0"
    assert await connection.execute(key, "acme") == "INSERT 0 1"
    await connection.execute("select pushq.cancel(id) from pushq.jobs_unfinished where tenant_id is null")
    assert await connection.execute(key, None) == "INSERT 0 1"
    cancelled = await connection.fetchval("select id from pushq.jobs where status = 'cancelled'")
    assert await connection.fetchval("select pushq.retry($1)", cancelled) == "unique_key is taken"


async def test_a_producer_needs_nothing_but_its_columns(database_url: str, connection: Connection) -> None:
    """The bell is open: its trigger runs with the producer's rights."""
    suffix = (await connection.fetchval("select current_database()"))[-17:]
    producer = f"producer_{suffix}"
    await connection.execute(roles(producer, f"worker_{suffix}", f"observer_{suffix}"))
    await connection.execute("select setval(pushq.gate('default'), pushq.gate_clock() + 60000)")
    heard = await asyncpg.connect(database_url)
    payloads: list[str] = []
    await heard.add_listener("pushq", lambda *arguments: payloads.append(arguments[3]))
    try:
        await connection.execute(f"set role {producer}")
        assert await connection.fetchval("insert into pushq.jobs (task, payload) values ('a', '{}') returning id")
        await connection.execute("insert into pushq.jobs (task, unique_key) values ('a', 'k') on conflict do nothing")
        for forbidden in (
            "insert into pushq.jobs (task, status) values ('a', 'running')",
            "insert into pushq.jobs (task, attempt) values ('a', 7)",
            "select payload from pushq.jobs",
            "update pushq.jobs set task = 'b'",
            "delete from pushq.jobs",
            "delete from pushq.jobs_unfinished",
            "select pushq.cancel(gen_random_uuid())",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(forbidden)
        await connection.execute("reset role")
        await heard.execute("select 1")
        assert payloads == ["default", "default"]
    finally:
        await connection.execute("reset role")
        await heard.close()
        for role in (producer, f"worker_{suffix}", f"observer_{suffix}"):
            await connection.execute(f"drop owned by {role}; drop role {role}")


async def test_nothing_in_a_producer_s_search_path_is_called_by_the_trigger(connection: Connection) -> None:
    await connection.execute("select setval(pushq.gate('default'), pushq.gate_clock() + 60000)")
    await connection.execute(
        """
        create schema evil;
        create function evil.pg_notify(text, text) returns void language plpgsql as 'begin raise ''called''; end';
        create function evil.refuse(text, text) returns boolean language plpgsql as 'begin raise ''called''; end';
        create operator evil.= (leftarg = text, rightarg = text, function = evil.refuse);
        set search_path = evil, pg_catalog;
        """
    )
    await connection.execute("insert into pushq.jobs (task) values ('a')")


async def test_a_replaying_session_rings_and_a_two_phase_commit_need_not(connection: Connection) -> None:
    await connection.execute("select setval(pushq.gate('default'), pushq.gate_clock() + 60000)")
    insert = "insert into pushq.jobs (task) values ('a');"
    with pytest.raises(asyncpg.FeatureNotSupportedError, match="NOTIFY"):
        await connection.execute(
            f"begin; set local session_replication_role = replica; {insert} prepare transaction 'loud'"
        )
    await connection.execute("rollback")
    await connection.execute(f"begin; set local pushq.notify = 'off'; {insert} prepare transaction 'quiet'")
    await connection.execute("rollback prepared 'quiet'")


async def test_finishing_does_not_fail_when_today_s_partition_is_missing(connection: Connection) -> None:
    await connection.execute("update pushq.days set day = day")  # nothing changes: the days are there
    days = [row["day"] for row in await connection.fetch("select day from pushq.days order by day")]
    for day in days[:-1]:
        table = f"pushq.jobs_{day:%Y_%m_%d}"
        await connection.execute(f"alter table pushq.jobs detach partition {table}; drop table {table}")
        await connection.execute("delete from pushq.days where day = $1", day)
    await connection.execute("insert into pushq.jobs (task) values ('a')")
    assert await connection.fetchval("select pushq.cancel(id) from pushq.jobs_unfinished") == "cancelled"
    assert await connection.fetchval("select finished_on from pushq.jobs") == days[-1]


async def test_days_are_made_once_however_often_they_are_asked_for(connection: Connection) -> None:
    assert await connection.fetch("select pushq.make_days()") == []
    assert len(await connection.fetch("select pushq.make_days(5)")) == 2


async def test_pushq_survives_a_dump(connection: Connection) -> None:
    """The trigger's condition and the gates can be written out and read again."""
    definition = await connection.fetchval(
        "select pg_get_triggerdef(oid) from pg_trigger "
        "where tgname = 'jobs_ring_the_bell' and tgrelid = 'pushq.jobs'::regclass"
    )
    await connection.execute("drop trigger jobs_ring_the_bell on pushq.jobs")
    await connection.execute(definition)
