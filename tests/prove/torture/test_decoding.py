"""What the database committed is read exactly, in order, and once; and whatever pushq's statements do is accepted."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from pushq.database.migrate import migrate
from pushq.database.session import Session
from pushq.database.statements import statement
from pushq.job import Job
from pushq.local.server import EmbeddedServer
from pushq.outcome import Kind, Outcome
from pushq.pool.store import Claimant
from tests.support.jobs import Connection, insert, row_of
from tests.support.planting import spoil
from tests.support.store import Store
from tests.torture import decoding
from tests.torture.checker import check
from tests.torture.decoding import Decoder, deliveries_of, told, transactions, watch_changes
from tests.torture.history import (
    ITS_URL,
    Call,
    Change,
    Completion,
    History,
    Operation,
    Registration,
    Rule,
    Run,
    Settled,
)

SETTINGS = {"wal_level": "logical", "max_prepared_transactions": "5"}
CLAIMANT = Claimant("host-7-abc", 1, ("default",), ("known",))

HOSTILE = [
    "it's",
    "''",
    "'",
    "a\nb\r\n\tc",
    " new-tuple: id[uuid]:'00000000-0000-0000-0000-000000000000'",
    "' token[uuid]:'00000000-0000-0000-0000-000000000000",
    "x' status[text]:'succeeded' attempt[integer]:99",
    "null",
    "unchanged-toast-datum",
    "table pushq.jobs_unfinished: DELETE: (no-tuple-data)",
    "COMMIT 7",
    "\\' \\\\ $$ $1 %s {}",
    'say "hi"[text]:null',
    "\N{GRINNING FACE} \u202e \x7f \x01",
]


@pytest.fixture(scope="module")
def logical() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(settings=SETTINGS) as server:
        asyncio.run(_make_template(server))
        yield server


async def _make_template(server: EmbeddedServer) -> None:
    await _administrate(server, "create database template_of_these")
    await migrate(server.url("template_of_these"))


async def _administrate(server: EmbeddedServer, statement: str) -> None:
    administrator = await asyncpg.connect(server.url())
    await administrator.execute(statement)
    await administrator.close()


@pytest.fixture
async def url(logical: EmbeddedServer) -> AsyncIterator[str]:
    """A fresh database on a server with wal_level=logical."""
    name = f"decoded_{uuid4().hex[:8]}"
    await _administrate(logical, f"create database {name} template template_of_these strategy file_copy")
    yield logical.url(name)
    await _administrate(logical, f"drop database {name} with (force)")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        connection.terminate()


async def changes_of(decoder: Decoder) -> list[Change]:
    return [one for one in await decoder.committed() if isinstance(one, Change)]


class Witness:
    """A pool without processes: it makes pushq's own statements, and keeps the logs of clients and handlers."""

    def __init__(self, connection: Connection, session: Session) -> None:
        self.connection = connection
        self.store = Store(session)
        self.calls: list[Call] = []
        self.runs: list[Run] = []

    @classmethod
    @asynccontextmanager
    async def watching(cls, url: str) -> AsyncIterator[Witness]:
        session = Session(url, "witness")
        async with connected(url) as connection:
            witness = cls(connection, session)
            await witness.store.heartbeat(CLAIMANT.supervisor, "host", 7, 60.0)
            await witness.store.register(CLAIMANT, {})
            yield witness
        await session.close()

    async def insert(self, task: str = "known", **columns: Any) -> UUID:
        now = time.monotonic()
        (job,) = await insert(self.connection, task, **columns)
        self.calls.append(Call("insert", job, "ok", now, time.monotonic()))
        return job

    async def ask(self, operation: Operation, job: UUID) -> None:
        now = time.monotonic()
        did = await self.connection.fetchval(f"select pushq.{operation}($1)", job)
        self.calls.append(Call(operation, job, "ok", now, time.monotonic(), did))

    async def run(self, *, ends: bool = True) -> Job:
        """Claims the one job that is due, and runs it."""
        (job,) = await self.store.claim(CLAIMANT, uuid4(), 10) or await self.store.claim_suspect(CLAIMANT, uuid4())
        now = time.monotonic()
        ended_at, died_at = (now, None) if ends else (None, now)
        self.runs.append(Run(job.id, job.attempt, 0, len(self.runs), now, ended_at, died_at, job.token))
        return job

    async def ends(self, kind: Kind, *, error: str | None = None, result: object = None) -> Job:
        """Runs the one job that is due, and writes what it came to."""
        job = await self.run()
        text = None if result is None else json.dumps(result)
        assert await self.store.finish([Outcome(job, kind, error=error, result=text)]) == []
        return job

    async def crash(self) -> None:
        await self.run(ends=False)
        await self.store.requeue([CLAIMANT.supervisor], pool=CLAIMANT.pool, crashed=True)

    def history(self, changes: list[Change]) -> History:
        return History(
            lease=60.0,
            failures_allowed=3,
            crashes_allowed=3,
            calls=tuple(self.calls),
            runs=tuple(self.runs),
            changes=tuple(changes),
        )


async def test_all_that_pushq_does_to_jobs_is_told_and_accepted(url: str) -> None:
    decoder = await Decoder.watching(url)
    async with Witness.watching(url) as pushq:
        await pushq.insert()
        await pushq.ends(Kind.SUCCEEDED)
        await pushq.insert(max_attempts=2)
        await pushq.ends(Kind.RETRIED, error="no")
        await pushq.ends(Kind.SNOOZED)
        await pushq.ends(Kind.RELEASED)
        await pushq.ends(Kind.FAILED, error="no")
        await pushq.insert()
        await pushq.ends(Kind.CANCELLED, error="not today")
        await _die(pushq)
        await _meddle(pushq)
        await _lose_a_reply(pushq)
        changes = await changes_of(decoder)

    assert check(pushq.history(changes)) == []
    edges = {(one.before and one.before.status, one.after and one.after.status) for one in changes}
    assert edges == {
        (None, "queued"),
        ("queued", "running"),
        ("running", "queued"),
        ("queued", "queued"),
        *((status, None) for status in ("queued", "running", "succeeded", "failed")),
        *((None, status) for status in ("succeeded", "failed", "cancelled")),
    }
    assert all(change.after.is_finished for change in changes if change.after and change.after.status == "failed")


async def _die(pushq: Witness) -> None:
    """The third death ends a job; one that a pool held when it was stopped is not charged."""
    job = await pushq.insert()
    for _ in range(3):
        await pushq.crash()
    row = await row_of(pushq.connection, job)
    assert (row["status"], row["crashes"], row["token"]) == ("failed", 3, None)
    await pushq.insert()
    await pushq.run(ends=False)
    await pushq.store.requeue([CLAIMANT.supervisor], crashed=False)
    await pushq.ends(Kind.SUCCEEDED)


async def _meddle(pushq: Witness) -> None:
    """By hand: jobs are cancelled and retried in every state."""
    await pushq.ask("cancel", await pushq.insert())
    job = await pushq.insert()
    await pushq.run()
    await pushq.ask("retry", job)
    await pushq.ask("cancel", job)
    await pushq.ask("cancel", job)
    job = await pushq.insert()
    await pushq.ends(Kind.RETRIED, error="no")
    await pushq.ask("retry", job)
    await pushq.ends(Kind.FAILED, error="no")
    await pushq.ask("retry", job)
    await pushq.ends(Kind.SUCCEEDED)
    await pushq.ask("retry", job)
    await pushq.ask("cancel", job)


async def _lose_a_reply(pushq: Witness) -> None:
    """A claim whose reply was lost is taken back."""
    job, token = await pushq.insert(), uuid4()
    assert await pushq.store.claim(CLAIMANT, token, 1) == await pushq.store.take_back(CLAIMANT.supervisor, token)
    await pushq.ask("cancel", job)


async def test_a_finish_that_asks_for_no_token_is_found_in_what_the_database_tells(url: str) -> None:
    """The checker's own control: a planted bug, by the real statements."""
    decoder = await Decoder.watching(url)
    async with Witness.watching(url) as pushq:
        await pushq.insert()
        late = await pushq.run()
        await pushq.store.requeue([CLAIMANT.supervisor], crashed=True)
        outcome = ([late.id], [late.token], [0.0], [0.0], ["succeeded"], ["late"], [None], ["{}"])
        assert await pushq.connection.fetchval(statement("finish"), *outcome) == []
        fence = "coalesce(end_sorted.tokens[width_bucket(job.id, end_sorted.ids)], job.token)"
        await spoil(pushq.connection, "pushq.end_sorted", fence, "job.token")
        assert await pushq.connection.fetchval(statement("finish"), *outcome) is None
        (found,) = check(pushq.history(await changes_of(decoder)))

    assert found.code == "FENCE"
    assert str(late.id) in found.what


@pytest.mark.parametrize("column", ["result", "error"])
async def test_which_claim_an_outcome_tells_of_is_read_from_its_result_or_its_error(url: str, column: str) -> None:
    decoder = await Decoder.watching(url)
    async with Witness.watching(url) as pushq:
        await pushq.insert()
        job = await pushq.run()
        told_by = {"result": {"token": str(job.token)}, "error": f"ValueError: under token {job.token}, alas"}
        kind = Kind.SUCCEEDED if column == "result" else Kind.FAILED
        result = json.dumps(told_by["result"]) if column == "result" else None
        error = str(told_by["error"]) if column == "error" else None
        await pushq.store.finish([Outcome(job, kind, error=error, result=result)])
        changes = await changes_of(decoder)

    assert changes[-1].after
    assert changes[-1].after.told == changes[-1].after.token == job.token


async def test_an_artifact_that_becomes_complete_is_told_and_its_bytes_are_not(url: str) -> None:
    decoder = await Decoder.watching(url)
    async with Witness.watching(url) as pushq:
        await pushq.insert()
        job = await pushq.run()
        put = "select pushq.put_artifact($1, $2, $3, $4)"
        await pushq.connection.execute(put, job.id, job.token, "it's a.bin", b"x" * 3_000_000)
        await pushq.connection.execute("begin")
        await pushq.connection.execute(put, job.id, job.token, "b.bin", b"")
        await pushq.connection.execute("rollback")
        committed = await decoder.committed()

    completed = [one for one in committed if isinstance(one, Completion)]
    assert [(one.job, one.token, one.name) for one in completed] == [(job.id, job.token, "it's a.bin")]


async def test_rules_of_names_are_told_among_the_changes_of_jobs(url: str) -> None:
    decoder = await Decoder.watching(url)
    async with Witness.watching(url) as pushq:
        for statement_of_a_rule in (
            "insert into pushq.resources (name, capacity) values ('it''s', 2)",
            "update pushq.resources set capacity = null, rate = 0.5, burst = 3 where name = 'it''s'",
            "delete from pushq.resources where name = 'it''s'",
            "insert into pushq.queues (name, capacity) values ('mail', 4)",
            "select pg_logical_emit_message(true, 'torture.settled', 'it''s')",
        ):
            await pushq.connection.execute(statement_of_a_rule)
        committed = await decoder.committed()

    assert [
        replace(one, transaction=0) for one in committed if isinstance(one, Rule) and one.name != "queue:default"
    ] == [
        Rule(0, "it's", is_there=True, capacity=2),
        Rule(0, "it's", is_there=True, rate=0.5, burst=3),
        Rule(0, "it's", is_there=False),
        Rule(0, "queue:mail", is_there=True, capacity=4),
    ]
    assert committed[-1] == Settled("it's")


async def test_what_a_running_job_needs_is_told_and_since_when_it_runs(url: str) -> None:
    decoder = await Decoder.watching(url)
    async with Witness.watching(url) as pushq:
        await pushq.connection.execute("insert into pushq.jobs (task, needs) values ('known', '[\"gpu\"]')")
        await pushq.connection.execute("update pushq.jobs_unfinished set started_at = '2026-01-02 03:04:05+00'")
        committed = await decoder.committed()

    rows = [one.after for one in committed if isinstance(one, Change) and one.after]
    assert [json.loads(row.needs or "") for row in rows] == [{"gpu": 1}, {"gpu": 1}]
    assert datetime.fromisoformat(rows[-1].started_at or "") == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


async def test_deliveries_of_webhooks_are_told_with_what_they_tell(url: str) -> None:
    decoder = await Decoder.watching(url)
    async with Witness.watching(url) as pushq:
        subscribe = (
            "insert into pushq.webhooks (statuses, url) values ('{queued,running}', 'https://a.test') returning id"
        )
        webhook = await pushq.connection.fetchval(subscribe)
        job = await pushq.connection.fetchval(
            "insert into pushq.jobs (task, webhook_url) values ('known', 'https://b.test') returning id"
        )
        await pushq.ends(Kind.SUCCEEDED)
        changes = await changes_of(decoder)

    told = [(one.job, one.receiver, one.tells, one.status) for one in deliveries_of(changes)]
    assert told == [
        (job, str(webhook), "queued", "queued"),
        (job, str(webhook), "running", "queued"),
        (job, ITS_URL, "succeeded", "queued"),
    ]


async def test_hostile_texts_in_every_column_are_read_exactly(url: str) -> None:
    """Each version of each row, column by column, as a query shows it."""
    async with connected(url) as connection, Witness.watching(url) as pushq:
        slot = await watch_changes(connection)
        for text in HOSTILE:
            columns = dict.fromkeys(("queue", "unique_key", "tenant_id", "correlation_id", "submitted_by"), text)
            job = await pushq.insert(text, payload={"text": text}, **columns)
            rows = [await _shown(connection, job)]
            await _set(connection, job, status="running", supervisor=text, token=uuid4(), error=text)
            rows.append(await _shown(connection, job))
            await _finish(connection, job, error=text, result=json.dumps({text: text}))
            rows.append(await _shown(connection, job))
            lines = await _lines(connection, slot)

            (_, none, first), (_, before, second), (_, gone, nothing), (table, nowhere, last) = lines
            assert (none, nothing, nowhere) == (None, None, None)
            assert [first, second, last] == rows
            # nulls are not told of a row as it was
            assert [before, gone] == [{name: value for name, value in row.items() if value} for row in rows[:2]]
            assert table.startswith("jobs_2")


async def _shown(connection: Connection, job: UUID) -> dict[str, str | None]:
    """A row's columns as text."""
    columns = ", ".join(f'"{name}"::text' for name in dict(await row_of(connection, job)))
    (row,) = await connection.fetch(f"select {columns} from pushq.jobs where id = $1", job)
    return dict(row)


async def _set(connection: Connection, job: UUID, **columns: object) -> None:
    given = {"pool": 1, "attempt": 1} | columns
    settings = ", ".join(f"{name} = ${number}" for number, name in enumerate(given, 2))
    await connection.execute(
        f"update pushq.jobs_unfinished set {settings}, started_at = now() where id = $1", job, *given.values()
    )


async def _finish(connection: Connection, job: UUID, *, error: str, result: str) -> None:
    token = (await row_of(connection, job))["token"]
    outcome = ([job], [token], [0.0], [0.0], ["succeeded"], [error], [error], [result])
    assert await connection.fetchval(statement("finish"), *outcome) is None


async def _lines(connection: Connection, slot: str) -> list[tuple[str, Any, Any]]:
    """What the slot tells of jobs, once."""
    rows = await connection.fetch("select data from pg_logical_slot_get_changes($1, null, null)", slot)
    return [told(row["data"]) for row in rows if row["data"].startswith("table pushq.jobs_")]


async def test_a_large_value_that_does_not_change_is_known_after_an_update(url: str) -> None:
    async with connected(url) as connection:
        slot = await watch_changes(connection)
        (job,) = await insert(connection, "known", payload={"text": "".join(uuid4().hex for _ in range(3000))})
        await _set(connection, job, status="running", supervisor="s", token=uuid4())
        rows = await connection.fetch("select data from pg_logical_slot_peek_changes($1, null, null)", slot)
        (_, _, inserted), (_, before, after) = await _lines(connection, slot)

    assert any("payload[jsonb]:unchanged-toast-datum" in row["data"] for row in rows)
    assert inserted["payload"] == before["payload"] == after["payload"]


async def test_what_was_rolled_back_is_not_told(url: str) -> None:
    decoder = await Decoder.watching(url)
    async with connected(url) as connection:
        await connection.execute("begin; insert into pushq.jobs (task) values ('gone'); rollback")
        await connection.execute("begin")
        await connection.execute("savepoint here; insert into pushq.jobs (task) values ('gone'); rollback to here")
        (kept,) = await insert(connection, "kept")
        await connection.execute("commit")
        await connection.execute("begin; set local pushq.notify = 'off'")
        (prepared,) = await insert(connection, "prepared")
        await connection.execute("prepare transaction 'one'")
        assert [change.after and change.after.job for change in await changes_of(decoder)] == [kept]
        await connection.execute("commit prepared 'one'")

        assert [change.after and change.after.job for change in await changes_of(decoder)] == [prepared]


async def test_changes_come_in_the_order_of_their_commits(url: str) -> None:
    decoder = await Decoder.watching(url)
    async with connected(url) as early, connected(url) as late:
        await early.execute("begin")
        (first,) = await insert(early, "known")
        others = [(await insert(late, "known"))[0] for _ in range(5)]
        await early.execute("commit")
        changes = await changes_of(decoder)

    assert [change.after and change.after.job for change in changes] == [*others, first]
    assert len({change.transaction for change in changes}) == 6


async def test_nothing_is_missing_and_nothing_comes_twice_however_often_it_is_asked(
    url: str, logical: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches that are too small for a transaction, with the server restarted and crashed in between."""
    decoder = await Decoder.watching(url, batch=3)
    jobs: list[UUID] = []
    taken: list[Change] = []
    for happening in ("nothing", "crash", "restart", "reader dies", "crash", "crash"):
        async with connected(url) as connection:
            jobs += await insert(connection, "known", 10)
            jobs += await insert(connection, "known", 1)
            taken += await changes_of(decoder)
            jobs += await insert(connection, "known", 4)
        if happening in ("crash", "restart"):
            logical.restart(crash=happening == "crash")
        elif happening == "reader dies":
            await _break_off(decoder, monkeypatch)
    taken += await changes_of(decoder)

    assert [change.after and change.after.job for change in taken] == jobs
    assert await changes_of(decoder) == []


async def _break_off(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is lost when the server has read and not yet answered, and when the slot is to be moved on."""
    die = "pg_terminate_backend(pg_backend_pid())"
    for name, broken in (
        ("_PEEK", decoding._PEEK.replace("data", f"data || {die}::text", 1)),
        ("_ADVANCE", f"select {die}, $1::text, $2::pg_lsn"),
    ):
        with monkeypatch.context() as instead:
            instead.setattr(decoding, name, broken)
            with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError)):
                await changes_of(decoder)


async def test_rows_in_days_that_are_made_later_are_told_whole(url: str) -> None:
    decoder = await Decoder.watching(url)
    async with connected(url) as connection:
        day = (await connection.fetch("select pushq.make_days(9) as day"))[-1]["day"]
        columns = "(id, task, status, attempt, finished_at, finished_on)"
        job = uuid4()
        await connection.execute(
            f"insert into pushq.jobs {columns} values ($1, 'known', 'failed', 1, now(), $2)", job, day
        )
        await connection.execute("update pushq.jobs set status = 'succeeded' where id = $1", job)
        await connection.execute("delete from pushq.jobs where id = $1", job)
        _, updated, deleted = await changes_of(decoder)

    assert updated.before
    assert updated.after
    assert (updated.before.status, updated.after.status) == ("failed", "succeeded")
    assert deleted.before == updated.after
    assert deleted.before.is_finished


async def test_a_change_that_is_not_wholly_known_is_no_change(url: str) -> None:
    decoder = await Decoder.watching(url)
    async with connected(url) as connection:
        await connection.execute("alter table pushq.jobs_unfinished replica identity default")
        (job,) = await insert(connection, "known")
        await connection.execute("delete from pushq.jobs_unfinished where id = $1", job)
        with pytest.raises(ValueError, match="no change of a whole row"):
            await changes_of(decoder)


def test_a_truncated_day_is_no_change() -> None:
    lines = [(1, 7, "BEGIN 7"), (1, 7, "table pushq.jobs_2026_11_23: TRUNCATE: (no-flags)"), (2, 7, "COMMIT 7")]
    with pytest.raises(ValueError, match="TRUNCATE"):
        list(transactions(lines))


def test_changes_of_other_tables_are_passed_over() -> None:
    texts = ["BEGIN 7", "table pushq.tasks: UPDATE: name[text]:'x' paused_at[timestamptz]:null", "COMMIT 7"]
    assert list(transactions((place, 7, text) for place, text in enumerate(texts))) == [(2, [])]


async def test_heartbeats_and_deaths_of_supervisors_are_told_in_order(url: str) -> None:
    decoder = await Decoder.watching(url)
    session = Session(url, "supervisor")
    store = Store(session)
    await store.heartbeat("it's", "host", 7, 2.0)
    await store.heartbeat("it's", "host", 7, 2.0)
    await store.goodbye("it's")
    await session.close()

    told = [one for one in await decoder.committed() if isinstance(one, Registration)]
    assert [(one.supervisor, one.is_there) for one in told] == [("it's", True), ("it's", True), ("it's", False)]
