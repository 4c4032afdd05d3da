"""A change by hand says whether it happened, and happens only to a job with the expected status."""

from __future__ import annotations

import asyncio
import re
import time
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from pushq.job import TRANSITIONS, Status
from tests.support.claiming import Claiming
from tests.support.commands import invoke
from tests.support.jobs import Connection, finished, has_count, insert
from tests.support.supervisors import ROOT, supervising

RUNNING = "status = 'running', attempt = 1, supervisor = 's', pool = 1, token = gen_random_uuid(), started_at = now()"
MADE_BY_CHANGE = {
    ("queued", "cancelled"),
    ("running", "queued"),
    ("running", "cancelled"),
    ("succeeded", "queued"),
    ("failed", "queued"),
    ("cancelled", "queued"),
}


async def a_job(connection: Connection, status: str) -> UUID:
    """A job with the status, that no supervisor knows of."""
    (job,) = await insert(connection, "nobody knows it")
    if status in ("running", "succeeded", "failed"):
        await connection.execute(f"update pushq.jobs set {RUNNING} where id = $1", job)
    if Status(status).is_finished:
        await connection.execute(
            "select pushq.end_jobs(array[$1::uuid], array[token], null, null, array[$2], array['Error'], null, null) "
            "from pushq.jobs where id = $1",
            job,
            status,
        )
    assert await status_of(connection, job) == status
    return job


async def status_of(connection: Connection, job: UUID) -> Any:
    return await connection.fetchval("select status from pushq.jobs where id = $1", job)


# One table ----------------------------------------------------------------------------------------------------------


async def test_the_database_the_program_and_the_page_have_one_table_of_transitions(connection: Connection) -> None:
    rows = await connection.fetch("select was, becomes, made_by from pushq.transitions()")
    there = {(row["was"], row["becomes"]): tuple(row["made_by"]) for row in rows}
    page = (ROOT / "docs" / "reference" / "jobs.md").read_text()
    drawn = re.findall(r"^    (\w+) --> (\w+): ([\w, ]+)$", page, re.MULTILINE)

    assert there.keys() == {(before, after) for before, afters in TRANSITIONS.items() for after in afters}
    assert there == {(was, becomes): tuple(made_by.split(", ")) for was, becomes, made_by in drawn}
    assert {pair for pair, made_by in there.items() if "change" in made_by} == MADE_BY_CHANGE
    (statuses,) = await connection.fetchrow(
        "select distinct pg_get_constraintdef(oid) from pg_constraint where conname = 'jobs_status_is_known'"
    ) or [""]
    assert set(re.findall(r"'(\w+)'", statuses)) == set(Status)


@pytest.mark.parametrize("status", Status)
async def test_a_change_is_made_if_the_table_has_it_and_the_job_the_expected_status(
    connection: Connection, status: str
) -> None:
    for expected, becomes in product(Status, Status):
        job = await a_job(connection, status)
        call = connection.fetchval("select pushq.change($1, $2, $3)", job, expected, becomes)
        if (expected, becomes) not in MADE_BY_CHANGE:
            with pytest.raises(asyncpg.InvalidParameterValueError, match=f"that is {expected} {becomes} by hand"):
                await call
        elif status == expected:
            assert await call == becomes
            assert await status_of(connection, job) == becomes
            continue
        else:
            is_already = Status(status).is_finished and not Status(expected).is_finished
            assert await call == f"{'already' if is_already else 'is'} {status}"
        assert await status_of(connection, job) == status


@pytest.mark.parametrize(("was", "becomes"), sorted(MADE_BY_CHANGE))
async def test_of_many_who_change_a_job_at_once_one_does(
    connection: Connection, database_url: str, was: str, becomes: str
) -> None:
    job = await a_job(connection, was)

    async def change() -> str:
        other = await asyncpg.connect(database_url)
        did = await other.fetchval("select pushq.change($1, $2, $3)", job, was, becomes)
        await other.close()
        return str(did)

    did = sorted(await asyncio.gather(*(change() for _ in range(8))))
    assert did.count(becomes) == 1
    assert set(did) - {becomes} <= {f"is {becomes}", f"already {becomes}"}


@pytest.mark.parametrize("function", ["cancel", "retry"])
@pytest.mark.parametrize("status", Status)
async def test_cancel_and_retry_leave_a_job_that_has_not_the_expected_status(
    connection: Connection, status: str, function: str
) -> None:
    job = await a_job(connection, status)
    for expected in set(Status) - {Status(status)}:
        did = await connection.fetchval(f"select pushq.{function}($1, $2)", job, expected)
        is_already = function == "cancel" and Status(status).is_finished
        assert did == f"{'already' if is_already else 'is'} {status}"
        assert await status_of(connection, job) == status
    did = await connection.fetchval(f"select pushq.{function}($1, $2)", job, status)
    assert did == (await connection.fetchval(f"select pushq.{function}($1)", await a_job(connection, status)))


async def test_a_job_that_others_change_all_the_time_is_never_unknown(
    connection: Connection, database_url: str
) -> None:
    job = await a_job(connection, "queued")
    calls = (
        "retry($1, 'succeeded')",
        "reprioritize($1, 1)",
        "change($1, 'running', 'queued')",
        "cancel($1, 'running')",
    )
    until = time.monotonic() + 2

    async def call(*calls: str) -> set[str]:
        other, said = await asyncpg.connect(database_url), set()
        while time.monotonic() < until:
            for one in calls:
                said.add(await other.fetchval(f"select pushq.{one}", job))
        await other.close()
        return said

    said = await asyncio.gather(*(call("cancel($1)", "retry($1)") for _ in range(3)), *(call(*calls) for _ in range(3)))
    assert "unknown" not in set.union(*said)


# What a change does -------------------------------------------------------------------------------------------------


async def test_a_running_job_that_is_queued_by_hand_runs_again_and_its_first_outcome_is_refused(
    connection: Connection, database_url: str
) -> None:
    with supervising(database_url) as supervisor:
        (job,) = await insert(connection, "sleep", payload={"seconds": 0.7})
        await has_count(connection, 1, "status = 'running'")
        assert await connection.fetchval("select pushq.change($1, 'running', 'queued')", job) == "queued"
        (row,) = await finished(connection, job)
        assert supervisor.stop() == 0
        assert "outcome refused" not in supervisor.said
        assert supervisor.said.count("handler=stopped") == 1

    assert (row["status"], row["attempt"], row["failures"], row["crashes"]) == ("succeeded", 2, 0, 0)


async def test_a_job_of_another_priority_takes_its_new_turn(connection: Connection, database_url: str) -> None:
    async with Claiming.at(database_url, connection) as pool:
        first, second, third = await insert(connection, "mail", 3)
        (fourth,) = await insert(connection, "mail", priority=5)
        for job, priority in ((third, -3), (fourth, -20000), (first, 7)):
            assert await connection.fetchval("select pushq.reprioritize($1, $2)", job, priority) == "reprioritized"
        assert [await pool.claim(1) for _ in range(4)] == [[fourth], [third], [second], [first]]


async def test_a_job_that_is_to_start_sooner_wakes_an_idle_pool(connection: Connection, database_url: str) -> None:
    with supervising(database_url, POLL_INTERVAL="0"):
        job = await connection.fetchval(
            "insert into pushq.jobs (task, run_at) values ('echo', '2100-01-01') returning id"
        )
        assert await connection.fetchval("select pushq.reschedule($1, now())", job) == "rescheduled"
        (row,) = await finished(connection, job, within=5)
    assert row["status"] == "succeeded"


async def test_a_job_that_is_to_start_later_does(connection: Connection, database_url: str) -> None:
    (later, now) = await insert(connection, "echo", 2)
    assert await connection.fetchval("select pushq.reschedule($1, now() + interval '1 hour')", later) == "rescheduled"
    with supervising(database_url):
        await finished(connection, now)
        assert await status_of(connection, later) == "queued"


@pytest.mark.parametrize("call", ["reprioritize($1, 5)", "reschedule($1, now())"])
async def test_only_a_queued_job_gets_another_priority_or_start(connection: Connection, call: str) -> None:
    for status, says in (
        ("running", "is running"),
        ("succeeded", "already succeeded"),
        ("failed", "already failed"),
        ("cancelled", "already cancelled"),
    ):
        assert await connection.fetchval(f"select pushq.{call}", await a_job(connection, status)) == says
    assert await connection.fetchval(f"select pushq.{call}", uuid4()) == "unknown"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("cancel($1, 'done')", "'done' is no status of a job; give queued, running, succeeded, failed or cancelled"),
        ("retry($1, 'Failed')", "'Failed' is no status of a job"),
        ("change($1, 'queued', 'done')", "'done' is no status of a job"),
        ("change($1, null, 'queued')", "nobody makes a job that is null queued by hand"),
        ("change($1, 'queued', null)", "these changes are made: queued to cancelled, running to queued, "),
        ("reprioritize($1, 32768)", "a priority is a number from -32768 to 32767, not 32768"),
        ("reprioritize($1, null)", "a priority is a number from -32768 to 32767, not null"),
        ("reschedule($1, null)", "give the earliest start, an instant, not null"),
    ],
)
async def test_what_is_no_change_is_refused_in_a_sentence(connection: Connection, call: str, says: str) -> None:
    job = await a_job(connection, "queued")
    with pytest.raises(asyncpg.InvalidParameterValueError) as refused:
        await connection.execute(f"select pushq.{call.replace('$1', repr(str(job)))}")
    assert says in str(refused.value)
    with pytest.raises(asyncpg.CheckViolationError) as refused_start:
        await connection.execute("select pushq.reschedule($1, 'infinity')", job)
    assert refused_start.value.constraint_name == "jobs_run_at_is_between_1970_and_9999"


# Other people's objects ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "status"), [("cancel", "queued"), ("retry", "cancelled")])
async def test_a_change_that_a_trigger_keeps_from_happening_is_told_as_such(
    connection: Connection, database_url: str, call: str, status: str
) -> None:
    """And is not tried for ever."""
    job = await a_job(connection, status)
    await connection.execute(
        "create schema others; create function others.keep() returns trigger language plpgsql as "
        "'begin return null; end'; create trigger keep before delete on pushq.jobs "
        "for each row execute function others.keep()"
    )
    ended = invoke("jobs", call, str(job), url=database_url)

    assert ended.exit_code == 1
    assert f"job {job} can be seen and not changed: a trigger or a row-level policy says so" in ended.stderr


async def test_whoever_could_change_rows_may_call_the_functions_after_the_migration(connection: Connection) -> None:
    """The functions were everybody's, with the caller's rights; now they act with the owner's."""
    role = f"hand_{uuid4().hex[:8]}"
    await connection.execute(
        f"create role {role}; grant usage on schema pushq to {role};"
        f"grant select, update, delete, insert on pushq.jobs, pushq.jobs_unfinished to {role}"
    )
    transaction = connection.transaction()
    await transaction.start()
    text = (ROOT / "migrations" / "0008_changes.sql").read_text()
    await connection.execute(
        text[text.index("-- Whoever could change rows") : text.index("create or replace function pushq.grant")]
    )
    may = "select has_function_privilege($1, 'pushq.cancel(uuid, text)', 'execute')"
    assert await connection.fetchval(may, role)
    await transaction.rollback()
    assert not await connection.fetchval(may, role)
    await connection.execute(f"drop owned by {role}; drop role {role}")
