"""docs/examples/model_coordination: what the site asks is true at every moment, and at most one job is on a model."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from pushq.database.schema import faults
from tests.examples.coordination import compared, look, wrong_logs
from tests.examples.files import EXAMPLES, apply, statements, supervising_example
from tests.support.jobs import Connection
from tests.support.pages import blocks
from tests.support.supervisors import RunningSupervisor, environment
from tests.support.waiting import eventually

EXAMPLE = "model_coordination"
OLD = statements(EXAMPLE)
JOBS = int(os.environ.get("PUSHQ_TEST_COORDINATION_JOBS", "250"))
MODELS = [f"model {letter}" for letter in "abcdefgh"]
INSERT = "insert into jobs (id, payload, priority, required_models) values ($1, $2, $3, $4)"


@pytest.fixture
async def site(database_url: str) -> AsyncIterator[Connection]:
    """The tests' login may be named pushq, which would find pushq.jobs for `jobs`."""
    connection = await asyncpg.connect(database_url, server_settings={"search_path": "public"})
    yield connection
    await connection.close(timeout=5)


@pytest.fixture
async def models(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    async with fake_models().served() as url:
        monkeypatch.setenv("COORD_MODEL_URL", url)
        yield _served[-1]


_served: list[Any] = []


def fake_models() -> Any:
    spec = spec_from_file_location("fake_model", EXAMPLES / EXAMPLE / "fake_model.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    _served.append(module.FakeModels())
    return _served[-1]


async def insert(site: Connection, *needed: str, priority: int = 0, seconds: float = 0, job: str = "") -> str:
    job = job or str(uuid4())
    await site.execute(INSERT, job, json.dumps({"seconds": seconds}), priority, json.dumps(needed))
    return job


async def starts(site: Connection, *jobs: str) -> None:
    """They run, one after the other, at a supervisor that is not there. Nobody asks whether a model is free."""
    for job in jobs:
        await site.execute(
            """
            update pushq.jobs_unfinished
            set status = 'running', supervisor = 'none', pool = 1, attempt = 1, token = gen_random_uuid(),
                started_at = clock_timestamp()
            where coalesce(correlation_id, id::text) = $1
            """,
            job,
        )


async def job_of(site: Connection, job: str) -> Any:
    row = await site.fetchrow("select * from jobs where id = $1", job)
    assert row
    return row


async def log_of(site: Connection, job: str) -> list[str]:
    asked = OLD["SHOW"].split(";\n")[2]
    return [row["event_type"] for row in await site.fetch(asked, job)]


async def has_status(site: Connection, job: str, status: str) -> None:
    async def look() -> bool:
        return bool(await site.fetchval("select status from jobs where id = $1", job) == status)

    await eventually(look, within=20)


# What the site sees --------------------------------------------------------------------------------------------------


async def test_the_old_statements_run(site: Connection) -> None:
    verify, show = (re.findall(r"^(SELECT .*?);", OLD[name], re.MULTILINE | re.DOTALL) for name in ("VERIFY", "SHOW"))
    assert [len(await site.fetch(statement)) for statement in verify] == [5, 3, 1]
    job = await insert(site, "a")
    assert [row["id"] for row in await site.fetch(show[0])] == [job]
    assert await site.fetch(show[1]) == []
    assert [row["event_type"] for row in await site.fetch(show[2], job)] == ["queued"]


async def test_the_views_have_the_columns_of_the_contract(site: Connection) -> None:
    columns = """
        select string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' order by attnum)
        from pg_attribute where attrelid = to_regclass($1) and attnum > 0
    """
    at, text = "timestamp with time zone", "text"
    for view, expected in (
        (
            "jobs",
            (
                f"id {text}, status {text}, payload jsonb, priority integer, required_models jsonb, "
                f"queue_position integer, blocked_by_job_id {text}, conflict_reason {text}, queued_at {at}, "
                f"started_at {at}, completed_at {at}"
            ),
        ),
        (
            "workflow_executions",
            (
                f"id {text}, status {text}, steps jsonb, required_models jsonb, current_step_model {text}, "
                f"blocked_by_job_id {text}, created_at {at}, completed_at {at}"
            ),
        ),
        (
            "job_queue_state",
            (
                f"id integer, active_job_id {text}, active_job_type {text}, active_models jsonb, started_at {at}, "
                f"last_updated {at}"
            ),
        ),
        (
            "job_queue_log",
            (
                f"id uuid, job_id {text}, job_type {text}, event_type {text}, models jsonb, blocked_by_job_id {text}, "
                f"conflict_reason {text}, metadata jsonb, created_at {at}"
            ),
        ),
    ):
        assert await site.fetchval(columns, view) == expected


async def test_an_id_is_any_text_and_stays_what_it_was(site: Connection) -> None:
    for given in ("7", "Job of Ada's", str(uuid4()), str(uuid4()).upper(), "x" * 200):
        returned = await site.fetchrow("insert into jobs (id) values ($1) returning *", given)
        kept = await job_of(site, given)
        assert returned is not None
        assert dict(kept) | {"queue_position": None} == dict(returned)  # an INSERT does not count the line
        assert (returned["id"], returned["status"]) == (given, "queued")
        with pytest.raises(asyncpg.UniqueViolationError, match="jobs_pkey"):
            await site.execute("insert into jobs (id) values ($1)", given)
    made = await site.fetchval("insert into jobs (payload) values ('{\"seconds\": 1}') returning id")
    assert await site.fetchval("select payload from pushq.jobs where id = $1::text::uuid", made) == (
        '{"models": [], "seconds": 1}'
    )
    await site.execute("select pushq.cancel($1::text::uuid)", made)
    with pytest.raises(asyncpg.UniqueViolationError):  # finished ones, too
        await site.execute("insert into jobs (id) values ($1)", made)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"id": ""}, "an id has 1 to 200 characters, not 0"),
        ({"id": "x" * 201}, "an id has 1 to 200 characters, not 201"),
        ({"status": "running"}, "a job begins as queued, and not as running"),
        ({"payload": "[]"}, "payload is an object, not array"),
        ({"priority": 40000}, "priority is a number from -32768 to 32767, not 40000"),
        ({"required_models": '{"a": 1}'}, "required_models is an array of names"),
        ({"required_models": '[["a"]]'}, "required_models is an array of names"),
        ({"required_models": '["a", null]'}, "required_models is an array of names"),
        ({"required_models": '[""]'}, "the name of a model has 1 to 194 characters"),
        ({"required_models": json.dumps(["x" * 195])}, "the name of a model has 1 to 194 characters"),
        ({"required_models": json.dumps([str(n) for n in range(17)])}, "a job needs at most 16 models"),
    ],
)
async def test_what_cannot_be_a_job_is_refused_in_a_sentence(
    site: Connection, columns: dict[str, Any], said: str
) -> None:
    names = ", ".join(columns)
    values = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    with pytest.raises(asyncpg.CheckViolationError, match=re.escape(said)):
        await site.execute(f"insert into jobs ({names}) values ({values})", *columns.values())
    assert await site.fetchval("select count(*) from jobs") == 0


async def test_a_job_is_changed_by_pushq_s_functions_and_an_update_says_so(site: Connection) -> None:
    job = await insert(site, "a")
    for statement in ("update jobs set priority = 3", "delete from jobs"):
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="not changed by UPDATE or DELETE") as refused:
            await site.execute(statement)
        assert "pushq.cancel" in str(refused.value.hint)
    assert (await job_of(site, job))["status"] == "queued"


async def test_many_names_and_models_of_the_longest_names_fit(site: Connection) -> None:
    needed = [chr(ord("a") + number) * 194 for number in range(16)]
    job = await insert(site, *needed, needed[0])
    assert json.loads((await job_of(site, job))["required_models"]) == [*needed, needed[0]]
    assert await site.fetchval("select count(*) from pushq.jobs, jsonb_object_keys(needs)") == 16


async def test_a_job_of_another_queue_that_holds_a_model_is_named(site: Connection) -> None:
    other = str(
        await site.fetchval("insert into pushq.jobs (task, needs) values ('train', '[\"model:a\"]') returning id")
    )
    await starts(site, other)
    row = await job_of(site, await insert(site, "a"))
    assert (row["status"], row["blocked_by_job_id"]) == ("blocked", other)
    state = await site.fetchrow("select * from job_queue_state")
    assert state is not None
    assert (state["active_job_id"], state["active_models"]) == (None, '["a"]')


async def test_old_jobs_that_are_moved_in_keep_their_places(site: Connection) -> None:
    await insert(site, "a", job="new")
    insert_old = "insert into jobs (id, required_models, queued_at) values ($1, '[\"a\"]', now() + $2)"
    await site.execute(insert_old, "old", timedelta(hours=-1))
    await site.execute(insert_old, "ahead of the clock", timedelta(hours=1))
    listed = [row["id"] for row in await site.fetch("select id from jobs order by queue_position")]
    assert listed == ["old", "new", "ahead of the clock"]
    assert (await look(site)).wrong == []


# The log -------------------------------------------------------------------------------------------------------------


async def test_the_log_tells_who_blocked_a_job_when_it_was_queued_whatever_happens_later(site: Connection) -> None:
    first, second = await insert(site, "a", "b", job="first"), await insert(site, "c", job="second")
    await starts(site, first, second)
    blocked = await insert(site, "c", "b", job="blocked")
    free = await insert(site, "d")
    await site.execute("select pushq.cancel(id) from pushq.jobs_unfinished where status = 'running'")
    queued = """
        select models, blocked_by_job_id, conflict_reason
        from job_queue_log where job_id = $1 and event_type = 'queued'
    """
    assert tuple(await site.fetchrow(queued, blocked) or ()) == (
        '["c", "b"]',
        "first",
        "model b is held by job first",
    )
    assert tuple(await site.fetchrow(queued, free) or ())[1:] == (None, None)
    assert tuple(await site.fetchrow(queued, first) or ())[1:] == (None, None)


async def test_the_log_tells_a_job_s_events_in_order(site: Connection, database_url: str, models: Any) -> None:
    with supervising_example(database_url, EXAMPLE, "--queue=models") as supervisor:
        done = await insert(site, "a")
        await has_status(site, done, "completed")
        killed = await insert(site, "a", seconds=600)
        await has_status(site, killed, "running")
        supervisor.kill_all()
    cancelled = await insert(site, "b")
    await site.execute("select pushq.cancel($1::text::uuid)", cancelled)
    await site.execute("select pushq.retry($1::text::uuid)", cancelled)
    with supervising_example(database_url, EXAMPLE, "--queue=models"):
        await has_status(site, cancelled, "completed")

        async def runs_again() -> bool:
            return (await log_of(site, killed))[-2:] == ["requeued", "started"]

        await eventually(runs_again, within=20)
        await site.execute("select pushq.cancel($1::text::uuid)", killed)
        await has_status(site, killed, "cancelled")
        native = await site.fetchval(
            "insert into pushq.jobs (task, queue, payload) "
            "values ('coord.run', 'models', '{\"models\": []}') returning id::text"
        )
        await has_status(site, native, "completed")
    assert await log_of(site, done) == ["queued", "started", "completed"]
    assert await log_of(site, killed) == ["queued", "started", "requeued", "started", "cancelled"]
    assert await log_of(site, cancelled) == ["queued", "cancelled", "retried", "started", "completed"]
    assert await log_of(site, native) == ["queued", "started", "completed"]
    assert await wrong_logs(site) == []
    assert models.met == []


# The handler ---------------------------------------------------------------------------------------------------------


async def test_the_models_are_told_the_job_by_its_old_id_and_the_answer_is_the_result(
    site: Connection, database_url: str, models: Any
) -> None:
    jobs = [await insert(site, "a", "b", job="job 1"), await insert(site)]
    with supervising_example(database_url, EXAMPLE, "--queue=models"):
        for job in jobs:
            await has_status(site, job, "completed")
    assert models.runs == Counter(jobs)
    result = await site.fetchval("select result from pushq.jobs where correlation_id = 'job 1'")
    assert json.loads(result) == {"job_id": "job 1", "models": ["a", "b"]}


async def test_a_refusal_fails_the_job_and_a_lost_connection_is_tried_again(
    site: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [b"", b"HTTP/1.1 200 OK\r\n\r\n{}", b"HTTP/1.1 503 Busy\r\n\r\nno room"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(answers.pop(0))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        monkeypatch.setenv("COORD_MODEL_URL", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        with supervising_example(database_url, EXAMPLE, "--queue=models"):
            lost = await insert(site, "a")
            await has_status(site, lost, "completed")
            refused = await insert(site, "a")
            await has_status(site, refused, "failed")
    assert await log_of(site, lost) == ["queued", "started", "retried", "started", "completed"]
    error = "select metadata ->> 'error' from job_queue_log where job_id = $1 and event_type = 'failed'"
    assert await site.fetchval(error, refused) == "tasks.ModelError: the models' server answered 503: no room"


# True at every moment ------------------------------------------------------------------------------------------------


async def scene(site: Connection) -> None:
    """Jobs of which each is told something else, and whom a wrong view would tell something wrong."""
    for number, (needed, priority) in enumerate(
        [("ab", 0), ("bc", 3), ("d", 0), ("cd", -1), ("a", 0), ("e", 5), ("e", -2), ("", 0), ("ea", 1), ("dc", 0)]
    ):
        await insert(site, *needed, priority=priority, job=f"job {number}")
    async with site.transaction():  # of one instant
        for job in ("y", "x", str(uuid4())):
            await insert(site, "a", job=job)
    await site.execute("insert into pushq.jobs (task, queue, priority) values ('else', 'models', -5)")
    await site.execute("insert into pushq.jobs (task, needs) values ('train', '[\"model:z\"]')")
    train = await site.fetchval("select id::text from pushq.jobs where task = 'train'")
    await starts(site, "job 3", train, "job 0")
    await insert(site, "a", "c", job="late")
    await site.execute(
        """
        select pushq.cancel(id) from pushq.jobs where correlation_id = 'job 7';
        update pushq.jobs_unfinished set run_at = now() + interval '1 hour' where correlation_id = 'job 4'
        """
    )


async def test_the_views_agree_with_what_python_computes_from_the_rows(site: Connection) -> None:
    await scene(site)
    found = await look(site)
    assert found.wrong == []
    assert found.blocked == 9
    await site.execute("update pushq.jobs_unfinished set run_at = enqueued_at")  # pushq.position() counts what is due
    of_pushq = """
        select its.queue_position, pushq.position(job.id) + 1
        from jobs as its join pushq.jobs as job on coalesce(job.correlation_id, job.id::text) = its.id
        where its.queue_position is not null and job.correlation_id not in ('x', 'y')
    """  # of one instant, pushq orders by the uuid, and the view by the text
    rows = [tuple(row) for row in await site.fetch(of_pushq)]
    assert [theirs for _, theirs in rows] == [ours for ours, _ in rows]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("priority, run_at,\n  ", "run_at, priority,\n  "),
        ("then correlation_id else id::text end) collate \"C\") as place", "then '' else id::text end) collate \"C\") as place"),  # noqa: E501
        ("row_number() over", "-1 + row_number() over"),
        ("is not null and status = 'queued'\n        ) as waiting", "is not null\n        ) as waiting"),
        ("status = 'queued'\n        ) as waiting", "status = 'queued' and task = 'coord.run'\n        ) as waiting"),
        ("status = 'queued'\n        ) as waiting", "status = 'queued' and run_at <= now()\n        ) as waiting"),
        ("order by holder.started_at, holder", "order by holder.started_at desc, holder"),
        ("order by holder.started_at, holder.job_id", "order by holder.job_id"),
        ("where job.status = 'running' and job.needs is not null and", "where job.needs is not null and"),
        ("where job.status = 'running' and job.needs is not null and", "where job.status = 'running' and job.queue = 'models' and"),  # noqa: E501
        ("'model ' || first.model", "'model ' || substr(first.model, 2)"),
        ("case when first.job_id is null then 'queued' else 'blocked' end", "'queued'"),
        ("job.run_at as queued_at", "job.enqueued_at as queued_at"),
        ("order by job.started_at, 1", "order by job.started_at desc, 1"),
        ("from public.model_holders as holder\n", "from public.model_holders as holder where holder.model <> 'z'\n"),
        ("job.task = 'coord.run' and job.status = 'queued'", "job.status = 'queued'"),
        ("finished_on < 'infinity';\n\nalter", "finished_on < 'infinity' and status <> 'cancelled';\n\nalter"),
    ],
)  # fmt: skip
async def test_a_view_that_tells_something_else_is_found(site: Connection, right: str, wrong: str) -> None:
    await scene(site)
    schema = (EXAMPLES / EXAMPLE / "schema.sql").read_text()
    assert schema.count(right) == 1
    schema = schema.replace("\nbegin;\n", "\n").replace("\ncommit;\n", "\n").replace(right, wrong)
    transaction = site.transaction()
    await transaction.start()
    await site.execute(schema)
    found = await compared(site)
    await transaction.rollback()
    assert found.wrong


async def test_two_jobs_on_one_model_are_found(site: Connection) -> None:
    await starts(site, await insert(site, "a", "b"), await insert(site, "b", "c"))
    assert [wrong[:22] for wrong in (await look(site)).wrong] == ["2 jobs are on model b:"]


async def test_a_view_that_is_read_in_two_snapshots_is_found(site: Connection) -> None:
    """As a table would be that something keeps up to date."""
    await scene(site)
    await site.execute("create table kept as select * from jobs")
    await starts(site, "job 1")
    schema = "alter view jobs rename to true_jobs; alter table kept rename to jobs"
    transaction = site.transaction()
    await transaction.start()
    await site.execute(schema)
    found = await compared(site)
    await transaction.rollback()
    await site.execute("drop table kept")
    assert found.wrong


async def test_through_random_jobs_and_kills_every_look_is_true_and_no_model_has_two(
    site: Connection, database_url: str, models: Any
) -> None:
    dice = random.Random(JOBS)
    inserted: list[str] = []
    flags = ("--queue=models", "--concurrency=4", "--processes=2")
    with ExitStack() as running:
        supervisors = [running.enter_context(supervising_example(database_url, EXAMPLE, *flags)) for _ in range(2)]
        async with asyncio.TaskGroup() as group:
            producing = group.create_task(_produce(database_url, dice, inserted))
            others = [
                group.create_task(_meddle(database_url, dice, inserted)),
                group.create_task(_kill(supervisors, dice)),
            ]
            looks = waiting = blocked = 0
            until = monotonic() + 60 + JOBS / 5
            while True:
                found = await look(site)
                assert found.wrong == []
                looks, waiting, blocked = looks + 1, waiting + found.waiting, blocked + found.blocked
                if producing.done() and not found.waiting and await _ended(site) == JOBS:
                    break
                assert monotonic() < until, "The jobs have not ended."
                await asyncio.sleep(0.02)
            for other in others:
                other.cancel()
    print(f"{JOBS} jobs, {looks} looks at {waiting} waiting jobs, {blocked} blocked ones; {models.runs.total()} runs")
    assert blocked > JOBS / 10
    assert models.met == []
    assert await wrong_logs(site) == []
    ran = await site.fetch("select id from jobs where status = 'completed'")
    assert {row["id"] for row in ran} <= models.runs.keys()


async def _ended(site: Connection) -> int:
    return int(await site.fetchval("select count(*) from jobs where completed_at is not null"))


async def _produce(url: str, dice: random.Random, inserted: list[str]) -> None:
    connection = await asyncpg.connect(url, server_settings={"search_path": "public"})
    while len(inserted) < JOBS:
        async with connection.transaction():
            for _ in range(min(dice.randint(1, 40), JOBS - len(inserted))):
                job = str(uuid4()) if dice.random() < 0.5 else f"job {len(inserted)}"
                needed = dice.sample(MODELS, dice.choice([0, 1, 1, 1, 2, 3]))
                seconds = dice.choice([0, 0, 0.01, 0.05])
                await insert(connection, *needed, priority=dice.randint(-2, 2), seconds=seconds, job=job)
                inserted.append(job)
        await asyncio.sleep(dice.random() * 0.2)
        await eventually(lambda: _has_room(connection), within=60)
    await connection.close()


async def _has_room(connection: Connection) -> bool:
    return int(await connection.fetchval("select count(*) from pushq.jobs_unfinished")) < 400


async def _meddle(url: str, dice: random.Random, inserted: list[str]) -> None:
    """Cancels, puts forward, puts off."""
    connection = await asyncpg.connect(url, server_settings={"search_path": "public"})
    changes = (
        "select pushq.cancel(id) from pushq.jobs_unfinished where coalesce(correlation_id, id::text) = $1",
        "select pushq.reprioritize(id, -3) from pushq.jobs_unfinished where coalesce(correlation_id, id::text) = $1",
        (
            "select pushq.reschedule(id, now() + interval '1 second') from pushq.jobs_unfinished "
            "where coalesce(correlation_id, id::text) = $1"
        ),
    )
    try:
        while True:
            if inserted:
                await connection.execute(dice.choice(changes), dice.choice(inserted[-100:]))
            await asyncio.sleep(0.05)
    finally:
        await connection.close()


async def _kill(supervisors: list[RunningSupervisor], dice: random.Random) -> None:
    while True:
        await asyncio.sleep(1 + dice.random())
        with suppress(ProcessLookupError, IndexError, FileNotFoundError):
            os.kill(dice.choice(dice.choice(supervisors).pools), signal.SIGKILL)


# What it costs -------------------------------------------------------------------------------------------------------


async def test_a_poll_of_one_job_and_of_the_state_reads_a_few_rows_however_many_wait(site: Connection) -> None:
    await site.execute(
        """
        insert into pushq.jobs (task, queue, payload, needs)
        select 'coord.run', 'models', '{"models": ["a"]}', '["model:a"]' from generate_series(1, 2000)
        """
    )
    job = await site.fetchval("select id from jobs limit 1")
    await starts(site, job)
    polls = (
        ("select id, status, blocked_by_job_id, conflict_reason from jobs where id = $1", job),
        ("select * from job_queue_state",),
        ("select * from job_queue_log where job_id = $1 order by created_at, id", job),
    )
    lists = (
        ("select id, status from jobs where status in ('queued', 'blocked') limit 10",),
        ("select id, status from jobs where status in ('completed', 'failed') limit 10",),
    )
    assert await most_read(site, *polls) <= 12
    await site.execute("analyze pushq.jobs_unfinished")
    assert await most_read(site, *polls, *lists) <= 12


async def most_read(site: Connection, *statements: tuple[Any, ...]) -> float:
    plans = [
        json.loads(await site.fetchval(f"explain (analyze, format json) {statement}", *given))
        for statement, *given in statements
    ]
    return max(most_rows_read(plan[0]["Plan"]) for plan in plans)


def most_rows_read(plan: dict[str, Any]) -> float:
    own = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    return max([float(own), *map(most_rows_read, plan.get("Plans", []))])


# In and out ----------------------------------------------------------------------------------------------------------


async def test_schema_sql_may_run_again_and_pushq_finds_its_schema_whole(site: Connection, database_url: str) -> None:
    job = await insert(site, "a")
    await apply(database_url, EXAMPLE, "schema.sql")
    assert (await job_of(site, job))["status"] == "queued"
    assert await faults(database_url) == []


async def test_rollback_gives_the_tables_back_and_the_readme_s_statements_take_the_jobs_along(
    migrated: Connection, migrated_url: str
) -> None:
    await migrated.execute(
        """
        set search_path = public;
        create table jobs (
            id text primary key, status text default 'queued', payload jsonb, priority int default 0,
            required_models jsonb, queue_position int, blocked_by_job_id text, conflict_reason text,
            queued_at timestamptz default now(), note text);
        create table job_queue_state (id int primary key);
        create table job_queue_log (id uuid, job_id text references jobs (id));
        create role reader_of_jobs;
        grant select on jobs to reader_of_jobs;
        insert into jobs (id, status, payload, required_models) values
            ('1', 'queued', '{}', '["a"]'), ('2', 'blocked', '{}', '["a"]'), ('3', 'completed', '{}', '[]'),
            ('4', 'running', '{}', '["a"]');
        """
    )
    await apply(migrated_url, EXAMPLE, "schema.sql")
    move, back = blocks("sql", (EXAMPLES / EXAMPLE / "README.md").read_text())[:2]
    await migrated.execute(move)
    assert [row["id"] for row in await migrated.fetch("select id from jobs order by queue_position")] == ["1", "2", "4"]
    assert await migrated.fetchval("select has_table_privilege('reader_of_jobs', 'jobs', 'select')")
    assert await migrated.fetchval("select count(*) from pg_tables where tablename = 'job_queue_log'") == 0
    with pytest.raises(asyncpg.WrongObjectTypeError, match='"job_queue_log" is not a table'):
        await migrated.execute("DROP TABLE IF EXISTS job_queue_log")
    await migrated.execute("insert into jobs (id, required_models) values ('5', '[\"b\"]')")
    await migrated.execute(back)
    for _ in range(2):
        await apply(migrated_url, EXAMPLE, "rollback.sql")
    rows = await migrated.fetch("select id, status from jobs order by id")
    assert [tuple(row) for row in rows] == [
        ("1", "queued"), ("2", "queued"), ("3", "completed"), ("4", "queued"), ("5", "queued"),
    ]  # fmt: skip
    assert await migrated.fetchval("select count(*) from pushq.jobs") == 0
    assert await faults(migrated_url) == []
    await migrated.execute("drop table job_queue_log, job_queue_state, jobs; drop role reader_of_jobs")


async def test_whoever_may_use_the_views_needs_no_right_in_pushq(site: Connection) -> None:
    await site.execute(
        """
        create role visitor;
        grant select, insert on jobs to visitor;
        grant select on workflow_executions, job_queue_state, job_queue_log to visitor;
        set role visitor
        """
    )
    job = await site.fetchval("insert into jobs (required_models) values ('[\"a\"]') returning id")
    assert (await job_of(site, job))["queue_position"] == 1
    assert await log_of(site, job) == ["queued"]
    assert await site.fetchval("select active_models from job_queue_state") == "[]"
    await site.execute("reset role; drop owned by visitor; drop role visitor")


async def test_tables_that_refer_to_the_old_ones_are_named(migrated: Connection, migrated_url: str) -> None:
    await migrated.execute(
        "create table public.jobs (id text primary key); create table public.notes (job text references public.jobs)"
    )
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="foreign keys") as refused:
        await apply(migrated_url, EXAMPLE, "schema.sql")
    assert "drop constraint notes_job_fkey" in str(refused.value.hint)
    assert await migrated.fetchval("select relkind from pg_class where oid = 'public.jobs'::regclass") == b"r"


# The show ------------------------------------------------------------------------------------------------------------


def run(url: str | None, cwd: Path, until: str = "", **variables: str) -> tuple[int, str]:
    """The exit code of run.py, and what run.py said. until: a line at which Ctrl-C is pressed."""
    with subprocess.Popen(
        [sys.executable, EXAMPLES / EXAMPLE / "run.py"],
        env=environment(url) | variables,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        assert running.stdout
        said = ""
        for line in running.stdout:
            said += line
            if until and until in line:
                running.send_signal(signal.SIGINT)
        return running.wait(20), said


def test_the_show_runs_from_any_directory_and_leaves_nothing(tmp_path: Path) -> None:
    with TemporaryDirectory(prefix="pushq-test-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)  # PostgreSQL's user gets in
        exit_code, told = run(None, tmp_path, TMPDIR=directory)
        assert exit_code == 0, told
        assert [*tmp_path.iterdir(), *Path(directory).iterdir()] == []
    for said in ("is held by", "All pools are killed", "never two on one model", "requeued"):
        assert said in told


@pytest.mark.parametrize("server", ["oldest"], indirect=True)
async def test_the_show_ends_at_ctrl_c_and_leaves_a_given_database_as_it_was(
    migrated: Connection, migrated_url: str, tmp_path: Path
) -> None:
    exit_code, told = await asyncio.to_thread(run, migrated_url, tmp_path, "All pools are killed")
    assert exit_code == 130, told
    assert "nothing is left running" in told
    assert "Traceback" not in told
    assert await migrated.fetchval("select to_regclass('public.jobs') is null")
    for table in ("jobs", "supervisors"):
        assert await migrated.fetchval(f"select count(*) from pushq.{table}") == 0
