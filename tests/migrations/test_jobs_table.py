"""What the table itself promises, to whoever inserts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import date, timedelta
from hashlib import sha512

import asyncpg
import pytest

from tests.support.jobs import Connection, count, insert
from tests.support.notifications import hearing, open_gate
from tests.support.roles import granted
from tests.support.waiting import eventually

TODAY = "pushq.utc_today()"
RUNNING = {
    "status": "'running'",
    "token": "gen_random_uuid()",
    "supervisor": "'s'",
    "pool": "1",
    "started_at": "now()",
}
FINISHED = {"status": "'succeeded'", "finished_on": TODAY, "finished_at": "now()"}
NAMES = ("task", "queue", "unique_key", "tenant_id", "correlation_id", "submitted_by")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"
NO_URLS = (
    "", "example.com", "ftp://example.com", "javascript:alert(1)", "http://", "http:///path", "https://?q",
    "//example.com",
    "http://user@example.com/", "http://user:pass@example.com/", "http://example.com#part", "http://exa mple.com/",
    "http://example.com\\@evil.example/", "http://example.com/a b", "http://exämple.com/", "http://example.com/\n",
    "http://example.com/" + "x" * 2000, " http://example.com/", "http://%31%32%37.0.0.1/",
)  # fmt: skip
NO_TRACEPARENTS = (
    "", "00", TRACE, f"00-{TRACE}", f"ff-{TRACE}-01", f"00-{TRACE}-01-more", f"00-{TRACE.upper()}-01",
    f" 00-{TRACE}-01",
    f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01", f"00-{TRACE}-1",
    f"00-{TRACE}-01\n", f"01-{TRACE}-01-{'x' * 200}", f"01-{TRACE}-01more",
)  # fmt: skip

BROKEN: list[tuple[str, dict[str, str]]] = [
    *[(f"jobs_{name}_has_1_to_200_characters", {name: "''"}) for name in NAMES],
    *[(f"jobs_{name}_has_1_to_200_characters", {name: "repeat('ü', 201)"}) for name in NAMES],
    *[("jobs_payload_is_object", {"payload": value}) for value in ("'[]'", "'null'", "'\"text\"'", "'7'", "'true'")],
    ("jobs_payload_is_at_most_1_mib", {"payload": "jsonb_build_object('a', repeat('x', 1048576))"}),
    ("jobs_run_at_is_between_1970_and_9999", {"run_at": "'0044-03-15 BC'"}),
    ("jobs_run_at_is_between_1970_and_9999", {"run_at": "'1969-12-31 23:59:59.999999Z'"}),
    ("jobs_run_at_is_between_1970_and_9999", {"run_at": "'9999-01-01Z'"}),
    ("jobs_run_at_is_between_1970_and_9999", {"run_at": "'12000-01-01'"}),
    ("jobs_run_at_is_between_1970_and_9999", {"run_at": "'infinity'"}),
    ("jobs_run_at_is_between_1970_and_9999", {"run_at": "'-infinity'"}),
    *[("jobs_max_attempts_is_1_to_10000", {"max_attempts": value}) for value in ("0", "-1", "10001", "2147483647")],
    *[
        ("jobs_timeout_is_positive_and_at_most_a_year", {"timeout": f"'{value}'"})
        for value in ("0", "-1 second", "1 year 1 second", "170000000 years", "-170000000 years")
    ],
    *[("jobs_webhook_url_is_http_of_at_most_2000_characters", {"webhook_url": f"e'{url}'"}) for url in NO_URLS],
    *[("jobs_traceparent_is_of_w3c_trace_context", {"traceparent": f"e'{header}'"}) for header in NO_TRACEPARENTS],
    *[("jobs_waiters_are_1_to_16_channels", {"waiters": f"'{names}'"}) for names in ("{}", "{pushq}", "{null}")],
    *[("jobs_counts_are_not_negative", {name: "-1"}) for name in ("attempt", "failures", "crashes")],
    ("jobs_status_is_known", FINISHED | {"status": "'done'"}),
    ("jobs_status_is_known", FINISHED | {"status": "'Succeeded'"}),
    *[("jobs_finished_status_has_a_day", {"status": f"'{status}'"}) for status in ("succeeded", "failed", "cancelled")],
    ("jobs_finished_status_has_a_day", {"finished_on": TODAY, "finished_at": "now()"}),
    ("jobs_finished_status_has_a_day", RUNNING | {"finished_on": TODAY, "finished_at": "now()"}),
    ("jobs_finished_job_has_an_instant", {"finished_at": "now()"}),
    ("jobs_finished_job_has_an_instant", {"status": "'failed'", "finished_on": TODAY}),
    *[
        ("jobs_running_job_has_an_owner", RUNNING | {name: "null"})
        for name in ("token", "supervisor", "pool", "started_at")
    ],
    ("jobs_queued_job_has_no_owner", {"token": "gen_random_uuid()"}),
]

SOUND: list[dict[str, str]] = [
    {},
    *[{name: "'ü'"} for name in NAMES],
    *[{name: "repeat('ü', 200)"} for name in NAMES],
    {"payload": "jsonb_build_object('a', repeat('x', 1048500))"},
    {"run_at": "'1970-01-01Z'"},
    {"run_at": "'9998-12-31 23:59:59.999999Z'"},
    {"max_attempts": "1"},
    {"max_attempts": "10000"},
    {"timeout": "'1 microsecond'"},
    {"timeout": "'1 year'"},
    {"priority": "-32768"},
    {"webhook_url": "'https://example.com'"},
    {"webhook_url": "'HTTP://[::1]:8080/a/b?c=d&e=%20[f]'"},
    {"webhook_url": "'http://example.com/' || repeat('x', 1981)"},
    {"traceparent": f"'00-{TRACE}-01'"},
    {"traceparent": f"'cc-{TRACE}-01-what.the-future-brings'"},
    RUNNING,
    FINISHED,
    FINISHED | {"status": "'failed'", "token": "gen_random_uuid()"},
    FINISHED | {"status": "'cancelled'"},
]


HUGE = "".join(sha512(str(number).encode()).hexdigest() for number in range(64))
"""More text than an index takes, even compressed."""


def insertion(columns: dict[str, str]) -> str:
    given = {"task": "'a'"} | columns
    return f"insert into pushq.jobs ({', '.join(given)}) values ({', '.join(given.values())})"


async def test_a_row_that_breaks_a_rule_is_refused_by_a_constraint_whose_name_says_it(connection: Connection) -> None:
    refused_by = []
    for _, columns in BROKEN:
        with pytest.raises(asyncpg.CheckViolationError) as refusal:
            await connection.execute(insertion(columns))
        refused_by.append((refusal.value.constraint_name, columns))

    assert refused_by == BROKEN
    assert await count(connection) == 0


async def test_the_names_of_all_rules_are_tried(connection: Connection) -> None:
    of_a_row = await connection.fetchval(
        "select pg_get_functiondef('pushq.broken_rule'::regproc)"
        " || pg_get_functiondef('pushq.broken_rule_of_options'::regproc)"
    )
    of_a_day = await connection.fetch(
        "select conname from pg_constraint where contype = 'c' and conname !~ '^jobs_\\d' "
        "and conrelid = to_char(pushq.utc_today(), '\"pushq.jobs_\"YYYY_MM_DD')::regclass"
    )
    rules = set(re.findall(r"'(jobs_\w+)'", of_a_row)) | {row["conname"] for row in of_a_day}
    assert {name for name, _ in BROKEN} == rules


@pytest.mark.parametrize("table", ["jobs", "jobs_unfinished"])
async def test_an_update_by_hand_is_held_to_the_same_rules(connection: Connection, table: str) -> None:
    await insert(connection, "a")
    refused_by = []
    broken = [(rule, columns) for rule, columns in BROKEN if table == "jobs" or "finished_on" not in columns]
    for _, columns in broken:
        changes = ", ".join(f"{name} = {value}" for name, value in columns.items())
        with pytest.raises(asyncpg.CheckViolationError) as refusal:
            await connection.execute(f"update pushq.{table} set {changes}")
        refused_by.append((refusal.value.constraint_name, columns))

    assert refused_by == broken


async def test_a_finished_job_is_not_queued_again_by_an_update_of_its_status(connection: Connection) -> None:
    await connection.execute(insertion(FINISHED))
    for changes in ("status = 'queued'", "status = 'running'", "status = 'done'", "finished_at = null"):
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(f"update pushq.jobs set {changes}")


async def test_a_refusal_names_table_and_rule_as_a_check_does_however_the_row_comes(connection: Connection) -> None:
    rule = "jobs_task_has_1_to_200_characters"
    await connection.execute("create table elsewhere (task text)")
    await connection.execute("insert into elsewhere values ('a'), ('')")
    for statement in (
        "insert into pushq.jobs (task) values ('')",
        "insert into pushq.jobs (task) values ('a'), (''), ('b')",
        "insert into pushq.jobs (task) select task from elsewhere",
        "insert into pushq.jobs (task, unique_key) values ('', 'k') on conflict do nothing",
        "insert into pushq.jobs_unfinished (task) values ('')",
        f"insert into pushq.jobs (task) values ('{HUGE}')",
        "merge into pushq.jobs as job using elsewhere on false when not matched then insert (task) values ('')",
    ):
        with pytest.raises(asyncpg.CheckViolationError) as refusal:
            await connection.execute(statement)
        error = refusal.value
        assert (error.schema_name, error.table_name, error.constraint_name) == ("pushq", "jobs_unfinished", rule)
        assert error.message == f'new row for relation "jobs_unfinished" violates check constraint "{rule}"'
        assert error.detail == "The rule: task has 1 to 200 characters."
    with pytest.raises(asyncpg.CheckViolationError, match=rule):
        await connection.copy_records_to_table("jobs", schema_name="pushq", columns=["task"], records=[("a",), ("",)])
    await connection.execute("set session_replication_role = replica")  # as where rows come by logical replication
    with pytest.raises(asyncpg.CheckViolationError, match=rule):
        await connection.execute("insert into pushq.jobs (task) values ('')")
    assert await count(connection) == 0


async def test_a_row_is_judged_as_the_triggers_of_users_leave_it(connection: Connection) -> None:
    await connection.execute(
        """
        create function clear() returns trigger language plpgsql as $$ begin new.task := ''; return new; end $$;
        create trigger set_tenant before insert or update on pushq.jobs_unfinished for each row
        when (new.queue = 'bad') execute function clear();
        """
    )
    await insert(connection, "a")
    for statement in (
        "insert into pushq.jobs (task, queue) values ('a', 'bad')",
        "update pushq.jobs set queue = 'bad'",
    ):
        with pytest.raises(asyncpg.CheckViolationError, match="jobs_task_has_1_to_200_characters"):
            await connection.execute(statement)


async def test_a_row_that_just_keeps_the_rules_is_taken(connection: Connection) -> None:
    for columns in SOUND:
        await connection.execute(insertion(columns))
    assert await count(connection) == len(SOUND)


async def test_a_payload_that_another_table_keeps_compressed_is_measured_as_it_is(connection: Connection) -> None:
    await connection.execute(
        "create table elsewhere as select jsonb_build_object('a', repeat('x', 20000000)) as payload"
    )
    with pytest.raises(asyncpg.CheckViolationError) as refusal:
        await connection.execute("insert into pushq.jobs (task, payload) select 'a', payload from elsewhere")
    assert refusal.value.constraint_name == "jobs_payload_is_at_most_1_mib"


# Ids and keys ---------------------------------------------------------------------------------------------------------


async def test_ids_are_time_ordered_and_of_version_7(connection: Connection) -> None:
    await connection.execute("insert into pushq.jobs (task) values ('a')")
    await connection.execute("select pg_sleep(0.002)")
    await connection.execute("insert into pushq.jobs (task) values ('b')")
    rows = await connection.fetch("select id, task from pushq.jobs order by id")

    assert [row["task"] for row in rows] == ["a", "b"]
    assert {row["id"].version for row in rows} == {7}
    assert {row["id"].variant for row in rows} == {"specified in RFC 4122"}
    milliseconds = await connection.fetchval("select extract(epoch from clock_timestamp())::float8 * 1000")
    assert all(0 <= milliseconds - (row["id"].int >> 80) < 60_000 for row in rows)


async def test_ids_made_at_once_are_distinct_and_ascend(connection: Connection) -> None:
    ids = await insert(connection, "a", 2000)

    assert len(set(ids)) == 2000
    assert ids == sorted(ids)


async def test_a_key_belongs_to_one_unfinished_job_of_a_tenant(connection: Connection) -> None:
    key = "insert into pushq.jobs (task, unique_key, tenant_id) values ('a', 'k', $1) on conflict do nothing"
    assert await connection.execute(key, None) == "INSERT 0 1"
    assert await connection.execute(key, None) == "INSERT 0 0"
    assert await connection.execute(key, "acme") == "INSERT 0 1"
    await connection.execute("select pushq.cancel(id) from pushq.jobs_unfinished where tenant_id is null")
    assert await connection.execute(key, None) == "INSERT 0 1"
    cancelled = await connection.fetchval("select id from pushq.jobs where status = 'cancelled'")
    assert await connection.fetchval("select pushq.retry($1)", cancelled) == "unique_key is taken"


async def test_a_retention_that_would_empty_everything_is_refused(connection: Connection) -> None:
    for keep in ("0", "-100 days"):
        with pytest.raises(asyncpg.RaiseError, match="give the time for which finished jobs are kept"):
            await connection.execute(f"select pushq.retire_days('{keep}')")


async def test_of_two_who_insert_a_key_at_once_one_waits_and_leaves_it(
    database_url: str, connection: Connection
) -> None:
    key = "insert into pushq.jobs (task, unique_key) values ('a', 'k') on conflict do nothing"
    other = await asyncpg.connect(database_url)
    for end, expected in (("rollback", "INSERT 0 1"), ("commit", "INSERT 0 0")):
        await connection.execute("begin")
        await connection.execute("delete from pushq.jobs")
        await connection.execute(key)
        waiting = asyncio.ensure_future(other.execute(key))
        await eventually(lambda: _somebody_waits(connection))
        await connection.execute(end)
        assert await waiting == expected
    assert await count(connection) == 1
    await other.close()


async def _somebody_waits(connection: Connection) -> bool:
    return bool(
        await connection.fetchval(
            "select exists (select from pg_locks join pg_stat_activity using (pid) "
            "where datname = current_database() and not granted)"
        )
    )


@pytest.fixture
async def producer(connection: Connection) -> AsyncIterator[str]:
    """A role with what the contract says a producer needs, and nothing else."""
    async with granted(connection) as roles:
        yield roles.producer


async def test_a_producer_needs_nothing_but_its_columns(
    database_url: str, connection: Connection, producer: str
) -> None:
    async with hearing(database_url) as ear:
        await open_gate(connection)
        await connection.execute(f"set role {producer}")
        assert await connection.fetchval("insert into pushq.jobs (task, payload) values ('a', '{}') returning id")
        assert await ear.take() == ["default"]

        key = "insert into pushq.jobs (task, unique_key) values ('a', 'k') on conflict do nothing"
        assert await connection.execute(key) == "INSERT 0 1"
        assert await connection.execute(key) == "INSERT 0 0"
        assert await ear.take() == ["default"]

        every = (
            "id, task, payload, queue, priority, run_at, max_attempts, timeout, tenant_id, correlation_id, submitted_by"
        )
        await connection.execute(
            f"insert into pushq.jobs ({every}) "
            "values (gen_random_uuid(), 'a', '{}', 'other', 1, now(), 1, '1 s', 't', 'c', 's')"
        )
        assert await ear.take() == []


async def test_a_producer_can_do_nothing_but_insert(connection: Connection, producer: str) -> None:
    await insert(connection, "a")
    await connection.execute(f"set role {producer}")
    for forbidden in (
        "insert into pushq.jobs (task, status) values ('a', 'queued')",
        "insert into pushq.jobs (task, attempt) values ('a', 0)",
        "insert into pushq.jobs (task, failures) values ('a', 0)",
        "insert into pushq.jobs (task, token) values ('a', null)",
        "insert into pushq.jobs (task, enqueued_at) values ('a', now())",
        "insert into pushq.jobs (task, finished_on) values ('a', 'infinity')",
        "insert into pushq.jobs_unfinished (task) values ('a')",
        "insert into pushq.jobs (task) values ('a') returning payload",
        "insert into pushq.jobs (task) values ('a') on conflict (id) do update set task = 'b'",
        "select payload from pushq.jobs",
        "select * from pushq.jobs",
        "select id from pushq.jobs_unfinished",
        "update pushq.jobs set task = 'b'",
        "update pushq.jobs set attempt = 0",
        "delete from pushq.jobs",
        "delete from pushq.jobs_unfinished",
        "truncate pushq.jobs",
        "select * from pushq.supervisors",
        "select setval(pushq.gate('default'), 0)",
        "select pushq.cancel(gen_random_uuid())",
        "select pushq.retry(gen_random_uuid())",
        "select pushq.pause('default')",
        "create table pushq.mine ()",
    ):
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.InvalidColumnReferenceError)):
            await connection.execute(forbidden)


@pytest.mark.parametrize("call", ["pushq.make_days(400)", "pushq.retire_days('-400 days')"])
async def test_a_producer_cannot_make_or_empty_days(connection: Connection, producer: str, call: str) -> None:
    """These run with their owner's rights: whoever may call them may drop history."""
    await connection.execute(f"set role {producer}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(f"select {call}")


async def test_an_insert_of_many_rows_rings_once_a_queue_that_is_idle(
    database_url: str, connection: Connection
) -> None:
    async with hearing(database_url) as ear:
        many = "insert into pushq.jobs (task, queue) select 'a', (array['default', 'mail'])[1 + i % 2] "
        many += "from generate_series(1, 1000) as i"
        await connection.execute(many)
        assert await ear.take() == []
        await open_gate(connection)
        await connection.execute(many)
        assert await ear.take() == ["default"]
        await open_gate(connection, "mail")
        await connection.execute(many)
        assert sorted(await ear.take()) == ["default", "mail"]


async def test_an_insert_for_very_many_queues_rings_for_everybody_and_fills_nobody_s_notification_queue(
    database_url: str, connection: Connection
) -> None:
    await connection.execute(
        "select setval(gate, pushq.gate_clock() + 60000) from (select distinct gate from "
        "(select pushq.gate(i::text) as gate from generate_series(1, 5000) as i) as gates) as gates"
    )
    async with hearing(database_url) as ear:
        many = "insert into pushq.jobs (task, queue) select 'a', 'q' || i from generate_series($1::int, $2::int) as i"
        await connection.execute(many, 1, 64)
        assert sorted(await ear.take()) == sorted(f"q{i}" for i in range(1, 65))
        await connection.execute(many, 1, 5000)
        assert await ear.take() == [*(f"q{i}" for i in range(1, 65)), ""]
        async with connection.transaction():
            with suppress(asyncpg.DivisionByZeroError):
                async with connection.transaction():
                    await connection.execute(many, 7, 7)
                    await connection.execute("select 1 / 0")
            await connection.execute(many, 7, 7)
        assert await ear.take() == ["q7"], "what a savepoint took back is rung for again"


@pytest.mark.parametrize("queue", ["\U0001f4a9" * 200, "\n", "'\"\\%s{}\n\x1b;--"])
async def test_an_insert_rings_with_the_name_of_its_queue_whatever_that_is_and_with_nothing_else(
    database_url: str, connection: Connection, queue: str
) -> None:
    async with hearing(database_url) as ear:
        await open_gate(connection, queue)
        await insert(
            connection, "secret", queue=queue, payload={"card": "4111"}, tenant_id="acme", unique_key="k", priority=7
        )
        assert await ear.take() == [queue]


async def test_an_insert_that_is_rolled_back_rings_for_nobody(database_url: str, connection: Connection) -> None:
    async with hearing(database_url) as ear:
        await open_gate(connection)
        await connection.execute("begin; insert into pushq.jobs (task) values ('a'); rollback")
        assert await ear.take() == []


HOSTILE = """
create schema evil;
create table evil.calls (name text);
create function evil.pg_notify(text, text) returns void language plpgsql as 'begin raise ''pg_notify''; end';
create function evil.now() returns timestamptz language plpgsql as 'begin raise ''now''; end';
create function evil.clock_timestamp() returns timestamptz language plpgsql as 'begin raise ''clock''; end';
create function evil.hashtext(text) returns int language plpgsql as 'begin raise ''hashtext''; end';
create function evil.length(text) returns int language plpgsql as 'begin raise ''length''; end';
create function evil.current_setting(text, boolean) returns text language plpgsql as 'begin raise ''setting''; end';
create function evil.pg_notification_queue_usage() returns float8 language plpgsql as 'begin raise ''usage''; end';
create function evil.pg_sequence_last_value(regclass) returns bigint language plpgsql as 'begin raise ''last''; end';
create function evil.texts(text, text) returns boolean language plpgsql as 'begin raise ''= of texts''; end';
create function evil.bigints(bigint, bigint) returns boolean language plpgsql as 'begin raise ''> of bigints''; end';
create function evil.floats(float8, numeric) returns boolean language plpgsql as 'begin raise ''>= of floats''; end';
create operator evil.= (leftarg = text, rightarg = text, function = evil.texts);
create operator evil.> (leftarg = bigint, rightarg = bigint, function = evil.bigints);
create operator evil.>= (leftarg = float8, rightarg = numeric, function = evil.floats);
set search_path = evil, pg_catalog;
"""


async def test_nothing_in_a_producer_s_search_path_is_called_by_an_insert(
    database_url: str, connection: Connection
) -> None:
    async with hearing(database_url) as ear:
        await open_gate(connection)
        await connection.execute(HOSTILE)
        with pytest.raises(asyncpg.PostgresError, match="now"):
            await connection.execute("select now()")  # the trap is set
        await connection.execute("insert into pushq.jobs (task) values ('a')")
        assert await ear.take() == ["default"]


async def test_a_session_that_replays_rings_too(database_url: str, connection: Connection) -> None:
    async with hearing(database_url) as ear:
        await open_gate(connection)
        await connection.execute("set session_replication_role = replica")
        await connection.execute("insert into pushq.jobs (task) values ('a')")
        assert await ear.take() == ["default"]


async def test_a_two_phase_commit_goes_through_in_silence_and_is_rung_for_by_hand(
    database_url: str, connection: Connection
) -> None:
    async with hearing(database_url) as ear:
        await open_gate(connection)
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="NOTIFY"):
            await connection.execute("begin; insert into pushq.jobs (task) values ('a'); prepare transaction 'loud'")
        await connection.execute("rollback")
        await connection.execute(
            "begin; set local pushq.notify = 'off'; insert into pushq.jobs (task) values ('a');"
            "prepare transaction 'quiet'"
        )
        await connection.execute("commit prepared 'quiet'")
        assert await ear.take() == []
        assert await count(connection) == 1
        assert await connection.fetchval("select pushq.ring('default')") == "rung"
        assert await ear.take() == ["default"]


# Days ---------------------------------------------------------------------------------------------------------------


async def today_of(connection: Connection) -> date:
    today: date = await connection.fetchval("select pushq.utc_today()")
    return today


async def make_day(connection: Connection, day: date) -> None:
    """A day in the past, as make_days made it then."""
    table = f"pushq.jobs_{day:%Y_%m_%d}"
    await connection.execute(
        f"create table {table} (like pushq.jobs including defaults including constraints);"
        f"alter table pushq.jobs attach partition {table} for values from ('{day}') to ('{day + timedelta(1)}');"
        f"insert into pushq.days (day) values ('{day}')"
    )


async def drop_day(connection: Connection, day: date) -> None:
    table = f"pushq.jobs_{day:%Y_%m_%d}"
    await connection.execute(
        f"alter table pushq.jobs detach partition {table}; drop table {table};"
        f"delete from pushq.days where day = '{day}'"
    )


async def finish_one_on(connection: Connection, day: date) -> None:
    await connection.execute(
        "insert into pushq.jobs (task, status, finished_on, finished_at) values ('a', 'succeeded', $1, now())", day
    )


async def retire(connection: Connection, keep: timedelta) -> list[date]:
    return [row["day"] for row in await connection.fetch("select day from pushq.retire_days($1)", keep)]


async def days_of(connection: Connection) -> list[date]:
    return [row["day"] for row in await connection.fetch("select day from pushq.days order by day")]


async def test_today_and_three_more_days_are_there_from_the_beginning(connection: Connection) -> None:
    today = await today_of(connection)
    assert await days_of(connection) == [today + timedelta(ahead) for ahead in range(4)]


async def test_days_are_made_once_however_often_and_by_how_many(database_url: str, connection: Connection) -> None:
    assert await connection.fetch("select pushq.make_days()") == []
    many = await asyncio.gather(*(asyncpg.connect(database_url) for _ in range(8)))
    made = await asyncio.gather(*(one.fetch("select pushq.make_days(20) as day") for one in many))
    await asyncio.gather(*(one.close() for one in many))

    days = [row["day"] for rows in made for row in rows]
    today = await today_of(connection)
    assert sorted(days) == [today + timedelta(ahead) for ahead in range(4, 21)]
    assert await connection.fetch("select pushq.make_days(20)") == []


async def test_a_day_that_is_missing_in_between_is_made(connection: Connection) -> None:
    missing = await today_of(connection) + timedelta(1)
    await drop_day(connection, missing)
    assert [row["day"] for row in await connection.fetch("select pushq.make_days() as day")] == [missing]


async def test_making_days_waits_for_no_open_insert_and_holds_none_up(
    database_url: str, connection: Connection
) -> None:
    producer = await asyncpg.connect(database_url)
    await producer.execute("begin; insert into pushq.jobs (task) values ('a')")
    await connection.execute("set lock_timeout = '5s'")
    await connection.execute("begin")
    assert len(await connection.fetch("select pushq.make_days(4)")) == 1
    await producer.execute("set lock_timeout = '5s'; insert into pushq.jobs (task) values ('a'); commit")
    await connection.execute("commit")
    await producer.close()


@pytest.mark.parametrize("left", [3, -3], ids=["only_later_days", "only_earlier_days"])
async def test_a_job_finishes_though_there_is_no_day_of_today(connection: Connection, left: int) -> None:
    today = await today_of(connection)
    expected = today + timedelta(left)
    if left < 0:
        await make_day(connection, expected)
    for day in await days_of(connection):
        if day != expected:
            await drop_day(connection, day)
    await insert(connection, "a")

    assert await connection.fetchval("select pushq.cancel(id) from pushq.jobs_unfinished") == "cancelled"
    assert await connection.fetchval("select finished_on from pushq.jobs") == expected


async def test_a_day_is_emptied_when_its_successor_is_older_than_retention_and_is_left_to_be_dropped(
    connection: Connection,
) -> None:
    today = await today_of(connection)
    old = [today - timedelta(ago) for ago in (12, 11, 10, 9, 8, 7, 1)]
    for day in old:
        await make_day(connection, day)
        await finish_one_on(connection, day)
    before = await days_of(connection)

    # The day a week ago has only just begun to be older than a week: the rows of the day before it are all older.
    assert await retire(connection, timedelta(days=7)) == old[:5]
    rows = await connection.fetch("select finished_on from pushq.jobs order by finished_on")
    assert [row["finished_on"] for row in rows] == old[5:]
    assert await days_of(connection) == before
    assert await connection.fetchval("select to_regclass($1) is not null", f"pushq.jobs_{old[0]:%Y_%m_%d}")
    assert await retire(connection, timedelta(days=7)) == []


async def test_a_day_far_behind_keeps_its_rows_until_its_successor_is_old(connection: Connection) -> None:
    """While today's was missing, this day took the rows that were finished since."""
    today = await today_of(connection)
    behind = today - timedelta(30)
    await make_day(connection, behind)
    await finish_one_on(connection, behind)

    assert await retire(connection, timedelta(days=7)) == []
    await make_day(connection, today - timedelta(6))
    assert await retire(connection, timedelta(days=7)) == []
    assert await count(connection) == 1
    await make_day(connection, today - timedelta(8))
    assert await retire(connection, timedelta(days=7)) == [behind]
    assert await count(connection) == 0


async def test_a_day_that_somebody_reads_is_left_for_the_next_time(database_url: str, connection: Connection) -> None:
    today = await today_of(connection)
    old = [today - timedelta(ago) for ago in (12, 11, 10)]
    for day in old:
        await make_day(connection, day)
    reader = await asyncpg.connect(database_url)
    await reader.execute("begin")
    await reader.execute(f"select from pushq.jobs_{old[0]:%Y_%m_%d}")

    assert await retire(connection, timedelta(days=7)) == [old[1]]
    await reader.execute("commit")
    await reader.close()
    assert await retire(connection, timedelta(days=7)) == [old[0]]


async def test_a_retired_day_takes_no_more_rows(connection: Connection) -> None:
    """Else what finishes now would be dropped with it."""
    today = await today_of(connection)
    for day in await days_of(connection):
        if day < today + timedelta(3):
            await drop_day(connection, day)
    await make_day(connection, today - timedelta(20))
    await make_day(connection, today - timedelta(19))
    await retire(connection, timedelta(days=7))
    await insert(connection, "a")
    await connection.execute("select pushq.cancel(id) from pushq.jobs_unfinished")

    assert await connection.fetchval("select finished_on from pushq.jobs") == today - timedelta(19)


async def test_everything_that_pushq_keeps_survives_a_crash(connection: Connection) -> None:
    """Nothing is unlogged: a crash would empty it."""
    kept = await connection.fetch(
        "select relkind, relpersistence from pg_class where relnamespace = 'pushq'::regnamespace"
    )
    assert {row["relpersistence"] for row in kept} == {b"p"}
    assert {row["relkind"] for row in kept} >= {b"r", b"p", b"i", b"S"}


async def test_pushq_survives_a_dump(connection: Connection) -> None:
    """The triggers, with a condition, and the rules can be written out and read again."""
    for name in ("zz_check_state", "zz_check_job", "jobs_ring_the_bell"):
        definition = await connection.fetchval("select pg_get_triggerdef(oid) from pg_trigger where tgname = $1", name)
        await connection.execute(f"drop trigger {name} on pushq.jobs_unfinished")
        await connection.execute(definition)
    await connection.execute(await connection.fetchval("select pg_get_functiondef('pushq.broken_rule'::regproc)"))


# Numbers ------------------------------------------------------------------------------------------------------------

LONG = {
    "in few bytes each": "(select jsonb_agg('1e131071'::numeric) from generate_series(1, 100))",
    "close to zero": "(select jsonb_agg('1e-16383'::numeric) from generate_series(1, 3000))",
    "negative, and deep": "(select jsonb_object_agg(i, jsonb_build_array('-1e131071'::numeric)) "
    "from generate_series(1, 300) as i)",
    "over a gigabyte as text, which no PostgreSQL can write": "(select jsonb_agg('1e131071'::numeric) "
    "from generate_series(1, 9000))",
    "behind many that are short": "(select jsonb_agg(case when i > 30000 then '1e131071'::numeric else i end) "
    "from generate_series(1, 30300) as i)",
}
ORDINARY = {
    "a modulus of 16,384 bits": "1" + "0" * 4931,
    "the largest doubles": str([1.7976931348623157e308] * 2000),
    "the smallest doubles": str([5e-324] * 2000),
    "one enormous number": "1e131071",
    "escapes": '"' + "\\u0001" * 150_000 + '"',
    "many small integers": str(list(range(60_000))),
}


@pytest.mark.parametrize("numbers", LONG.values(), ids=LONG.keys())
async def test_numbers_of_so_many_digits_that_their_text_is_a_burden_are_marked_at_the_insert(
    connection: Connection, numbers: str
) -> None:
    insert = f"insert into pushq.jobs (task, payload) select 'a', jsonb_build_object('a', {numbers})"
    assert await connection.fetchval(f"{insert} returning payload_is_too_long") is True
    assert (
        await connection.fetchval("update pushq.jobs_unfinished set payload = '{}' returning payload_is_too_long")
        is None
    )


@pytest.mark.parametrize("value", ORDINARY.values(), ids=ORDINARY.keys())
async def test_ordinary_numbers_are_not_marked(connection: Connection, value: str) -> None:
    insert = "insert into pushq.jobs (task, payload) values ('a', $1) returning payload_is_too_long"
    assert await connection.fetchval(insert, f'{{"a": {value}}}') is None
