"""What pushq gives to the tests of an app, used as an app's tests use it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from asyncio import CancelledError
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from pushq import Cancel, Job, NewJob, Queue, Resource, Retry, Tasks, current_job, injected
from pushq.errors import ArtifactRefused, PayloadError, PushqError, TasksError
from pushq.testing import TestQueue, run
from tests.support.jobs import Connection
from tests.support.supervisors import ROOT, environment

tasks = Tasks()


@tasks.register("greet", queue="mail")
async def greet(name: str) -> str:
    return f"hello {name}, for the {current_job().attempt}. time"


@tasks.register("add")
def add(left: int, right: int) -> int:
    return left + right


@tasks.register("fail", max_attempts=2)
async def fail() -> None:
    raise ValueError("no")


@tasks.register("fail.once")
async def fail_once() -> int:
    if current_job().attempt == 1:
        raise ValueError("not yet")
    return current_job().attempt


@tasks.register("snooze")
async def snooze() -> str:
    if current_job().attempt == 1:
        raise Retry(after=timedelta(hours=1))
    return "late"


@tasks.register("cancel")
async def cancel() -> None:
    raise Cancel("not needed")


@tasks.register("exit", max_attempts=1)
async def leave() -> None:
    raise SystemExit("nothing to do")


@tasks.register("hang", timeout=timedelta(seconds=0.05), max_attempts=1)
async def hang() -> None:
    await asyncio.sleep(60)


@tasks.register("draw", needs=["gpu"])
async def draw() -> str:
    return "drawn"


@tasks.register("report", max_attempts=2)
async def report(size: int, fails: bool = False) -> None:
    async with current_job().artifact("report.csv", "text/csv") as file:
        await file.write(b"x" * size)
    async with current_job().artifact("more.csv", "text/csv") as file:
        await file.write(b"y")
        if fails and current_job().attempt == 1:
            raise ValueError("not yet")


@tasks.register("report.thread")
def report_in_a_thread(size: int) -> None:
    with current_job().artifact("report.csv", "text/csv") as file:
        file.write(b"x" * size)


# A handler, run inline -----------------------------------------------------------------------------------------------


async def test_a_handler_runs_inline_with_its_job_and_returns_its_result() -> None:
    assert await run(tasks, greet.job("ada")) == "hello ada, for the 1. time"
    assert await run(tasks, greet.job("ada"), attempt=3) == "hello ada, for the 3. time"
    assert await run(tasks, NewJob("add", {"left": 40, "right": 2})) == 42
    with pytest.raises(PushqError, match=r"current_job\(\) is for handlers"):
        current_job()


@pytest.mark.parametrize(
    ("job", "error"),
    [
        (fail.job(), ValueError),
        (snooze.job(), Retry),
        (cancel.job(), Cancel),
        (leave.job(), SystemExit),
        (hang.job(), TimeoutError),
        (NewJob("greet", {"nam": "ada"}), PayloadError),
        (NewJob("gret"), TasksError),
    ],
)
async def test_what_a_handler_raises_inline_is_raised(job: NewJob, error: type[BaseException]) -> None:
    with pytest.raises(error):
        await run(tasks, job)


async def test_inline_the_lifespan_and_the_middleware_are_entered_or_resources_are_given() -> None:
    shared, around = Tasks(), list[str]()

    @shared.lifespan
    async def numbers() -> AsyncIterator[list[int]]:
        yield [1, 2]

    @shared.middleware
    async def noted(job: Job) -> AsyncIterator[None]:
        around.append(f"before {job.task}")
        yield
        around.append("after")

    @shared.register("sum")
    def total(start: int, numbers: Resource[list[int]] = injected) -> int:
        assert current_job().resources == numbers
        return sum(numbers, start)

    assert await run(shared, total.job(10)) == 13
    assert await run(shared, total.job(10), resources=[5]) == 15
    assert around == ["before sum", "after"] * 2
    with pytest.raises(TasksError, match="needs a list, but the lifespan yields a str"):
        await run(shared, total.job(10), resources="none")


async def test_inline_artifacts_are_kept_for_the_test_by_the_rules_of_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    for job in (report.job(size=3_000_000), report_in_a_thread.job(size=3_000_000)):
        left: dict[str, bytes] = {}
        await run(tasks, job, artifacts=left)
        assert left["report.csv"] == b"x" * 3_000_000
    left = {}
    with pytest.raises(ValueError, match="not yet"):
        await run(tasks, report.job(size=1, fails=True), artifacts=left)
    assert left == {"report.csv": b"x"}
    await run(tasks, report.job(size=2, fails=True), attempt=2, artifacts=left)
    assert left == {"report.csv": b"xx", "more.csv": b"y"}
    await run(tasks, report.job(size=1))  # the test looks at none
    monkeypatch.setenv("PUSHQ_ARTIFACT_BYTES", "10")
    with pytest.raises(ArtifactRefused, match="is over 10 bytes, the limit"):
        await run(tasks, report.job(size=11))
    monkeypatch.setenv("PUSHQ_ARTIFACTS_PER_JOB", "1")
    with pytest.raises(ArtifactRefused, match="has 1 artifacts"):
        await run(tasks, report.job(size=1))
    with pytest.raises(PushqError, match="Artifacts are written by handlers"):
        Job(uuid4(), "t", "q", None, 1, 0, 0, None, None, None, None, uuid4()).artifact("a")


async def test_inline_an_exception_counts_even_if_the_middleware_swallows_it() -> None:
    odd = Tasks()

    @odd.middleware
    async def swallow(job: Job) -> AsyncIterator[None]:
        with suppress(ValueError, CancelledError):
            yield
        if job.task == "another":
            raise KeyError(job.task)

    @odd.register("fail")
    async def fail() -> None:
        raise ValueError

    @odd.register("another")
    async def another() -> None:
        raise ValueError

    @odd.register("batch", batch=10)
    async def batch(jobs: list[Job]) -> list[BaseException]:
        return [CancelledError() for _ in jobs]

    for job, error in ((fail.job(), ValueError), (another.job(), KeyError), (batch.job(), CancelledError)):
        with pytest.raises(error):
            await run(odd, job)


# A queue -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def queue(database_url: str) -> TestQueue:
    return TestQueue(database_url)


async def test_what_was_inserted_is_found_by_its_task_and_a_part_of_its_payload(
    queue: TestQueue, connection: Connection
) -> None:
    async with connection.transaction():
        await Queue().insert(greet.job("ada"), connection=connection)
        await Queue().insert(greet.job("bob"), connection=connection)
        assert await queue.inserted() == []
    await queue.insert(add.job(1, 2))

    assert [job.payload for job in await queue.inserted("greet")] == [{"name": "ada"}, {"name": "bob"}]
    (bob,) = await queue.inserted("greet", name="bob")
    assert (bob.task, bob.queue, bob.status, bob.attempt) == ("greet", "mail", "queued", 0)
    assert len(await queue.inserted()) == 3
    assert await queue.inserted("greet", name="eve") == []


async def test_a_drain_runs_what_is_due_in_order_and_what_that_inserts(
    queue: TestQueue, connection: Connection
) -> None:
    chain, ran = Tasks(), list[str]()

    @chain.register("first")
    async def first(follow: bool) -> None:
        ran.append("first")
        if follow:
            await Queue().insert(NewJob("second"), connection=connection)

    @chain.register("second")
    async def second() -> str:
        ran.append("second")
        return "done"

    await queue.insert(NewJob("unknown"))
    await queue.insert(first.job(follow=True))
    await queue.insert(first.job(follow=False))
    jobs = await queue.drain(chain)

    assert ran == ["first", "first", "second"]
    assert [(job.task, job.status, job.result) for job in jobs] == [
        ("first", "succeeded", None),
        ("first", "succeeded", None),
        ("second", "succeeded", "done"),
    ]
    assert await queue.drain(chain) == []


async def test_a_drain_decides_upon_whatever_a_handler_raises(queue: TestQueue) -> None:
    """Also upon what `asyncio.gather(…, return_exceptions=True)` returns of tasks that were cancelled."""
    odd = Tasks()

    @odd.register("alone", max_attempts=1)
    async def alone() -> None:
        raise CancelledError

    @odd.register("batch", batch=10, max_attempts=1)
    async def batch(jobs: list[Job]) -> list[BaseException]:
        return [CancelledError() for _ in jobs]

    await queue.insert(alone.job(), batch.job())
    ran = await queue.drain(odd)
    assert [(job.status, job.error) for job in ran] == [("failed", "asyncio.exceptions.CancelledError")] * 2


async def test_time_is_moved_to_see_a_retry(queue: TestQueue) -> None:
    await queue.insert(snooze.job(), fail.job(), fail_once.job(), cancel.job(), leave.job(), hang.job())
    first = {job.task: (job.status, job.failures) for job in await queue.drain(tasks)}
    assert first == {
        "snooze": ("queued", 0),
        "fail": ("queued", 1),
        "fail.once": ("queued", 1),
        "cancel": ("cancelled", 0),
        "exit": ("failed", 1),
        "hang": ("failed", 1),
    }
    await queue.pass_time(timedelta(minutes=30))
    assert {job.task: (job.status, job.error) for job in await queue.drain(tasks)} == {
        "fail": ("failed", "ValueError: no"),
        "fail.once": ("succeeded", None),
    }
    await queue.pass_time(timedelta(minutes=30))
    (late,) = await queue.drain(tasks)
    assert (late.result, late.attempt) == ("late", 2)


async def test_a_drain_runs_jobs_with_needs_and_the_test_sees_what_they_need(queue: TestQueue) -> None:
    said = [NewJob("add", {"left": 1, "right": number}, needs=["gpu"], limit_key="acme") for number in range(3)]
    await queue.insert(*said, draw.job(), NewJob("add", {"left": 1, "right": 4}, affinity="llama"))
    ran = await queue.drain(tasks)

    assert [job.status for job in ran] == ["succeeded"] * 5
    by_needs = {json.dumps(job.needs, sort_keys=True): (job.limit_key, job.affinity) for job in ran}
    assert by_needs == {
        '{"gpu": 1, "key:acme": 1}': ("acme", None),
        '{"gpu": 1}': (None, None),
        '{"affinity:llama": 1}': (None, "llama"),
    }


async def test_time_is_moved_to_see_what_a_rate_holds_back(queue: TestQueue, connection: Connection) -> None:
    await connection.execute("insert into pushq.resources (name, rate, burst) values ('api', 1.0 / 3600, 2)")
    await queue.insert(*[NewJob("add", {"left": 1, "right": number}, needs=["api"]) for number in range(4)])

    drained = []
    for _ in range(3):
        drained.append(len(await queue.drain(tasks)))
        await queue.pass_time(timedelta(hours=1.1))
    assert drained == [2, 1, 1]


async def test_a_drain_keeps_artifacts_in_the_database(queue: TestQueue) -> None:
    jobs = await queue.insert(report.job(size=3_000_000, fails=True), report_in_a_thread.job(size=7))
    await queue.drain(tasks)
    assert [await queue.artifacts(job) for job in jobs] == [{"report.csv": b"x" * 3_000_000}, {"report.csv": b"x" * 7}]
    await queue.pass_time(timedelta(minutes=30))
    await queue.drain(tasks)
    assert await queue.artifacts(jobs[0]) == {"report.csv": b"x" * 3_000_000, "more.csv": b"y"}


async def test_a_job_without_end_ends_the_drain_with_a_sentence(queue: TestQueue) -> None:
    again = Tasks()

    @again.register("again")
    async def once_more() -> None:
        raise Retry(timedelta(0))

    await queue.insert(once_more.job())
    with pytest.raises(AssertionError, match="1000 attempts, and still jobs are due"):
        await queue.drain(again)


# pytest's plugin -----------------------------------------------------------------------------------------------------

CONFTEST = """
import asyncio, asyncpg, pytest

@pytest.fixture(scope="session")
def pushq_template(pushq_template):
    async def prepare():
        connection = await asyncpg.connect(pushq_template)
        await connection.execute("create table users (name text)")
        await connection.close()
    asyncio.run(prepare())
    return pushq_template
"""
TESTS = """
import asyncio, asyncpg, pytest
from pushq import Queue, Tasks

tasks = Tasks()

@tasks.register("welcome")
async def welcome(name: str) -> str:
    return f"welcome {name}"

async def sign_up(url, name):
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        await connection.execute("insert into users values ($1)", name)
        await Queue().insert(welcome.job(name), connection=connection)
    await connection.close()

@pytest.mark.parametrize("name", ["ada", "bob"])
def test_signed_up(pushq_queue, name):
    async def all_of_it():
        assert await pushq_queue.inserted() == []
        await sign_up(pushq_queue.url, name)
        assert await pushq_queue.inserted("welcome", name=name)
        (job,) = await pushq_queue.drain(tasks)
        assert job.result == f"welcome {name}"
    asyncio.run(all_of_it())

def test_not_asked_for():
    pass
"""


@pytest.mark.parametrize("given", [True, False], ids=["a server that is there", "a server that is started"])
def test_an_app_s_tests_have_a_database_each_with_the_app_s_own_schema(
    database_url: str, tmp_path: Path, given: bool
) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_app.py").write_text(TESTS)
    env = environment(None) | {"PYTHONPATH": str(ROOT)}
    env |= {"PUSHQ_TEST_DATABASE_URL": database_url} if given else {}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    began = time.monotonic()
    ended = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout
    assert "3 passed" in ended.stdout
    assert time.monotonic() - began < 60


def test_where_there_is_no_server_to_start_an_app_s_test_fails_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "test_app.py").write_text("def test_it(pushq_queue): pass\n")
    env = environment(None, PG_BINDIR="/nowhere")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    ended = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "Or name a server of yours in PUSHQ_TEST_DATABASE_URL." in ended.stdout
    assert "Traceback" not in ended.stdout


# Transactional handlers ---------------------------------------------------------------------------------------------


@tasks.register("note", transactional=True)
async def note(text: str) -> str:
    connection = await current_job().connection()
    await connection.execute("insert into public.notes values ($1)", text)
    if text == "bad":
        raise ValueError(text)
    return text


async def test_a_transactional_handler_gets_the_connection_that_the_test_gives(connection: Connection) -> None:
    await connection.execute("create table public.notes (text text)")
    transaction = connection.transaction()
    await transaction.start()
    assert await run(tasks, note.job(text="good"), connection=connection) == "good"
    assert await connection.fetchval("select text from public.notes") == "good"
    await transaction.rollback()
    assert await connection.fetchval("select count(*) from public.notes") == 0

    with pytest.raises(PushqError, match="connection="):
        await run(tasks, note.job(text="good"))


async def test_a_drain_commits_what_a_transactional_handler_writes_with_the_end_of_its_job(
    connection: Connection, database_url: str
) -> None:
    await connection.execute("create table public.notes (text text)")
    queue = TestQueue(database_url)
    await queue.insert(note.job(text="good"), note.job(text="bad"))
    good, bad = await queue.drain(tasks)

    assert (good.status, good.result, bad.status, bad.failures) == ("succeeded", "good", "queued", 1)
    assert [row["text"] for row in await connection.fetch("select text from public.notes")] == ["good"]
