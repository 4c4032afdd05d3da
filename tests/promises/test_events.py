"""Whatever happens to a job beside plain success leaves an event, in order, once; with all events, everything does."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from datetime import date
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from pushq.database.schema import faults
from pushq.database.session import Session
from pushq.desk.history import Wanted, follow
from pushq.job import Job
from pushq.outcome import Kind, Outcome
from pushq.pool.store import Claimant, Store
from pushq.sweeper import Sweeper
from pushq.sweeper.store import Store as SweepersStore
from tests.support.commands import invoke
from tests.support.days import make_day
from tests.support.jobs import Connection, die_with_them, finished, insert
from tests.support.supervisors import ROOT, environment, pushq, supervising
from tests.support.waiting import eventually

ME = Claimant("me", 1, ("default",), ("any", "other"))


async def events(connection: Connection, job: UUID | None = None) -> list[asyncpg.Record]:
    return await connection.fetch(
        "select * from pushq.job_events where $1::uuid is null or job_id = $1 order by id", job
    )


async def kinds(connection: Connection, job: UUID | None = None) -> list[str]:
    return [event["kind"] for event in await events(connection, job)]


async def has_kinds(connection: Connection, job: UUID, *expected: str) -> None:
    async def look() -> bool:
        return await kinds(connection, job) == list(expected)

    await eventually(look)


async def keep_all(connection: Connection, queue: str = "default") -> None:
    assert await connection.fetchval("select pushq.keep_all_events($1)", queue) == "all events"


async def sweep(url: str, times: int = 1) -> None:
    session = Session(url, "test")
    sweeper = Sweeper(SweepersStore(session), retention=604800)
    for _ in range(times):
        await sweeper.sweep()
    await session.close()


async def claim(store: Store) -> list[Job]:
    return await store.claim(ME, uuid4(), 100)


# Attempts -----------------------------------------------------------------------------------------------------------


async def test_each_failed_attempt_keeps_its_error_and_its_traceback(connection: Connection, database_url: str) -> None:
    with supervising(database_url):
        (failing,) = await insert(connection, "fail", payload={"message": "no"}, tenant_id="acme")
        (late,) = await insert(connection, "fail.until", payload={"attempt": 3})
        (good,) = await insert(connection, "echo")
        await finished(connection, failing, late, good)

    told = await events(connection, failing)
    assert [(e["kind"], e["was"], e["became"], e["attempt"], e["error"]) for e in told] == [
        ("retried", "running", "queued", 1, "ValueError: no"),
        ("retried", "running", "queued", 2, "ValueError: no"),
        ("failed", "running", "failed", 3, "ValueError: no"),
    ]
    (supervisor,) = {event["actor"] for event in told}
    assert supervisor == await connection.fetchval("select supervisor from pushq.jobs where id = $1", failing)
    for event in told:
        assert event["tenant_id"] == "acme"
        assert "raise ValueError(message)\nValueError: no" in event["traceback"]
    assert await kinds(connection, late) == ["retried", "retried"]
    assert await kinds(connection, good) == []


async def test_with_all_events_every_step_of_a_job_is_an_event(connection: Connection, database_url: str) -> None:
    await keep_all(connection)
    with supervising(database_url, "--queue", "default", "--queue", "mail"):
        (snoozing,) = await insert(connection, "snooze", payload={"times": 1})
        (detached,) = await insert(connection, "detach", payload={"seconds": 60})
        (elsewhere,) = await insert(connection, "echo", queue="mail")
        (cancelled,) = await insert(connection, "cancel")
        await finished(connection, snoozing, elsewhere, cancelled)
        await has_kinds(connection, detached, "claimed", "detached")
        token = await connection.fetchval("select token from pushq.jobs where id = $1", detached)
        assert await connection.fetchval("select pushq.finish($1, $2, 'succeeded')", detached, token)

    assert await kinds(connection, snoozing) == ["claimed", "snoozed", "claimed", "succeeded"]
    assert await kinds(connection, detached) == ["claimed", "detached", "succeeded"]
    assert await kinds(connection, cancelled) == ["claimed", "cancelled"]
    assert await kinds(connection, elsewhere) == []
    for job in (snoozing, detached):
        told = await events(connection, job)
        assert [event["was"] for event in told[1:]] == [event["became"] for event in told[:-1]]


async def test_the_switch_holds_for_jobs_that_are_claimed_after_it(connection: Connection, store: Store) -> None:
    (before,) = await insert(connection, "any")
    (early,) = await claim(store)
    await keep_all(connection)
    (after,) = await insert(connection, "any")
    (late,) = await claim(store)
    assert (early.all_events, late.all_events) == (False, True)
    assert await connection.fetchval("select pushq.keep_all_events('default', false)") == "some events"
    assert await connection.fetchval("select pushq.keep_all_events('default', false)") == "as before"

    assert await store.finish([Outcome(early, Kind.SUCCEEDED), Outcome(late, Kind.SUCCEEDED)]) == []
    assert await kinds(connection, before) == []
    assert await kinds(connection, after) == ["claimed", "succeeded"]


@pytest.mark.parametrize("kind", [Kind.FAILED, Kind.RETRIED, Kind.SUCCEEDED, Kind.DETACHED])
async def test_an_outcome_that_is_written_again_or_refused_has_one_event_or_none(
    connection: Connection, store: Store, kind: Kind
) -> None:
    await keep_all(connection)
    (one, other, taken) = await insert(connection, "any", 3)
    claimed = {job.id: job for job in await claim(store)}
    await connection.execute("select pushq.change($1, 'running', 'queued')", taken)
    batch = [Outcome(claimed[job], kind, delay=60.0, error="why") for job in (taken, one, other)]

    assert [outcome.job.id for outcome in await store.finish(batch)] == [taken]
    await store.finish(batch)
    for job in (one, other):
        assert await kinds(connection, job) in (["claimed", kind], ["claimed", kind, kind])
        if kind is not Kind.DETACHED:  # a detached job is still held under its token
            assert await kinds(connection, job) == ["claimed", kind]
    assert await kinds(connection, taken) == ["claimed", "edited"]


async def test_a_crash_is_an_event_and_so_is_the_end_by_the_third(connection: Connection, database_url: str) -> None:
    (job,) = await insert(connection, "any")
    for _ in range(3):
        await die_with_them(connection)
        await eventually(lambda: _has_swept(connection, database_url))
    told = await events(connection, job)
    assert [(e["kind"], e["was"], e["became"], e["attempt"]) for e in told] == [
        ("requeued", "running", "queued", 1),
        ("requeued", "running", "queued", 2),
        ("failed", "running", "failed", 3),
    ]
    assert [event["error"][-14:] for event in told] == ["(crash 1 of 3)", "(crash 2 of 3)", "(crash 3 of 3)"]
    assert all(" with test" in event["actor"] for event in told)


async def _has_swept(connection: Connection, url: str) -> bool:
    await sweep(url, 3)
    return not await connection.fetchval("select exists (select from pushq.jobs where status = 'running')")


async def test_a_guest_s_outcomes_are_events_too(connection: Connection) -> None:
    (job,) = await insert(connection, "any")
    for kind in ("retried", "released", "failed"):
        token = await connection.fetchval("select pushq.take($1, 'anna')", job)
        assert await connection.fetchval("select pushq.finish($1, $2, $3, error => 'why')", job, token, kind)
    told = await events(connection, job)
    assert [(event["kind"], event["actor"], event["error"]) for event in told] == [
        ("retried", "guest:anna", "why"),
        ("failed", "guest:anna", "why"),
    ]


async def test_a_batch_of_thousands_with_a_few_failures_notes_the_failures(
    connection: Connection, store: Store
) -> None:
    jobs = await insert(connection, "any", 3000)
    claimed = await store.claim(ME, uuid4(), 3000)
    batch = [Outcome(job, Kind.FAILED if place % 100 == 0 else Kind.SUCCEEDED) for place, job in enumerate(claimed)]
    assert await store.finish(batch) == []
    told = await events(connection)
    assert {event["job_id"] for event in told} == {outcome.job.id for outcome in batch if outcome.kind is Kind.FAILED}
    assert len(told) == len(jobs) // 100


# Changes by hand ----------------------------------------------------------------------------------------------------


async def test_a_change_by_a_function_names_whoever_made_it(connection: Connection, database_url: str) -> None:
    hand = await asyncpg.connect(database_url, server_settings={"application_name": "admin site"})
    login = await hand.fetchval("select session_user")
    (job,) = await insert(hand, "any", tenant_id="acme")
    await hand.execute("set pushq.actor = 'alice@example.com'")
    later = await hand.fetchval("select now() + interval '1 hour'")
    for call, *arguments in (
        ("reprioritize($1, 5)",),
        ("reschedule($1, $2)", later),
        ("cancel($1)",),
        ("retry($1)",),
        ("retry($1)",),  # due already: nothing changes
    ):
        await hand.fetchval(f"select pushq.{call}", job, *arguments)
    await hand.close()

    told = await events(connection, job)
    assert [(event["kind"], event["was"], event["became"]) for event in told] == [
        ("edited", "queued", "queued"),
        ("edited", "queued", "queued"),
        ("cancelled", "queued", "cancelled"),
        ("retried", "cancelled", "queued"),
    ]
    assert {event["actor"] for event in told} == {f"{login} with admin site for alice@example.com"}
    assert {event["tenant_id"] for event in told} == {"acme"}
    assert json.loads(told[0]["detail"]) == {"priority": [0, 5]}
    assert json.loads(told[1]["detail"]).keys() == {"run_at"}


async def test_an_update_by_hand_keeps_the_old_and_the_new_values(connection: Connection) -> None:
    (job, other) = await insert(connection, "any", 2, payload={"secret": 1})
    await connection.execute(
        """update pushq.jobs set queue = 'mail', priority = -1, payload = '{"secret": 2}' where id = $1""", job
    )
    await connection.execute("update pushq.jobs set queue = queue")
    await connection.execute(
        "update pushq.jobs set status = 'cancelled', finished_at = now(), finished_on = pushq.current_day() "
        "where id = $1",
        job,
    )
    await connection.execute("delete from pushq.jobs where id = $1", other)

    edited, moved = await events(connection, job)
    assert json.loads(edited["detail"]) == {"queue": ["default", "mail"], "priority": [0, -1], "payload": None}
    assert (moved["kind"], moved["was"], moved["became"]) == ("edited", "queued", "cancelled")
    assert json.loads(moved["detail"])["status"] == ["queued", "cancelled"]
    (deleted,) = await events(connection, other)
    assert (deleted["kind"], deleted["was"], deleted["became"]) == ("deleted", "queued", None)
    assert json.loads(deleted["detail"]) == {"task": "any", "queue": "default"}


@pytest.mark.parametrize("change", ["update pushq.jobs set priority = 1", "delete from pushq.jobs"])
async def test_a_change_of_very_many_jobs_is_one_event_with_their_number(connection: Connection, change: str) -> None:
    await insert(connection, "any", 1001, tenant_id="acme")
    await connection.execute(change)
    (told,) = await events(connection)
    assert (told["job_id"], told["tenant_id"], json.loads(told["detail"])) == (None, "acme", {"jobs": 1001})
    assert told["kind"] == ("edited" if change.startswith("update") else "deleted")


async def test_who_switches_the_events_off_changes_rows_without_them_and_functions_note_all_the_same(
    connection: Connection,
) -> None:
    (job,) = await insert(connection, "any")
    await connection.execute("set pushq.events = 'off'; update pushq.jobs set priority = 1")
    assert await kinds(connection) == []
    await connection.fetchval("select pushq.cancel($1)", job)
    await connection.fetchval("select pushq.retry($1)", job)
    assert await connection.fetchval("show pushq.events") == "off"
    await connection.execute("reset pushq.events; update pushq.jobs set priority = 2")
    assert await kinds(connection) == ["cancelled", "retried", "edited"]


async def test_a_retry_that_is_refused_leaves_no_event_and_later_edits_are_noted(connection: Connection) -> None:
    (job,) = await insert(connection, "any", unique_key="one")
    async with connection.transaction():
        await connection.execute("select pushq.cancel($1)", job)
        await insert(connection, "any", unique_key="one")
        assert await connection.fetchval("select pushq.retry($1)", job) == "unique_key is taken"
        await connection.execute("delete from pushq.jobs where id = $1", job)
    assert await kinds(connection, job) == ["cancelled", "deleted"]


async def test_an_application_adds_notes_to_jobs_that_exist(connection: Connection) -> None:
    (job,) = await insert(connection, "any", tenant_id="acme")
    added = await connection.fetchval("select pushq.note($1, $2)", job, '{"step": 1}')
    (told,) = await events(connection, job)
    assert (told["id"], told["kind"], told["tenant_id"]) == (added, "note", "acme")
    for unknown in (uuid4(), None):
        with pytest.raises(asyncpg.ForeignKeyViolationError, match="there is no job"):
            await connection.fetchval("select pushq.note($1, '{}')", unknown)


async def test_what_makes_no_sense_is_refused_in_a_sentence(connection: Connection) -> None:
    (job,) = await insert(connection, "any")
    for queue, is_on in (("", True), ("*", True), (None, True), ("x" * 201, True), ("mail", None)):
        with pytest.raises(asyncpg.InvalidParameterValueError, match=r"pushq\.keep_all_events: name one queue"):
            await connection.execute("select pushq.keep_all_events($1, $2)", queue, is_on)
    with pytest.raises(asyncpg.InvalidParameterValueError, match="at most 65536 are kept"):
        await connection.execute("select pushq.note($1, to_jsonb(repeat('x', 65536)))", job)


@pytest.mark.parametrize("column", ["was", "became", "jobs", "past", "changed", "kind"])
async def test_a_user_s_column_of_any_name_is_noted_like_the_others(connection: Connection, column: str) -> None:
    (job,) = await insert(connection, "any")
    await connection.execute(
        f"alter table pushq.jobs add column {column} int generated always as (priority + 1) stored;"
        f"update pushq.jobs set priority = 5"
    )
    (told,) = await events(connection, job)
    assert json.loads(told["detail"]) == {"priority": [0, 5], column: [1, 6]}
    await connection.execute("delete from pushq.jobs")
    assert await kinds(connection, job) == ["edited", "deleted"]


# In order, and without a gap ----------------------------------------------------------------------------------------


async def test_events_of_a_job_are_in_their_order_whoever_changes_it_at_once(
    connection: Connection, database_url: str
) -> None:
    (job,) = await insert(connection, "any")

    async def change() -> None:
        hand = await asyncpg.connect(database_url)
        for _ in range(20):
            await hand.execute("select pushq.cancel($1)", job)
            await hand.execute("select pushq.retry($1)", job)
        await hand.close()

    await asyncio.gather(*(change() for _ in range(4)))
    told = [event for event in await events(connection, job) if event["kind"] != "edited"]
    assert len(told) >= 40
    for before, after in pairwise(told):
        assert after["was"] == before["became"]


async def test_a_follower_sees_every_event_once_however_late_its_transaction_commits(
    connection: Connection, database_url: str
) -> None:
    jobs = await insert(connection, "any", 4)
    open_before = await asyncpg.connect(database_url)
    await open_before.execute(f"begin; select pushq.note('{jobs[0]}', '[\"before\"]')")
    session = Session(database_url, "test")
    following = follow(session, Wanted(), 10)
    assert await anext(following) == []

    async def write(job: UUID) -> None:
        writer = await asyncpg.connect(database_url)
        for number in range(25):
            async with writer.transaction():
                await writer.execute("select pushq.note($1, to_jsonb($2::int))", job, number)
                await asyncio.sleep(number % 5 * 0.02)
        await writer.close()

    writing = asyncio.gather(*(write(job) for job in jobs))
    seen: list[dict[str, Any]] = []
    while len(seen) < 101:
        seen += await asyncio.wait_for(anext(following), 10)
        if len(seen) > 60 and open_before.is_in_transaction():
            await open_before.execute("commit")
    await writing
    assert await anext(following) == []
    await following.aclose()
    await session.close()
    await open_before.close()

    assert len({event["id"] for event in seen}) == 101
    for job in jobs:
        numbers = [event["detail"] for event in seen if event["job_id"] == job and event["detail"] != '["before"]']
        assert numbers == [str(number) for number in range(25)]


async def test_the_page_s_way_to_follow_is_the_command_s(connection: Connection) -> None:

    page = (ROOT / "docs" / "how-to" / "history.md").read_text()
    statement = page.split("```sql\nwith this_look")[1].split("```")[0]
    (job,) = await insert(connection, "any")
    (first,) = await connection.fetch(f"with this_look{statement}".rstrip().rstrip(";"), None)
    assert first["id"] is None
    await connection.execute("select pushq.cancel($1)", job)
    (told,) = await connection.fetch(f"with this_look{statement}".rstrip().rstrip(";"), first["mark"])
    assert (told["job_id"], told["kind"]) == (job, "cancelled")


# Days ---------------------------------------------------------------------------------------------------------------


async def partitions(connection: Connection) -> set[str]:
    rows = await connection.fetch(
        "select relname::text as name from pg_inherits join pg_class on pg_class.oid = inhrelid "
        "where inhparent = 'pushq.job_events'::regclass"
    )
    return {row["name"].removeprefix("job_events_") for row in rows}


async def test_every_day_that_takes_finished_jobs_takes_events(connection: Connection, database_url: str) -> None:
    days = {f"{row['day']:%Y_%m_%d}" for row in await connection.fetch("select day from pushq.days")}
    assert await partitions(connection) == days
    (job,) = await insert(connection, "any")
    await connection.execute(f"drop table pushq.job_events_{min(days)}")
    assert f"has days that cannot take events: {min(days).replace('_', '-')}; run `pushq migrate`" in " ".join(
        await faults(database_url)
    )
    with pytest.raises(asyncpg.CheckViolationError, match="no partition"):
        await connection.execute("select pushq.cancel($1)", job)
    await sweep(database_url)
    assert await partitions(connection) == days
    assert await connection.fetchval("select pushq.cancel($1)", job) == "cancelled"


async def test_a_day_without_a_place_for_events_loses_no_outcome(connection: Connection, database_url: str) -> None:
    day = f"{await connection.fetchval('select pushq.current_day()'):%Y_%m_%d}"
    await connection.execute(f"drop table pushq.job_events_{day}")
    with supervising(database_url, sweep_interval="0.2"):
        (job,) = await insert(connection, "raise.text", payload={"text": '"no"'})
        (row,) = await finished(connection, job)
    assert row["status"] == "failed"
    assert await kinds(connection, job) == ["failed"]


async def test_events_go_with_the_jobs_of_their_day(connection: Connection, database_url: str) -> None:
    old = date(2020, 1, 1)
    for day in (old, date(2020, 1, 2)):
        await make_day(connection, day)
    assert "2020_01_01" in await partitions(connection)
    await connection.execute("insert into pushq.job_events (job_id, kind, day) values ($1, 'note', $2)", uuid4(), old)
    await sweep(database_url, 2)
    assert "2020_01_01" not in await partitions(connection)
    assert await connection.fetchval("select to_regclass('pushq.job_events_2020_01_01')") is None
    assert not [fault for fault in await faults(database_url) if "events" in fault]


# At the command line ------------------------------------------------------------------------------------------------


async def test_a_job_s_history_and_the_newest_events_are_listed(connection: Connection, database_url: str) -> None:
    (job,) = await insert(connection, "any", tenant_id="acme")
    token = await connection.fetchval("select pushq.take($1, 'anna')", job)
    await connection.execute("select pushq.finish($1, $2, 'failed', error => 'no such user')", job, token)
    await connection.execute("select pushq.retry($1)", job)
    shown = invoke("jobs", "show", str(job), url=database_url).stdout
    assert "failed  1  guest:anna  no such user" in shown
    assert (
        json.loads(invoke("jobs", "show", str(job), "--json", url=database_url).stdout)["events"][1]["was"] == "failed"
    )
    await connection.execute("delete from pushq.jobs where id = $1", job)
    assert "deleted" in invoke("jobs", "show", str(job), url=database_url).stdout

    listed = invoke("events", "--json", url=database_url).stdout.splitlines()
    assert [json.loads(one)["kind"] for one in listed] == ["failed", "retried", "deleted"]
    assert "no such user" in invoke("events", "--kind", "failed", url=database_url).stdout
    assert invoke("events", "--limit", "1", "--json", url=database_url).stdout.count("\n") == 1
    assert invoke("events", "--tenant", "globex", url=database_url).stderr == "No events match.\n"
    assert invoke("queues", "all-events", "mail", url=database_url).stdout.splitlines()[1].split() == [
        "mail", "all", "events",
    ]  # fmt: skip
    refused = invoke("events", "--kind", "exploded", url=database_url)
    assert refused.exit_code == 2
    assert "'exploded' is not one of" in refused.stderr


def test_events_are_followed_live_until_ctrl_c(database_url: str) -> None:
    job = pushq("enqueue", "any", url=database_url).stdout.strip()
    command = [sys.executable, "-m", "pushq", "events", "--follow", "--json"]
    process = subprocess.Popen(command, env=environment(database_url), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    pushq("jobs", "cancel", job, url=database_url)
    assert json.loads(process.stdout.readline())["kind"] == "cancelled"
    pushq("jobs", "retry", job, url=database_url)
    assert json.loads(process.stdout.readline())["kind"] == "retried"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (130, b"")


@pytest.mark.parametrize(
    ("url", "said"),
    [("postgresql://pushq@127.0.0.1:1/x", "is away"), ("{}_that_is_not_there", "does not exist")],
)
def test_a_follower_that_cannot_begin_says_why(database_url: str, url: str, said: str) -> None:
    base, _, query = database_url.partition("?")
    ended = pushq("events", "--follow", url=url.format(base) + (f"?{query}" if query and "{}" in url else ""))
    assert ended.returncode == 1
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1
