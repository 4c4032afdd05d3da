"""docs/examples/model_server: the old statements run, each state is told, a model is loaded only when it changes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import anyio
import asyncpg
import httpx
import pytest
from anyio.abc import ByteStream

from pushq.database.schema import faults
from tests.examples.files import EXAMPLES, apply, statements, supervising_example
from tests.support.jobs import Connection
from tests.support.proxy import proxied
from tests.support.receivers import Receiver, Request, answers, receiving
from tests.support.roles import a_login_each
from tests.support.supervisors import environment
from tests.support.waiting import eventually

EXAMPLE = "model_server"
FOLDER = EXAMPLES / EXAMPLE
OLD = {name: text.strip().rstrip(";") for name, text in statements(EXAMPLE).items()}
ALLOW = "--webhook-allow=127.0.0.0/8"
LOADED, FRESH = ["queued", "working", "done"], ["queued", "loading", "working", "done"]


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[Connection]:
    """The tests' login may be named pushq, which would find pushq.jobs for `jobs`."""
    connection = await asyncpg.connect(database_url, server_settings={"search_path": "public"})
    yield connection
    await connection.close(timeout=5)


def module(name: str) -> Any:
    """A module of the example."""
    spec = spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec
    assert spec.loader
    loaded = module_from_spec(spec)
    with patch.dict(sys.modules, {name: loaded}):  # where dataclasses look
        spec.loader.exec_module(loaded)
    return loaded


def _fake_model() -> Any:
    fake = module("fake_model")

    class Model(fake.FakeModel):  # type: ignore[name-defined, misc]
        """ways: what becomes of the next chats. None: as ever. A number: the status. "lost": no answer.

        gate: shut, loads and chats wait.
        """

        def __init__(self) -> None:
            super().__init__()
            self.ways: deque[Any] = deque()
            self.asked = asyncio.Event()
            self.gate = asyncio.Event()
            self.gate.set()

        async def answer(self, path: str, request: dict[str, Any]) -> tuple[int, Any]:
            if path != "/api/embeddings":
                self.asked.set()
                await self.gate.wait()
            way = self.ways.popleft() if self.ways and path == "/api/chat" else None
            if way == "lost":
                self.chats.append(request)
                raise ConnectionError
            if isinstance(way, int):
                self.chats.append(request)
                return way, {"error": "no room"}
            return await super().answer(path, request)  # type: ignore[no-any-return]

    return Model()


@pytest.fixture
async def model(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    served = _fake_model()
    async with served.served() as url:
        monkeypatch.setenv("FOREMAN_OLLAMA_URL", url)
        yield served


def working(url: str, *flags: str) -> Any:
    return supervising_example(url, EXAMPLE, "--concurrency=1", ALLOW, *flags)


@contextmanager
def started(url: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """`python server.py`, which listens. Its URL is `base`."""
    foreman = {"LISTEN": "127.0.0.1:0"} | variables
    with subprocess.Popen(
        [sys.executable, "server.py"],
        cwd=FOLDER,
        env=environment(url) | {f"FOREMAN_{name}": value for name, value in foreman.items()},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            assert line.startswith("listening on ")
            process.base = line.split()[-1]  # type: ignore[attr-defined]
            yield process
        finally:
            process.kill()


@asynccontextmanager
async def serving(url: str, **variables: str) -> AsyncIterator[httpx.AsyncClient]:
    with started(url, **variables) as process:
        async with httpx.AsyncClient(base_url=process.base, timeout=30, trust_env=False) as http:  # type: ignore[attr-defined]
            yield http


async def create(app: Connection, model: str = "llama", *, job: str = "", url: str | None = None, **given: Any) -> str:
    """By the old statement."""
    job = job or str(uuid4())
    at = given.get("created_at", datetime.now(UTC))
    payload = json.dumps(given.get("payload", {"messages": []}))
    await app.execute(
        OLD["CREATE"],
        *(job, model, payload, given.get("state", "queued"), given.get("attempt", 0), given.get("max_attempts", 0)),
        *(url, at, at),
    )
    return job


async def attach(app: Connection, job: str, name: str, data: bytes, kind: str = "image/png") -> None:
    await app.execute(OLD["ATTACH"], job, name, kind, data, len(data), datetime.now(UTC))


async def get(app: Connection, job: str) -> Any:
    return await app.fetchrow(OLD["GET"], job)


async def has_state(app: Connection, job: str, state: str, within: float = 20) -> Any:
    async def look() -> Any:
        row = await get(app, job)
        return row if row and row["state"] == state else None

    return await eventually(look, within=within)


async def told(receiver: Receiver, job: str, count: int, within: float = 30) -> list[str]:
    """The states that a receiver was told of a job, once there are so many. A delivery that came twice counts once."""

    async def look() -> list[str] | None:
        found = {
            request.headers["webhook-id"]: request.json["state"]
            for request in receiver.requests
            if request.json["id"] == job
        }
        return [*found.values()] if len(found) >= count else None

    return await eventually(look, within=within) or []


# The old statements --------------------------------------------------------------------------------------------------


async def test_the_old_statements_run(app: Connection) -> None:
    at = datetime.now(UTC).replace(microsecond=0)
    await app.execute(OLD["CREATE"], "7", "llama", '{"messages": []}', "queued", 0, 5, "http://a.example/h", at, at)
    await app.execute(OLD["CREATE"], "8", "qwen", "{}", "queued", 0, 0, None, at + timedelta(seconds=1), at)
    row = await get(app, "7")
    assert dict(row) == {
        "id": "7", "model": "llama", "payload": '{"messages": []}', "state": "queued", "result": None, "error": None,
        "attempt": 0, "max_attempts": 5, "state_webhook_url": "http://a.example/h", "created_at": at, "updated_at": at,
        "started_at": None, "completed_at": None,
    }  # fmt: skip
    assert await get(app, "9") is None
    assert [row["id"] for row in await app.fetch(OLD["LIST"])] == ["8", "7"]
    assert [row["id"] for row in await app.fetch(OLD["LIST_BY_STATE"], "queued")] == ["8", "7"]
    assert await app.fetch(OLD["LIST_BY_STATE"], "done") == []
    await attach(app, "7", "b", b"\x00\xff")
    await attach(app, "7", "a", b"")
    fetched = await app.fetchrow(OLD["FETCH"], "7", "b")
    assert fetched
    assert (fetched["job_id"], fetched["content_type"], fetched["data"], fetched["size"]) == (
        "7",
        "image/png",
        b"\x00\xff",
        2,
    )
    assert [row["name"] for row in await app.fetch(OLD["FETCH_ALL"], "7")] == ["a", "b"]
    await app.execute("select pushq.cancel(foreman_uuid('7'))")
    past, soon = datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(hours=1)
    assert await app.execute(OLD["EXPIRE_ARTIFACTS"], past) == "DELETE 0"
    assert await app.execute(OLD["EXPIRE_ARTIFACTS"], soon) == "DELETE 2"
    assert await app.execute(OLD["EXPIRE_JOBS"], soon) == "DELETE 1"
    assert [row["id"] for row in await app.fetch(OLD["LIST"])] == ["8"]


async def test_the_views_have_the_old_columns(app: Connection) -> None:
    columns = """
        select string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' order by attnum)
        from pg_attribute where attrelid = to_regclass($1) and attnum > 0
    """
    at = "timestamp with time zone"
    assert await app.fetchval(columns, "jobs") == (
        "id text, model text, payload jsonb, state text, result jsonb, error text, attempt integer, "
        f"max_attempts integer, state_webhook_url text, created_at {at}, updated_at {at}, started_at {at}, "
        f"completed_at {at}"
    )
    assert await app.fetchval(columns, "artifacts") == (
        f"id uuid, job_id text, name text, content_type text, data bytea, size bigint, created_at {at}"
    )


async def test_an_id_is_any_text_and_stays_what_it_was(app: Connection) -> None:
    for given in (
        "7",
        "Job of Ada's",
        "a/b%00",
        "日本",
        str(uuid4()),
        str(uuid4()).upper(),
        str(uuid5(NAMESPACE_URL, "x")),
        "x" * 200,
    ):
        returned = await app.fetchrow("insert into jobs (id, model) values ($1, 'llama') returning *", given)
        assert returned == await app.fetchrow("select * from jobs where id = $1", given)
        assert returned
        assert (returned["id"], returned["state"]) == (given, "queued")
        with pytest.raises(asyncpg.UniqueViolationError, match="jobs_pkey"):
            await create(app, job=given)
    for length in (1, 20, 44, 45, 46, 100, 200):  # around the blocks of SHA-1
        mapped = await app.fetchval("select foreman_uuid($1)", "é" * length)
        assert mapped == uuid5(NAMESPACE_URL, "foreman:" + "é" * length)
    await app.execute("select pushq.cancel(foreman_uuid('7'))")
    with pytest.raises(asyncpg.UniqueViolationError):  # of a finished job, too
        await create(app, job="7")


async def test_of_many_who_create_one_id_at_once_one_does(app: Connection, database_url: str) -> None:
    async def one() -> bool:
        connection = await asyncpg.connect(database_url, server_settings={"search_path": "public"})
        try:
            await create(connection, job="the one")
        except asyncpg.UniqueViolationError:
            return False
        else:
            return True
        finally:
            await connection.close(timeout=5)

    assert sorted(await asyncio.gather(*(one() for _ in range(8)))) == [False] * 7 + [True]
    assert await app.fetchval("select count(*) from jobs") == 1


async def test_an_id_of_another_queue_s_job_is_taken_and_that_job_stays(app: Connection) -> None:
    other = str(await app.fetchval("insert into pushq.jobs (task) values ('mail') returning id"))
    with pytest.raises(asyncpg.UniqueViolationError, match="jobs_pkey"):
        await create(app, job=other)
    assert await get(app, other) is None
    assert await app.execute("delete from jobs where id = $1", other) == "DELETE 0"
    assert await app.fetchval("select count(*) from pushq.jobs where task = 'mail'") == 1


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"id": ""}, "an id has 1 to 200 characters, not 0"),
        ({"id": "x" * 1_000_000}, "an id has 1 to 200 characters, not 1000000"),
        ({"model": ""}, "a model has 1 to 190 characters, not 0"),
        ({"model": "x" * 191}, "a model has 1 to 190 characters, not 191"),
        ({"model": None}, 'null value in column "model"'),
        ({"state": "running"}, "state is queued, loading, working, done or failed, not running"),
        ({"attempt": -1}, "attempt is a number from 0 to 10000, not -1"),
        ({"max_attempts": -1}, "max_attempts is a number from 0 to 10000, not -1"),
        ({"state_webhook_url": "ftp://a.example"}, "state_webhook_url is a URL of http or https"),
        ({"payload": json.dumps("x" * 1_100_000)}, "jobs_payload_is_at_most_1_mib"),
        ({"payload": '"\\u0000"'}, "unsupported Unicode escape sequence"),
    ],
)
async def test_what_cannot_be_a_job_is_refused_in_a_sentence(
    app: Connection, columns: dict[str, Any], said: str
) -> None:
    given = {"model": "llama"} | columns
    values = ", ".join(f"${place}" for place in range(1, len(given) + 1))
    with pytest.raises(asyncpg.PostgresError, match=said) as refused:
        await app.execute(f"insert into jobs ({', '.join(given)}) values ({values})", *given.values())
    assert refused.value.sqlstate in {"23514", "23502", "22P05"}
    assert await app.fetchval("select count(*) from jobs") == 0


async def test_a_payload_is_any_json_and_stays_what_it_was(app: Connection) -> None:
    for payload in (None, "null", "{}", "[1, 2]", '"text"', "1.50"):
        job = await app.fetchval("insert into jobs (model, payload) values ('llama', $1) returning id", payload)
        assert (await get(app, job))["payload"] == payload


async def test_an_update_says_what_changes_a_job_now(app: Connection) -> None:
    job = await create(app)
    await attach(app, job, "a", b"x")
    with pytest.raises(asyncpg.FeatureNotSupportedError, match="is not changed by UPDATE of the view jobs") as refused:
        await app.execute("update jobs set state = 'done', attempt = attempt + 1")
    assert "pushq.retry(foreman_uuid(id))" in str(refused.value.hint)
    with pytest.raises(asyncpg.FeatureNotSupportedError, match="is not changed by UPDATE of the view artifacts"):
        await app.execute("update artifacts set data = ''")
    assert (await get(app, job))["state"] == "queued"


async def test_a_row_of_any_state_may_come_in(app: Connection) -> None:
    """As from an old table: what had begun begins anew, and what has ended has its own times."""
    born = datetime(2020, 1, 2, tzinfo=UTC)
    insert = """
        insert into jobs (id, model, payload, state, result, error, attempt, created_at, started_at, completed_at)
        values ($1, 'llama', '{}', $1, '{"a": 1}', 'lost', 1, $2::timestamptz, $2::timestamptz + interval '1 s',
            $2::timestamptz + interval '2 s')
    """
    for state in ("queued", "loading", "working", "done", "failed"):
        await app.execute(insert, state, born)
    seen = {row["id"]: dict(row) for row in await app.fetch("select * from jobs")}
    assert {job: row["state"] for job, row in seen.items()} == {
        "queued": "queued", "loading": "queued", "working": "queued", "done": "done", "failed": "failed",
    }  # fmt: skip
    assert {row["attempt"] for row in seen.values()} == {1}
    assert {row["created_at"] for row in seen.values()} == {born}
    assert seen["working"]["started_at"] is None
    for ended in ("done", "failed"):
        assert (seen[ended]["started_at"], seen[ended]["completed_at"]) == (
            born + timedelta(seconds=1),
            born + timedelta(seconds=2),
        )
    assert (seen["done"]["result"], seen["done"]["error"]) == ('{"a": 1}', None)
    assert seen["failed"]["error"] == "lost"
    with pytest.raises(asyncpg.UniqueViolationError):
        await app.execute(insert, "done", born)


# Artifacts -----------------------------------------------------------------------------------------------------------


async def test_an_artifact_has_its_job_its_name_and_its_bytes(app: Connection) -> None:
    job, data = await create(app, job="a job"), bytes(range(256)) * 5000
    await attach(app, job, "all.bin", data)
    row = await app.fetchrow(OLD["FETCH"], job, "all.bin")
    assert row
    assert (row["data"], row["size"]) == (data, len(data))
    with pytest.raises(asyncpg.UniqueViolationError, match="artifacts_job_id_name_key"):
        await attach(app, job, "all.bin", b"")
    with pytest.raises(asyncpg.ForeignKeyViolationError, match="artifacts_job_id_fkey"):
        await attach(app, "no job", "a", b"")
    with pytest.raises(asyncpg.CheckViolationError, match="the name of an artifact"):
        await attach(app, job, "../a", b"")
    with pytest.raises(asyncpg.CheckViolationError, match="is no content type"):
        await attach(app, job, "a", b"", kind="\r\nx")
    await app.execute("delete from jobs where id = $1", job)
    assert await app.fetch(OLD["FETCH_ALL"], job) == []
    assert await app.fetchval("select count(*) from foreman_artifacts") == 0
    await create(app, job=job)  # a new job, and none of the old one's artifacts
    assert await app.fetch(OLD["FETCH_ALL"], job) == []


async def test_each_job_leaves_the_model_s_answer_as_an_artifact(
    app: Connection, database_url: str, model: Any
) -> None:
    job = await create(app, job="a job", payload={"messages": [{"content": "Hello, ü"}], "temperature": 0})
    await attach(app, job, "response", b"attached before")
    with working(database_url):
        row = await has_state(app, job, "done")
    expected = {"model": "llama", "message": {"role": "assistant", "content": "You said: Hello, ü"}, "done": True}
    assert json.loads(row["result"]) == expected
    artifact = await app.fetchrow(OLD["FETCH"], job, "response")
    assert artifact
    assert (json.loads(artifact["data"]), artifact["content_type"]) == (expected, "application/json")
    assert artifact["size"] == len(artifact["data"])
    assert model.chats[0]["temperature"] == 0
    assert len(await app.fetch(OLD["FETCH_ALL"], job)) == 1
    with pytest.raises(asyncpg.UniqueViolationError):
        await attach(app, job, "response", b"")
    await attach(app, job, "later", b"to a job that has ended")
    transaction = app.transaction()
    await transaction.start()
    await app.execute("delete from jobs")
    await create(app, job=job)
    assert await app.fetch(OLD["FETCH_ALL"], job) == []
    assert await app.fetchval("select count(*) from pushq.artifact_pieces") == 0
    await transaction.rollback()
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert await app.execute(OLD["EXPIRE_ARTIFACTS"], soon) == "DELETE 2"
    assert await app.fetchval("select count(*) from pushq.artifacts") == 0


async def test_an_artifact_that_comes_while_its_job_ends_is_attached(app: Connection, database_url: str) -> None:
    job = await create(app)
    await app.execute("select pushq.take($1::text::uuid, 'worker')", job)
    token = await app.fetchval("select token from pushq.jobs_unfinished where id = $1::text::uuid", job)
    other = await asyncpg.connect(database_url, server_settings={"search_path": "public"})
    transaction = app.transaction()
    await transaction.start()
    assert await app.fetchval("select pushq.finish($1::text::uuid, $2, 'succeeded')", job, token)
    attaching = asyncio.ensure_future(attach(other, job, "late", b"x"))
    waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    await eventually(lambda: app.fetchval(waits))
    await transaction.commit()
    await attaching
    await other.close(timeout=5)
    assert len(await app.fetch(OLD["FETCH_ALL"], job)) == 1


ANSWERS = [
    (b"no JSON", None),
    (b'{"a": "\\u0000"}', None),
    (b'{"a": "\\ud800"}', None),
    (b'{"a": 1e400}', None),
    (b"[" * 5000 + b"]" * 5000, None),
    (b'{"a": "' + b"x" * 1_100_000 + b'"}', None),
    (b"[" * 90 + b"]" * 90, "[" * 90 + "]" * 90),
    (b" 12 ", "12"),
]


async def test_an_answer_that_is_no_result_is_an_artifact_all_the_same(
    app: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(request: Request, stream: ByteStream) -> None:
        number = request.json.get("number", 0)
        await answers(200, ANSWERS[number][0])(request, stream)

    async with receiving(answer) as server:
        monkeypatch.setenv("FOREMAN_OLLAMA_URL", f"http://127.0.0.1:{server.port}")
        jobs = [await create(app, payload={"number": number}) for number in range(len(ANSWERS))]
        with working(database_url):
            rows = [await has_state(app, job, "done") for job in jobs]
    for row, (content, result) in zip(rows, ANSWERS, strict=True):
        assert row["result"] == result
        assert await app.fetchval("select data from artifacts where job_id = $1", row["id"]) == content


# States --------------------------------------------------------------------------------------------------------------


async def test_each_state_is_seen_and_told_in_order(app: Connection, database_url: str, model: Any) -> None:
    model.gate.clear()
    async with receiving() as receiver:
        with working(database_url):
            job = await create(app, job="job 7", url=receiver.url)
            row = await has_state(app, job, "loading")
            assert row["started_at"]
            model.gate.set()
            row = await has_state(app, job, "done")
            second = await create(app, url=receiver.url)
            assert await told(receiver, second, 3) == LOADED
            assert await told(receiver, job, 4) == FRESH
    assert row["completed_at"] >= row["started_at"] >= row["created_at"]
    assert row["updated_at"] == row["completed_at"]
    assert {request.headers["content-type"] for request in receiver.requests} == {"application/json"}
    assert receiver.requests[0].json.keys() >= {"id", "state", "model"}


async def test_a_model_is_loaded_only_when_the_worker_comes_from_another(
    app: Connection, database_url: str, model: Any
) -> None:
    for number in range(12):
        await create(app, "abc"[number % 3])
    last = await create(app, "c")
    with working(database_url):
        await has_state(app, last, "done")
        await eventually(lambda: _all_have_ended(app))
    assert sorted(model.loads) == ["a", "b", "c"]
    assert model.unloaded == []
    assert len(model.chats) == 13


async def _all_have_ended(app: Connection) -> bool:
    return bool(await app.fetchval("select bool_and(completed_at is not null) from jobs"))


async def test_a_lost_connection_is_tried_again_at_once(app: Connection, database_url: str, model: Any) -> None:
    model.ways.extend(["lost", "lost"])
    async with receiving() as receiver:
        job = await create(app, url=receiver.url)
        with working(database_url):
            row = await has_state(app, job, "done")
            assert await told(receiver, job, 8) == ["queued", "loading", *["working", "queued"] * 2, "working", "done"]
    assert (row["attempt"], row["error"]) == (2, None)
    assert len(model.chats) == 3
    assert model.loads == ["llama"]
    delays = "select detail -> 'delay' from pushq.job_events where kind = 'retried'"
    assert [row[0] for row in await app.fetch(delays)] == [None, None]


@pytest.mark.parametrize(("setting", "tries"), [("", {0: 3, 1: 1}), ("2", {0: 2, 4: 4})])
async def test_a_lost_connection_is_tried_again_up_to_max_attempts(
    app: Connection,
    database_url: str,
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    tries: dict[int, int],
) -> None:
    monkeypatch.setenv("FOREMAN_MAX_ATTEMPTS", setting)
    with working(database_url):
        for given, expected in tries.items():
            model.chats.clear()
            model.ways.extend(["lost"] * expected)
            row = await has_state(app, await create(app, max_attempts=given), "failed")
            assert len(model.chats) == expected
            assert (row["attempt"], row["max_attempts"]) == (expected - 1, given)
            assert "has closed the connection before its answer's end" in row["error"]


async def test_a_load_that_is_lost_is_made_again(
    app: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOREMAN_OLLAMA_URL", "http://127.0.0.1:1")  # nobody listens there
    job = await create(app)
    with working(database_url):
        row = await has_state(app, job, "failed")
    assert "the model server takes no connection" in row["error"]
    assert row["attempt"] == 2
    phases = "select array_agg(detail ->> 'phase' order by id) from pushq.job_events where kind = 'phase'"
    assert await app.fetchval(phases) == ["loading"] * 3


async def test_a_job_that_is_inserted_into_pushq_jobs_itself_has_its_request_in_its_payload(
    app: Connection, database_url: str, model: Any
) -> None:
    payload = {"model": "llama", "messages": [{"content": "Hello"}]}
    await app.execute(
        "insert into pushq.jobs (task, queue, affinity, payload) values ('foreman.chat', 'foreman', 'llama', $1)",
        json.dumps(payload),
    )
    with working(database_url):
        (job,) = [row["id"] for row in await app.fetch(OLD["LIST"])]
        await has_state(app, job, "done")
    assert model.chats == [payload | {"stream": False}]


@pytest.mark.usefixtures("model")
async def test_a_supervisor_with_the_rights_of_a_worker_alone_tells_states(app: Connection, database_url: str) -> None:
    async with a_login_each(app, database_url) as logins, receiving() as receiver:
        job = await create(app, url=receiver.url)
        expire = "insert into pushq.jobs (task, queue, payload) values ('foreman.expire', 'foreman', $1) returning id"
        expires = await app.fetchval(expire, '{"older_than": 3600}')
        with working(logins.url_as("worker")):
            await has_state(app, job, "done")
            assert await told(receiver, job, 4) == FRESH
            ended = "select status from pushq.jobs where id = $1 and finished_on < 'infinity'"
            assert await eventually(lambda: app.fetchval(ended, expires)) == "succeeded"


async def test_an_http_error_and_a_payload_that_is_no_request_are_final(
    app: Connection, database_url: str, model: Any
) -> None:
    model.ways.extend([500])
    async with receiving() as receiver:
        refused = await create(app, url=receiver.url)
        with working(database_url):
            row = await has_state(app, refused, "failed")
            assert "the model server answered 500 to /api/chat" in row["error"]
            assert row["attempt"] == 0
            assert await told(receiver, refused, 4) == ["queued", "loading", "working", "failed"]
            assert "no room" in receiver.requests[-1].json["error"]
            row = await has_state(app, await create(app, payload=[1]), "failed")
    assert "a request to a model is an object" in row["error"]
    assert len(model.chats) == 1


@pytest.mark.usefixtures("model")
async def test_a_receiver_that_is_down_delays_no_job_and_is_told_everything_later(
    app: Connection, database_url: str
) -> None:
    async with receiving() as gone:
        pass  # its port is free again
    with working(database_url):
        jobs = [await create(app, url=f"http://127.0.0.1:{gone.port}/hook") for _ in range(5)]
        for job in jobs:
            await has_state(app, job, "done", within=10)
        waiting = "select count(*) from pushq.jobs_unfinished where queue = 'pushq.webhooks'"
        assert await app.fetchval(waiting) == 4 + 4 * 3
        back = Receiver("127.0.0.1", gone.port, answers(204))
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=gone.port)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, back.serve)
            await _due(app)
            assert await told(back, jobs[0], 4) == FRESH
            for job in jobs[1:]:
                assert await told(back, job, 3) == LOADED
            group.cancel_scope.cancel()


async def _due(app: Connection) -> None:
    """Moves time: deliveries that wait for their next attempt are due, now and as long as some wait."""

    async def look() -> bool:
        left = await app.fetchval(
            "with due as (update pushq.jobs_unfinished set run_at = now() "
            "where queue = 'pushq.webhooks' and status = 'queued' and run_at > now() returning 1) "
            "select count(*) from pushq.jobs_unfinished where queue = 'pushq.webhooks'"
        )
        await app.execute("select pushq.ring('pushq.webhooks')")
        return bool(left == 0)

    await eventually(look, within=30)


async def test_a_delivery_that_is_rolled_back_is_not_sent(app: Connection) -> None:
    transaction = app.transaction()
    await transaction.start()
    await create(app, url="http://a.example/h")
    assert await app.fetchval("select count(*) from pushq.jobs where queue = 'pushq.webhooks'") == 1
    await transaction.rollback()
    assert await app.fetchval("select count(*) from pushq.jobs") == 0


@pytest.mark.usefixtures("model")
async def test_jobs_that_are_cancelled_or_deleted_stop(app: Connection, database_url: str) -> None:
    async with receiving() as receiver:
        with working(database_url):
            cancelled = await create(app, payload={"seconds": 600}, url=receiver.url)
            await has_state(app, cancelled, "working")
            await app.execute("select pushq.cancel(foreman_uuid($1))", cancelled)
            row = await has_state(app, cancelled, "failed")
            assert row["error"] == "cancelled by hand"
            deleted = await create(app, payload={"seconds": 600}, job="deleted")
            await has_state(app, deleted, "working")
            assert await app.execute("delete from jobs where id = $1", deleted) == "DELETE 1"
            await has_state(app, await create(app), "done")  # the worker is free
            assert await told(receiver, cancelled, 4) == ["queued", "loading", "working", "failed"]
    assert await get(app, deleted) is None


# Kills ---------------------------------------------------------------------------------------------------------------


async def test_what_a_killed_pool_had_goes_on_at_once(app: Connection, database_url: str, model: Any) -> None:
    async with receiving() as receiver:
        with working(database_url, "--lease=60", "--heartbeat-interval=5") as supervisor:
            job = await create(app, payload={"seconds": 600}, url=receiver.url)
            assert await told(receiver, job, 3) == ["queued", "loading", "working"]
            os.kill(supervisor.pools[0], signal.SIGKILL)
            await eventually(lambda: _has_chats(model, 2), within=10)
            assert (await get(app, job))["attempt"] == 0
            await app.execute("select pushq.cancel(foreman_uuid($1))", job)
            states = await told(receiver, job, 7)
    assert states == ["queued", "loading", "working", "queued", "loading", "working", "failed"]


async def _has_chats(model: Any, number: int) -> bool:
    return len(model.chats) >= number


# The server ----------------------------------------------------------------------------------------------------------


async def test_a_chat_is_answered_as_if_the_server_had_done_the_work(
    app: Connection, database_url: str, model: Any
) -> None:
    async with serving(database_url) as http, receiving() as receiver:
        with working(database_url):
            body = {
                "model": "llama",
                "messages": [{"role": "user", "content": "Hello"}],
                "state_webhook_url": receiver.url,
            }
            answer = await http.post("/api/chat", json=body)
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
            assert answer.json()["message"]["content"] == "You said: Hello"
            (job,) = (await http.get("/jobs")).json()
            assert (job["state"], job["model"], job["result"]) == ("done", "llama", answer.json())
            assert job["payload"] == {"model": "llama", "messages": body["messages"]}
            assert await told(receiver, job["id"], 4) == FRESH
            model.ways.append(503)
            answer = await http.post("/api/chat", json=body)
            assert answer.status_code == 502
            assert "the model server answered 503" in answer.json()["error"]
            assert (await get(app, answer.json()["job_id"]))["state"] == "failed"


@pytest.mark.usefixtures("model")
async def test_jobs_are_submitted_shown_listed_and_cancelled(app: Connection, database_url: str) -> None:
    async with serving(database_url) as http:
        first = await http.post("/jobs", json={"model": "llama", "messages": [], "max_attempts": 2})
        assert first.status_code == 202
        job = first.json()["id"]
        assert (await http.get(f"/jobs/{job}")).json()["max_attempts"] == 2
        second = (await http.post("/jobs", json={"model": "qwen"})).json()["id"]
        assert [one["id"] for one in (await http.get("/jobs")).json()] == [second, job]
        cancelled = await http.delete(f"/jobs/{second}")
        assert (cancelled.status_code, cancelled.json()) == (200, {"id": second, "state": "failed"})
        assert (await http.delete(f"/jobs/{second}")).status_code == 409
        with working(database_url):
            await has_state(app, job, "done")
        for state, expected in (("done", [job]), ("failed", [second]), ("queued", []), ("loading", [])):
            assert [one["id"] for one in (await http.get("/jobs", params={"state": state})).json()] == expected
        shown = (await http.get(f"/jobs/{job}")).json()
        (artifact,) = shown["artifacts"]
        assert (artifact["name"], artifact["content_type"]) == ("response", "application/json")
        got = await http.get(f"/jobs/{job}/artifacts/response")
        assert (got.json(), len(got.content)) == (shown["result"], artifact["size"])
        await create(app, job="a/b c%")
        assert (await http.get("/jobs/a%2Fb%20c%25")).json()["id"] == "a/b c%"
        await app.execute("insert into jobs (model) select 'm' from generate_series(1, 250)")  # of one instant
        listed = [one["id"] for one in (await http.get("/jobs")).json()]
        assert len(listed) == len(set(listed)) == 253


REFUSED = [
    ("GET", "/", b"", 404, "There is nothing at /"),
    ("GET", "/api/chat", b"", 405, "give POST"),
    ("PATCH", "/jobs", b"", 405, "give GET, POST"),
    ("GET", "/jobs/unknown", b"", 404, "There is no job 'unknown'"),
    ("GET", "/jobs/a%00b", b"", 404, "nothing at"),
    ("GET", "/jobs/%ff", b"", 404, "nothing at"),
    ("DELETE", "/jobs/unknown", b"", 404, "There is no job 'unknown'"),
    ("GET", "/jobs/unknown/artifacts/x", b"", 404, "has no artifact 'x'"),
    ("GET", "/jobs?state=ready", b"", 400, "state is one of queued"),
    ("POST", "/jobs", b"{", 400, "The body is no JSON"),
    ("POST", "/jobs", b"", 400, "The body is no JSON"),
    ("POST", "/jobs", b"\xff", 400, "The body is no JSON"),
    ("POST", "/jobs", b"[" * 100_000, 400, "The body is no JSON"),
    ("POST", "/jobs", b'{"model": "m", "n": NaN}', 400, "The body is no JSON"),
    ("POST", "/api/chat", b"[]", 400, "The body is no object"),
    ("POST", "/api/chat", b"{}", 400, "The body lacks a model"),
    ("POST", "/api/chat", b'{"model": 7}', 400, "The body lacks a model"),
    ("POST", "/jobs", b'{"model": ""}', 400, "a model has 1 to 190 characters"),
    ("POST", "/jobs", b'{"model": "m", "max_attempts": "3"}', 400, "max_attempts is a whole number"),
    ("POST", "/jobs", b'{"model": "m", "max_attempts": 99999999999}', 400, "out of int32 range"),
    ("POST", "/jobs", b'{"model": "m", "state_webhook_url": 7}', 400, "state_webhook_url is a URL"),
    ("POST", "/jobs", b'{"model": "m", "state_webhook_url": "file:///x"}', 400, "state_webhook_url is a URL"),
    ("POST", "/jobs", b'{"model": "m", "x": "\\u0000"}', 400, "unsupported Unicode escape"),
    ("POST", "/jobs", b'{"model": "m", "x": "\\ud800"}', 400, "invalid input syntax for type json"),
    ("POST", "/jobs", b'{"model": "' + b"m" * 3_000_000 + b'"}', 413, "over 1,048,576 bytes"),
]  # fmt: skip


async def test_a_request_that_is_none_is_refused_in_a_sentence(database_url: str) -> None:
    async with serving(database_url) as http:
        for method, path, content, status, said in REFUSED:
            answer = await http.request(method, path, content=content)
            assert answer.status_code == status, (method, path)
            assert said in answer.json()["error"]
        assert (await http.get("/jobs")).json() == []


async def test_embeddings_go_straight_through_while_the_worker_works(
    app: Connection, database_url: str, model: Any
) -> None:
    model.gate.clear()
    async with serving(database_url) as http:
        with working(database_url):
            await http.post("/jobs", json={"model": "llama"})
            await model.asked.wait()
            answer = await http.post("/api/embeddings", json={"model": "nomic", "prompt": "x"})
            assert (answer.status_code, answer.json()) == (200, {"embedding": [0.25, 0.5]})
            answer = await http.post("/api/embeddings", json={})
            assert (answer.status_code, "error" in answer.json()) == (404, True)
            model.gate.set()
    assert await app.fetchval("select count(*) from jobs") == 1


async def test_the_model_server_is_away_for_embeddings(database_url: str) -> None:
    async with serving(database_url, OLLAMA_URL="http://127.0.0.1:1") as http:
        answer = await http.post("/api/embeddings", json={"model": "nomic"})
    assert (answer.status_code, answer.json()["error"]) == (
        502,
        "the model server takes no connection: Connect call failed ('127.0.0.1', 1).",
    )


async def test_a_caller_that_goes_away_or_has_no_patience_leaves_its_job(
    app: Connection, database_url: str, model: Any
) -> None:
    model.gate.clear()
    async with serving(database_url, PATIENCE="1") as http:
        with working(database_url):
            with pytest.raises(httpx.ReadTimeout):
                await http.post("/api/chat", json={"model": "llama"}, timeout=0.3)
            answer = await http.post("/api/chat", json={"model": "llama"})
            assert answer.status_code == 504
            assert f"The job goes on: ask GET /jobs/{answer.json()['job_id']}." in answer.json()["error"]
            model.gate.set()
            await has_state(app, answer.json()["job_id"], "done")
            assert await app.fetchval("select count(*) from jobs where state = 'done'") == 2


@pytest.mark.usefixtures("model")
async def test_a_chat_whose_job_is_cancelled_or_deleted_is_answered_502(app: Connection, database_url: str) -> None:
    async with serving(database_url) as http:
        for end, said in (
            ("select pushq.cancel(foreman_uuid(id)) from jobs", "cancelled"),
            ("delete from jobs", "was deleted"),
        ):
            waiting = asyncio.ensure_future(http.post("/api/chat", json={"model": "llama"}))
            await eventually(lambda: app.fetchval("select count(*) from jobs where state = 'queued'"))
            await app.execute(end)
            answer = await waiting
            assert answer.status_code == 502
            assert said in answer.json()["error"]


@pytest.mark.usefixtures("model")
async def test_a_hundred_callers_share_a_few_connections_and_each_gets_its_own_answer(
    app: Connection, database_url: str
) -> None:
    async with serving(database_url) as http:
        bodies = [{"model": "llama", "messages": [{"content": str(number)}]} for number in range(100)]
        waiting = [asyncio.ensure_future(http.post("/api/chat", json=body)) for body in bodies]

        async def all_wait() -> bool:
            return (
                int(await app.fetchval("select count(*) from pushq.jobs_unfinished where waiters is not null")) == 100
            )

        await eventually(all_wait, within=20)
        open_now = await app.fetchval("select count(*) from pg_stat_activity where datname = current_database()")
        assert open_now <= 15
        with working(database_url):
            answers = await asyncio.gather(*waiting)
    assert [answer.json()["message"]["content"] for answer in answers] == [
        f"You said: {number}" for number in range(100)
    ]


@pytest.mark.usefixtures("app")
async def test_sigterm_lets_a_caller_have_an_answer_that_comes_soon(database_url: str, model: Any) -> None:
    model.gate.clear()
    with started(database_url) as server:
        async with httpx.AsyncClient(base_url=server.base, timeout=30, trust_env=False) as http:  # type: ignore[attr-defined]
            with working(database_url):
                waiting = asyncio.ensure_future(http.post("/api/chat", json={"model": "llama"}))
                await asyncio.wait_for(model.asked.wait(), 20)
                server.terminate()
                await eventually(lambda: _takes_no_connection(server.base))  # type: ignore[attr-defined]
                model.gate.set()
                assert (await waiting).status_code == 200
                assert await asyncio.to_thread(server.wait, 10) == 0


async def test_sigterm_ends_an_idle_server_with_0_at_once(database_url: str) -> None:
    for _ in range(3):
        with started(database_url) as server:
            server.terminate()
            assert await asyncio.to_thread(server.wait, 4) == 0


async def _takes_no_connection(base: str) -> bool:
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            await http.get(base + "/jobs")
    except httpx.TransportError:
        return True
    return False


@pytest.mark.usefixtures("model")
async def test_a_database_that_is_away_is_503_with_a_remedy_and_comes_back(app: Connection, database_url: str) -> None:
    async with proxied(database_url) as proxy:
        path = Path(proxy.url.partition("host=")[2].partition("&")[0])
        (path / ".s.PGSQL.5432").rename(path / "aside")
        async with serving(proxy.url, PATIENCE="20") as http:
            for method, where in (
                ("GET", "/jobs"),
                ("GET", "/jobs/x"),
                ("POST", "/jobs"),
                ("POST", "/api/chat"),
                ("DELETE", "/jobs/x"),
            ):
                answer = await http.request(method, where, json={"model": "llama"})
                assert answer.status_code == 503
                assert answer.headers["retry-after"] == "2"
                assert "Try again in some seconds." in answer.json()["error"]
            (path / "aside").rename(path / ".s.PGSQL.5432")
            assert (await http.get("/jobs")).json() == []
            waiting = asyncio.ensure_future(http.post("/api/chat", json={"model": "llama"}))
            await eventually(
                lambda: app.fetchval("select count(*) from pushq.jobs_unfinished where waiters is not null")
            )
            await proxy.abort()  # while a caller waits
            with working(database_url):
                assert (await waiting).status_code == 200
            assert len((await http.get("/jobs")).json()) == 1


async def test_a_restart_of_the_database_costs_no_caller_an_answer(app: Connection, database_url: str) -> None:
    """The server's connections are ended, and some callers come before their end is noticed."""
    end = """
        select pg_terminate_backend(pid)
        from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()
    """
    async with serving(database_url) as http:
        for _ in range(10):
            statuses = [asyncio.ensure_future(http.post("/jobs", json={"model": "llama"})) for _ in range(10)]
            await app.execute(end)
            statuses += [asyncio.ensure_future(http.get("/jobs")) for _ in range(5)]
            assert {one.status_code for one in await asyncio.gather(*statuses)} == {200, 202}
    assert await app.fetchval("select count(*) from jobs") == 100


async def test_without_schema_sql_the_server_says_what_to_run(migrated_url: str) -> None:
    async with serving(migrated_url) as http:
        answer = await http.post("/jobs", json={"model": "llama"})
    assert answer.status_code == 503
    assert "schema.sql" in answer.json()["error"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LISTEN", "nowhere"), ("LISTEN", ":80"), ("LISTEN", "127.0.0.1:70000"), ("OLLAMA_URL", "ftp://x"),
        ("PATIENCE", "0"), ("PATIENCE", "soon"),
        ("JOB_TTL", "-1"), ("JOB_TTL", "nan"), ("MAX_ATTEMPTS", "0"), ("MAX_ATTEMPTS", "1.5"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_used_is_named(name: str, value: str) -> None:
    foreman = module("foreman")
    with pytest.raises(foreman.SettingError) as refused:
        foreman.Settings.load({f"FOREMAN_{name}": value})
    assert str(refused.value).startswith(f"FOREMAN_{name}={value!r} is no ")


def test_the_server_ends_with_2_and_a_sentence_for_a_setting_that_cannot_be_used() -> None:
    ended = subprocess.run(
        [sys.executable, "server.py"],
        cwd=FOLDER,
        env=environment(None) | {"FOREMAN_LISTEN": "nowhere"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "FOREMAN_LISTEN='nowhere' is no host and port; give one like 127.0.0.1:8000.\n"


# What has expired ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("model")
async def test_what_has_ended_goes_after_its_time_with_its_artifacts(app: Connection, database_url: str) -> None:
    old = datetime.now(UTC) - timedelta(hours=2)
    insert = "insert into jobs (id, model, state, completed_at) values ($1, 'llama', 'done', $2)"
    for number in range(450):
        await app.execute(insert, f"old {number}", old)
    await attach(app, "old 0", "a", b"x")
    await app.execute(insert, "young", datetime.now(UTC))
    await attach(app, "young", "a", b"x")
    await app.execute(
        "insert into foreman_artifacts values (default, gen_random_uuid(), 'orphan', 'a/b', '', '2020-01-01')"
    )
    async with serving(database_url, JOB_TTL="3600"):
        with working(database_url):
            await has_state(app, await create(app, job="new"), "done")

            async def look() -> list[str]:
                return [row["id"] for row in await app.fetch("select id from jobs order by id")]

            await eventually(lambda: _equals(look, ["new", "young"]), within=20)
            await eventually(lambda: _equals(lambda: app.fetchval("select count(*) from foreman_artifacts"), 1))
    assert len(await app.fetch(OLD["FETCH_ALL"], "young")) == 1


async def _equals(look: Any, expected: Any) -> bool:
    return bool(await look() == expected)


@pytest.mark.usefixtures("model")
async def test_a_worker_with_a_time_of_its_own_expires_when_asked(
    app: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOREMAN_JOB_TTL", "60")
    await app.execute("insert into jobs (id, model, state, completed_at) values ('old', 'llama', 'done', '2020-01-01')")
    await app.execute("insert into pushq.jobs (task, queue) values ('foreman.expire', 'foreman')")
    with working(database_url):
        await eventually(lambda: _equals(lambda: app.fetch(OLD["LIST"]), []))


@pytest.mark.usefixtures("model")
async def test_without_a_time_nothing_goes_and_no_job_says_so(app: Connection, database_url: str) -> None:
    job = await app.fetchval("insert into pushq.jobs (task, queue) values ('foreman.expire', 'foreman') returning id")
    await app.execute("insert into jobs (id, model, state, completed_at) values ('old', 'llama', 'done', '2020-01-01')")
    with working(database_url):
        await eventually(lambda: app.fetchval("select status = 'succeeded' from pushq.jobs where id = $1", job))
    assert [row["id"] for row in await app.fetch(OLD["LIST"])] == ["old"]
    assert await app.fetchval("select count(*) from pushq.jobs_unfinished") == 0


# What it costs -------------------------------------------------------------------------------------------------------


async def test_the_old_statements_read_what_they_return_however_much_there_is(app: Connection) -> None:
    await app.execute(
        """
        insert into pushq.jobs (
            id, task, queue, affinity, payload, status, attempt, failures, started_at, finished_at, finished_on,
            enqueued_at)
        select
            pushq.uuidv7(), 'foreman.chat', 'foreman', 'llama', '{"model": "llama"}', 'succeeded', 1, 0, now(),
            now() - n * interval '1 s', pushq.current_day(), now() - n * interval '1 s'
        from generate_series(1, 3000) as n;
        insert into foreman_artifacts (job_id, name, content_type, data)
        select id, 'a', 'a/b', '' from pushq.jobs where queue = 'foreman';
        insert into pushq.jobs (task, queue) select 'other', 'other' from generate_series(1, 3000);
        """
    )
    job = await create(app, job="the one")
    await attach(app, job, "a", b"x")
    for _ in range(3):
        await create(app)
    cutoff = datetime.now(UTC) - timedelta(seconds=2995)
    polls: list[tuple[Any, ...]] = [
        (OLD["GET"], job),
        (OLD["LIST_BY_STATE"], "queued"),
        (OLD["LIST_BY_STATE"], "working"),
        (OLD["LIST_BY_STATE"], "failed"),
        (OLD["FETCH"], job, "a"),
        (OLD["FETCH_ALL"], job),
        ("SELECT id FROM jobs WHERE state IN ('done', 'failed') AND completed_at < $1", cutoff),
        (OLD["EXPIRE_JOBS"], cutoff),
        (OLD["EXPIRE_ARTIFACTS"], cutoff),
    ]
    for _ in range(2):
        read = {statement[:60] + str(given): await most_read(app, statement, *given) for statement, *given in polls}
        assert max(read.values()) <= 40, read
        await app.execute("analyze pushq.jobs")


async def most_read(app: Connection, statement: str, *given: Any) -> float:
    transaction = app.transaction()
    await transaction.start()
    plan = json.loads(await app.fetchval(f"explain (analyze, format json) {statement}", *given))
    await transaction.rollback()
    return most_rows_read(plan[0]["Plan"])


def most_rows_read(plan: dict[str, Any]) -> float:
    own = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    return max([float(own), *map(most_rows_read, plan.get("Plans", []))])


# In and out ----------------------------------------------------------------------------------------------------------


async def test_schema_sql_may_run_again_and_pushq_finds_its_schema_whole(app: Connection, database_url: str) -> None:
    job = await create(app)
    await app.execute("select pushq.set_turn('foreman', '2 s')")
    await apply(database_url, EXAMPLE, "schema.sql")
    assert (await get(app, job))["state"] == "queued"
    assert await app.fetchval("select turn from pushq.queues where name = 'foreman'") == timedelta(seconds=2)
    assert await faults(database_url) == []


async def test_old_tables_move_in_and_back_with_every_row(migrated: Connection, migrated_url: str) -> None:
    await migrated.execute(
        "set search_path = public;"
        + OLD["OLD"]
        + """;
        create role reader_of_jobs;
        grant select on jobs to reader_of_jobs;
        insert into jobs (
            id, model, payload, state, result, error, attempt, created_at, updated_at, started_at, completed_at)
        values
            ('1', 'llama', '{"messages": []}', 'queued', null, null, 0, '2020-01-01', '2020-01-01', null, null),
            ('2', 'llama', '{}', 'working', null, null, 1, '2020-01-02', '2020-01-02', '2020-01-02', null),
            ('3', 'qwen', '{}', 'done', '{"a": 1}', null, 0, '2020-01-03', '2020-01-04', '2020-01-03', '2020-01-04'),
            ('4', 'qwen', '{}', 'failed', null, 'lost', 2, '2020-01-04', '2020-01-05', '2020-01-04', '2020-01-05'),
            ('5', 'qwen', 'no JSON', 'done', null, null, 0, '2020-01-05', '2020-01-05', null, '2020-01-05');
        insert into artifacts (job_id, name, content_type, data, size, created_at) values
            ('3', 'response', 'application/json', '\\x7b7d', 2, '2020-01-04'), ('5', 'a', 'a/b', '', 0, '2020-01-04');
        """
    )
    before = [dict(row) for row in await migrated.fetch("select * from jobs order by id")]
    await migrated.execute("create table notes (job text references jobs)")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="foreign keys"):
        await apply(migrated_url, EXAMPLE, "schema.sql")
    await migrated.execute("drop table notes")
    await apply(migrated_url, EXAMPLE, "schema.sql", "move.sql", "move.sql")
    assert [tuple(row) for row in await migrated.fetch("select id, state, attempt from jobs order by id")] == [
        ("1", "queued", 0), ("2", "queued", 1), ("3", "done", 0), ("4", "failed", 2),
    ]  # fmt: skip
    assert await migrated.fetchval("select data from artifacts where job_id = '3'") == b"{}"
    assert await migrated.fetchval("select has_table_privilege('reader_of_jobs', 'jobs', 'select')")
    assert await faults(migrated_url) == []
    await create(migrated, job="6")
    await migrated.execute(
        "insert into pushq.jobs (task, queue) values ('foreman.expire', 'foreman'), ('mail', 'mail')"
    )
    await apply(migrated_url, EXAMPLE, "rollback.sql", "rollback.sql")
    after = [dict(row) for row in await migrated.fetch("select * from jobs order by id")]
    assert [row["id"] for row in after] == ["1", "2", "3", "4", "5", "6"]
    for old, new in zip(before, after, strict=False):
        interrupted = (
            {"state": "queued", "started_at": None, "updated_at": new["updated_at"]} if old["id"] == "2" else {}
        )
        assert new | {"updated_at": None} == old | interrupted | {"updated_at": None}
    assert [tuple(row) for row in await migrated.fetch("select job_id, data from artifacts order by job_id")] == [
        ("3", b"{}"),
        ("5", b""),
    ]
    assert [row["task"] for row in await migrated.fetch("select task from pushq.jobs")] == ["mail"]
    assert await faults(migrated_url) == []
    await apply(migrated_url, EXAMPLE, "schema.sql", "move.sql")  # once more
    assert await migrated.fetchval("select count(*) from jobs") == 5
    await apply(migrated_url, EXAMPLE, "rollback.sql")
    await migrated.execute("drop table artifacts, jobs; drop role reader_of_jobs")


async def test_old_tables_of_texts_move_in_and_back(migrated: Connection, migrated_url: str) -> None:
    await migrated.execute(
        """
        set search_path = public;
        create table jobs (
            id varchar(80) primary key, model text, payload text, state text, result text, error text, attempt int,
            max_attempts int, state_webhook_url text, created_at text, updated_at text, started_at text,
            completed_at text, note text default 'none');
        insert into jobs values
            ('1', 'm', '{"a": 1}', 'queued', null, null, 0, 3, '', '2020-01-01T00:00:00Z', '2020-01-01', null, null),
            ('2', 'm', '{}', 'done', '{"b": 2}', null, 0, 3, null, '2020-01-02', '2020-01-02', null, '2020-01-03');
        """
    )
    await apply(migrated_url, EXAMPLE, "schema.sql", "move.sql")
    assert await migrated.fetchval("select count(*) from jobs") == 2
    await apply(migrated_url, EXAMPLE, "rollback.sql")
    rows = await migrated.fetch("select id, payload, state, result, note from jobs order by id")
    assert [tuple(row) for row in rows] == [
        ("1", '{"a": 1}', "queued", None, "none"),
        ("2", "{}", "done", '{"b": 2}', "none"),
    ]
    await migrated.execute("drop table artifacts, jobs")


async def test_whoever_may_use_the_views_needs_no_right_in_pushq(app: Connection) -> None:
    await app.execute(
        """
        create role visitor;
        grant select, insert, delete on jobs, artifacts to visitor;
        set role visitor
        """
    )
    job = await create(app, job="mine", url="http://a.example/h")
    await attach(app, job, "a", b"x")
    assert (await get(app, job))["state"] == "queued"
    assert len(await app.fetch(OLD["FETCH_ALL"], job)) == 1
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute("select foreman_tell($1, 1, 'done', now(), null)", UUID(int=1))
    assert await app.execute("delete from jobs") == "DELETE 1"
    await app.execute("reset role; drop owned by visitor; drop role visitor")


async def test_a_view_of_another_example_is_left_alone(migrated: Connection, migrated_url: str) -> None:
    await migrated.execute("create view public.jobs as select 1 as id")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="is a view of somebody else"):
        await apply(migrated_url, EXAMPLE, "schema.sql")


def test_what_a_dead_host_had_goes_on_within_five_seconds_by_the_example_s_settings() -> None:
    given = dict(line.split("=") for line in (FOLDER / ".env").read_text().splitlines() if not line.startswith("#"))
    assert float(given["PUSHQ_LEASE"]) + 2 * float(given["PUSHQ_SWEEP_INTERVAL"]) <= 5
