"""Guarantee 10: no row that a producer may insert can stop other rows, nor can what its handler returns or raises."""

from __future__ import annotations

import json
import math
import os
import re
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pushq.database.session import Session
from pushq.sweeper import Sweeper
from tests.support.jobs import Connection, count, die_with_them, finished, has_count, insert
from tests.support.roles import granted
from tests.support.store import Store
from tests.support.supervisors import supervising
from tests.support.waiting import eventually

T = TypeVar("T")

# Rows ---------------------------------------------------------------------------------------------------------------


class Fate(StrEnum):
    ENDS = "ends"
    WAITS = "waits"
    """For its time, or for somebody who serves its queue or knows its task."""
    IS_NO_JSON = "is no JSON"


@dataclass(frozen=True)
class Hostile:
    """A row of the task echo with a `column` that SQL says. A fate that is no Fate is the rule that refuses it."""

    column: str
    value: str
    fate: str


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


TEXTS = (
    *["''", "repeat('x', 201)", "repeat('x', 10000000)", "repeat('x', 200)", "repeat(U&'\\+01F4A9', 200)", "' '"],
    literal("".join(map(chr, range(1, 32))) + "\x7f\x80\x9f"),
    literal("\x1b]0;title\x07\x1b[2J\r\nlevel=error forged=true"),
    literal("\u202e\u2066\u200b\ufeff\ufffe\uffff\U0010ffff"),
    literal("%s %(name)s {0} ${name} \\ \" '; drop table pushq.jobs; --"),
)
TEXT_COLUMNS = {
    "task": Fate.WAITS,
    "queue": Fate.WAITS,
    "unique_key": Fate.ENDS,
    "tenant_id": Fate.ENDS,
    "correlation_id": Fate.ENDS,
    "submitted_by": Fate.ENDS,
}


def text_fate(column: str, value: str) -> str:
    has_1_to_200 = value not in TEXTS[:3]
    return TEXT_COLUMNS[column] if has_1_to_200 else f"jobs_{column}_has_1_to_200_characters"


PAYLOADS = {
    **dict.fromkeys(["null", "true", "7", '"text"', "[]", "[{}]"], "jobs_payload_is_object"),
    **dict.fromkeys(['{"a": "\\u0000"}', '{"\\u0000": 1}', '{"a": "\\ud800"}', '{"\\udfff": 1}'], Fate.IS_NO_JSON),
    '{"a": "' + "x" * 1_048_576 + '"}': "jobs_payload_is_at_most_1_mib",
    **dict.fromkeys(
        [
            '{"a": ' + "[" * 900 + "]" * 900 + "}",
            '{"a":' * 900 + "1" + "}" * 900,
            '{"a": ' + "[" * 5000 + "]" * 5000 + "}",
            '{"a": ' + "1" * 4300 + "}",
            '{"a": -' + "1" * 4301 + "}",
            '{"a": ' + "9" * 131_072 + "}",
            '{"a": 1e400, "b": -1e131071}',
            '{"a": 0.' + "1" * 16_383 + "}",
            '{"a": "\\\\u0000", "b": "\\\\ud800", "\\ud83d\\ude00": "\\u007f\\uffff"}',
            '{"": 1, " ": 2, "self": 3, "payload": 4, "argument_0": 5, "model_config": 6, "__class__": 7, "%s": 8}',
            '{"__pydantic_extra__": {}, "model_fields_set": [], "__dict__": {}, "__init__": null, "args": 1}',
            json.dumps({f"key {number}": number for number in range(20_000)}),
            json.dumps({"a": list(range(50_000))}),
            '{"a": "' + "\\u0001" * 300_000 + '"}',
        ],
        Fate.ENDS,
    ),
}

ROWS = [
    *[
        Hostile(column, "null", f"{column} is null")
        for column in ("id", "task", "payload", "queue", "priority", "run_at", "submitted_by")
    ],
    *[Hostile(column, value, text_fate(column, value)) for column in TEXT_COLUMNS for value in TEXTS],
    *[Hostile(column, "null", Fate.ENDS) for column in ("unique_key", "tenant_id", "correlation_id")],
    *[Hostile("payload", literal(payload), fate) for payload, fate in PAYLOADS.items()],
    *[Hostile("id", literal(str(UUID(int=number))), Fate.ENDS) for number in (0, 2**128 - 1)],
    Hostile("id", "{canary}", "jobs_unfinished_id_is_unique"),
    *[Hostile("priority", value, Fate.ENDS) for value in ("-32768", "32767")],
    *[
        Hostile("run_at", literal(value), "jobs_run_at_is_between_1970_and_9999")
        for value in ("-infinity", "infinity", "4714-11-24 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00")
    ],
    Hostile("run_at", "'1970-01-01 00:00:00+00'", Fate.ENDS),
    Hostile("run_at", "'9998-12-31 23:59:59.999999+00'", Fate.WAITS),
    *[
        Hostile("max_attempts", value, "jobs_max_attempts_is_1_to_10000")
        for value in ("-2147483648", "-1", "0", "10001", "2147483647")
    ],
    *[Hostile("max_attempts", value, Fate.ENDS) for value in ("1", "10000", "null")],
    *[
        Hostile("timeout", literal(value), "jobs_timeout_is_positive_and_at_most_a_year")
        for value in (
            *["0", "-1 microsecond", "1 year 1 microsecond", "366 days", "-178000000 years", "178000000 years"],
            *["1 year -360 days", "-9223372036854775808 microseconds"],
        )
    ],
    # The last three are more than nothing as PostgreSQL compares them; as seconds the first of them is less.
    *[
        Hostile("timeout", literal(value), Fate.ENDS)
        for value in (
            "1 year",
            "1 microsecond",
            "-1 year 361 days",
            "-11 months 331 days",
            "1 year -360 days 1 microsecond",
        )
    ],
]


@pytest.fixture
async def producer(connection: Connection) -> AsyncIterator[str]:
    """A role that may insert, and nothing else."""
    async with granted(connection) as roles:
        yield roles.producer


async def insert_beside_a_canary(app: Connection, row: Hostile) -> tuple[UUID | None, UUID]:
    """Their ids: None for a row that was refused, as it should be. They come in one transaction, and one claim."""
    async with app.transaction():
        (canary,) = await insert(app, "echo", payload={})
        value = row.value.replace("{canary}", f"'{canary}'") if row.column == "id" else row.value
        columns = {"task": "'echo'", "max_attempts": "1"} | {row.column: value}
        statement = f"insert into pushq.jobs ({', '.join(columns)}) values ({', '.join(columns.values())}) returning id"
        if row.fate in (Fate.ENDS, Fate.WAITS):
            return await app.fetchval(statement), canary
        with pytest.raises((asyncpg.IntegrityConstraintViolationError, asyncpg.DataError)) as refusal:
            async with app.transaction():
                await app.execute(statement)
        assert rule_of(refusal.value) == row.fate
        return None, canary


def rule_of(refusal: Any) -> str:
    if isinstance(refusal, asyncpg.DataError):
        return Fate.IS_NO_JSON
    if isinstance(refusal, asyncpg.NotNullViolationError):
        return f"{refusal.column_name} is null"
    return str(refusal.constraint_name)


async def test_whatever_a_producer_inserts_is_refused_by_a_rule_or_ends_or_waits_and_the_job_beside_it_succeeds(
    database_url: str, connection: Connection, producer: str
) -> None:
    app = await asyncpg.connect(database_url)
    await app.execute(f"set role {producer}")
    jobs: dict[UUID, Hostile] = {}
    with supervising(database_url) as supervisor:
        pools = supervisor.pools
        for _, rows in groupby(ROWS, key=lambda row: row.column):
            canaries = []
            for row in rows:
                job, canary = await insert_beside_a_canary(app, row)
                canaries.append(canary)
                if job is not None:
                    jobs[job] = row
            ended = await finished(connection, *canaries)
            assert {(row["status"], row["attempt"]) for row in ended} == {("succeeded", 1)}
        await finished(connection, *(job for job, row in jobs.items() if row.fate == Fate.ENDS))
        assert supervisor.pools == pools
    await app.close()

    for stored in await connection.fetch("select * from pushq.jobs where id = any($1)", list(jobs)):
        hostile = jobs[stored["id"]]
        assert (stored["status"] == "queued") == (hostile.fate == Fate.WAITS), hostile
        assert stored["attempt"] == (0 if hostile.fate == Fate.WAITS else 1), hostile


async def test_whatever_a_producer_inserts_is_requeued_in_one_sweep_when_its_process_dies_and_fails_the_third_time(
    database_url: str, connection: Connection
) -> None:
    hostile = [row for row in ROWS if row.fate in (Fate.ENDS, Fate.WAITS)]
    for row in hostile:
        await insert_beside_a_canary(connection, row)
    session = Session(database_url, "test")
    sweeper = Sweeper(Store(session), retention=604800)
    jobs = 2 * len(hostile)

    for crashes in (1, 2):
        await die_with_them(connection)
        await sweeper.observe()
        assert (await sweeper.sweep()).requeued == jobs
        assert await count(connection, f"status = 'queued' and crashes = {crashes} and attempt = {crashes}") == jobs
    await die_with_them(connection)
    await sweeper.observe()
    assert (await sweeper.sweep()).failed == jobs
    assert await count(connection, "status = 'failed' and crashes = 3 and failures = 0") == jobs
    await session.close()


# What handlers return and raise -------------------------------------------------------------------------------------

any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=100)
any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | any_text
    | st.sampled_from(["a\x00b", "\ud800", math.nan]),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(any_text, values, max_size=4),
    max_leaves=8,
)
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def examples(strategy: st.SearchStrategy[T], number: int) -> list[T]:
    """What Hypothesis would try one after the other, to be tried at once. The same each time."""
    found: list[T] = []

    @settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def note(value: T) -> None:
        found.append(value)

    note()
    return found


async def insert_texts(connection: Connection, task: str, values: Sequence[object]) -> list[UUID]:
    """A job a value, which travels as JSON in the text of a payload: so NaN, NUL and lone surrogates do, too."""
    ids = [uuid4() for _ in values]
    await connection.execute(
        "insert into pushq.jobs (id, task, payload) "
        "select id, $1, jsonb_build_object('text', value) from unnest($2::uuid[], $3::text[]) as one (id, value)",
        task,
        ids,
        [json.dumps(value) for value in values],
    )
    return ids


def is_storable(value: object) -> bool:
    match value:
        case str():
            return not UNSTORABLE.search(value)
        case float():
            return math.isfinite(value)
        case list():
            return all(map(is_storable, value))
        case dict():
            return all(map(is_storable, [*value, *value.values()]))
        case _:
            return True


def as_numeric(text: str) -> object:
    """JSON as jsonb sees it: 1e3 and 1000 are the same number."""
    return json.loads(text, parse_int=Decimal, parse_float=Decimal)


async def test_an_error_s_text_is_stored_whatever_its_characters(database_url: str, connection: Connection) -> None:
    texts = examples(any_text, 400)
    with supervising(database_url) as supervisor:
        pools = supervisor.pools
        rows = await finished(connection, *await insert_texts(connection, "raise.text", texts))
        assert supervisor.pools == pools

    assert sum(bool(UNSTORABLE.search(text)) for text in texts) > 5
    for text, row in zip(texts, rows, strict=True):
        shown = UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)
        assert row["error"] == (f"ValueError: {shown}" if text else "ValueError")
        assert (row["status"], row["attempt"]) == ("failed", 1)


async def test_a_result_is_stored_as_it_is_or_fails_its_own_job_alone(
    database_url: str, connection: Connection
) -> None:
    values = examples(any_json, 300)
    with supervising(database_url) as supervisor:
        pools = supervisor.pools
        rows = await finished(connection, *await insert_texts(connection, "result.text", values))
        assert supervisor.pools == pools

    assert 20 < sum(map(is_storable, values)) < 280
    for value, row in zip(values, rows, strict=True):
        assert row["attempt"] == 1
        if is_storable(value):
            assert row["status"] == "succeeded"
            assert as_numeric(row["result"] or "null") == as_numeric(json.dumps(value))
        else:
            assert (row["status"], row["result"]) == ("failed", None)
            assert row["error"].startswith("ResultError: the work is done, but its result cannot be stored: ")


async def test_what_is_too_long_or_cannot_be_said_ends_its_own_job_alone(
    database_url: str, connection: Connection
) -> None:
    mib = 1024 * 1024
    with supervising(database_url) as supervisor:
        pools = supervisor.pools
        async with connection.transaction():
            (unsayable,) = await insert(connection, "raise.unsayable")
            (endless,) = await insert(connection, "raise.long", payload={"characters": 100 * mib})
            too_large = await insert(connection, "result.long", 20, payload={"characters": 2 * mib})
            largest = await insert(connection, "result.long", 20, payload={"characters": mib - 2})
            canaries = await insert(connection, "echo", 100)
        rows = await finished(connection, unsayable, endless, *too_large, *largest, *canaries)
        assert supervisor.pools == pools

    assert {(row["crashes"], row["failures"] > 0) for row in rows} == {(0, False), (0, True)}
    assert rows[0]["error"].endswith("Unsayable: (its message cannot be shown: RuntimeError)")
    assert rows[1]["error"] == "ValueError: " + "x" * (10_000 - 12 - 7) + "… (cut)"
    assert {row["status"] for row in rows[:22]} == {"failed"}
    assert {row["error"].rpartition(": ")[2] for row in rows[2:22]} == {"2,097,154 bytes is over 1 MiB"}
    assert {row["status"] for row in rows[22:]} == {"succeeded"}
    assert {len(row["result"]) for row in rows[22:42]} == {mib}


# Rows that a claim cannot take ----------------------------------------------------------------------------------------

ONE_AT_A_TIME = """
create function public.refuse_several() returns trigger language plpgsql as $$ begin
    if (select count(*) from taken where status = 'running' and task = 'measure') > 1 then
        raise sqlstate '57014' using message = 'canceling statement due to statement timeout';
    end if;
    return null;
end $$;
create trigger refuse_several after update on pushq.jobs_unfinished referencing new table as taken
    for each statement execute function public.refuse_several();
"""


async def test_rows_that_take_too_long_together_are_claimed_one_by_one(
    database_url: str, connection: Connection
) -> None:
    """As rows may whose numbers have very many digits; a claim of eight is tried, then of four, of two, of one."""
    await connection.execute(ONE_AT_A_TIME)
    jobs = await insert(connection, "measure", 8, payload={"text": "x"})
    with supervising(database_url, "--concurrency", "8"):
        rows = await finished(connection, *jobs)

    assert {(row["status"], row["attempt"]) for row in rows} == {("succeeded", 1)}


async def test_a_count_at_its_end_stays_there_and_holds_up_nobody(database_url: str, connection: Connection) -> None:
    jobs = await insert(connection, "echo", 3, payload={})
    await connection.execute("update pushq.jobs_unfinished set attempt = 2147483647")
    await connection.execute("update pushq.jobs_unfinished set crashes = 2 where id = $1", jobs[0])
    with supervising(database_url) as supervisor:
        rows = await finished(connection, *jobs)
        assert "pool died" not in supervisor.said

    assert {(row["status"], row["attempt"]) for row in rows} == {("succeeded", 2147483647)}


# Size ---------------------------------------------------------------------------------------------------------------


def peak_of(pid: int) -> int:
    """The most memory that a process has had, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) // 1024


async def test_large_payloads_do_not_pile_up_in_a_pool_however_well_they_compress(
    database_url: str, connection: Connection
) -> None:
    """Behind quick jobs, for which a pool claims far ahead. As JSON text each of the large ones has 6 MB."""
    with supervising(database_url) as supervisor:
        await finished(connection, *await insert(connection, "measure", payload={"text": "warm"}))
        (pool,) = supervisor.pools
        before = peak_of(pool)
        async with connection.transaction():
            await insert(connection, "echo", 3000)
            await connection.execute(
                "insert into pushq.jobs (task, payload, priority) "
                "select 'measure', jsonb_build_object('text', repeat(E'\\x01', 1000000)), 1 from generate_series(1, 30)"
            )
        await has_count(connection, 30, "status = 'succeeded' and result = '1000000'", within=40)
        assert supervisor.pools == [pool]
        assert peak_of(pool) - before < 100


# Tasks that somebody does not know ----------------------------------------------------------------------------------


async def test_jobs_of_a_task_that_only_a_newer_supervisor_knows_wait_unspent_and_start_as_soon_as_it_is_there(
    database_url: str, connection: Connection
) -> None:
    """However many, and without any sweep."""
    with supervising(database_url, SWEEP_INTERVAL="3600") as older:
        newcomers = await insert(connection, "newcomer", 20_000)
        await finished(connection, *await insert(connection, "echo"))
        assert await count(connection, "task = 'newcomer' and status = 'queued' and attempt = 0") == 20_000
        with supervising(database_url, tasks="tests.support.handlers:newer_tasks", ready=True, SWEEP_INTERVAL="3600"):
            rows = await finished(connection, *newcomers[:100], within=5)
        assert "died" not in older.said

    assert {(row["status"], row["attempt"]) for row in rows} == {("succeeded", 1)}


async def test_a_supervisor_that_was_declared_dead_and_lives_again_is_known_for_its_tasks_again(
    database_url: str, connection: Connection
) -> None:
    quick = {"HEARTBEAT_INTERVAL": "0.2", "LEASE": "0.6", "SWEEP_INTERVAL": "0.2"}
    knows = "exists (select from pushq.supervisors where 'newcomer' = any(tasks) and 'default' = any(queues))"

    async def is_known() -> bool:
        return bool(await connection.fetchval(f"select {knows}"))

    async def is_forgotten() -> bool:
        return not await is_known()

    newer = "tests.support.handlers:newer_tasks"
    with (
        supervising(database_url, ready=True, **quick),
        supervising(database_url, tasks=newer, ready=True, **quick) as frozen,
    ):
        assert await is_known()
        os.killpg(frozen.process.pid, signal.SIGSTOP)
        await eventually(is_forgotten)
        os.killpg(frozen.process.pid, signal.SIGCONT)
        await eventually(is_known)


async def test_small_payloads_with_very_long_numbers_do_not_pile_up_in_a_pool(
    database_url: str, connection: Connection
) -> None:
    """Each takes 6 KB in the table, and 50 MB as text."""
    await connection.execute(
        "insert into pushq.jobs (task, payload) "
        "select 'echo', (select jsonb_build_object('a', jsonb_agg('1e131071'::numeric)) from generate_series(1, 400)) "
        "from generate_series(1, 8)"
    )
    with supervising(database_url, "--concurrency", "8") as supervisor:
        await has_count(connection, 8, "status = 'failed' and attempt = 1", within=60)
        assert peak_of(supervisor.pools[0]) < 400

    cannot_be_read = "error like 'PayloadError: The payload of task ''echo'' cannot be read: %'"
    assert await count(connection, cannot_be_read) == 8
