"""What `pushq migrate --roles` prints gives each role what it needs, and no more."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
from anyio.to_thread import run_sync

from tests.support.commands import invoke
from tests.support.jobs import Connection, finished, has_count, insert, row_of
from tests.support.receivers import answers, receiving
from tests.support.supervisors import supervising

RoleUrl = Callable[[str], str]


@pytest.fixture
async def url_as(database_url: str, connection: Connection) -> AsyncIterator[RoleUrl]:
    """The database's URL for a login with a role. Roles are the whole server's: these get names of their own."""
    suffix = uuid4().hex[:8]
    printed = invoke("migrate", "--roles").stdout
    names = {role: f"pushq_{role}_{suffix}" for role in ("producer", "worker", "observer")}
    for role, name in names.items():
        printed = printed.replace(f"pushq_{role}", name)
    await connection.execute(printed)
    for role, name in names.items():
        await connection.execute(f"create role {role}_{suffix} login password 'secret' in role {name}")

    def url_as(role: str) -> str:
        parts = urlsplit(database_url)
        return parts._replace(netloc=f"{role}_{suffix}:secret@{parts.netloc.rpartition('@')[2]}").geturl()

    yield url_as
    for role, name in names.items():
        await connection.execute(f"drop owned by {name}")
        await connection.execute(f"drop role {role}_{suffix}, {name}")


async def test_a_producer_inserts_and_sees_nothing_but_the_id(url_as: RoleUrl, connection: Connection) -> None:
    producer = await asyncpg.connect(url_as("producer"))
    inserted = await producer.fetchval("insert into pushq.jobs (task) values ('echo') returning id")
    for forbidden in (
        "select task from pushq.jobs",
        "update pushq.jobs set task = 'x'",
        "delete from pushq.jobs",
        "insert into pushq.jobs (task, status) values ('echo', 'succeeded')",
        f"select pushq.cancel('{inserted}')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await producer.execute(forbidden)
    await producer.close()
    assert (await row_of(connection, inserted))["task"] == "echo"


async def test_a_producer_enqueues_by_hand(url_as: RoleUrl, connection: Connection) -> None:
    ended = invoke("enqueue", "echo", url=url_as("producer"))

    assert (ended.exit_code, ended.stderr) == (0, "")
    assert (await row_of(connection, UUID(ended.stdout.strip())))["status"] == "queued"


async def test_a_worker_supervises_without_owning_the_table(url_as: RoleUrl, connection: Connection) -> None:
    with supervising(url_as("worker")) as supervisor:
        rows = await finished(connection, *await insert(connection, "echo", 3), *await insert(connection, "fail"))
        assert [row["status"] for row in rows] == ["succeeded"] * 3 + ["failed"]
        dies = await finished(connection, *await insert(connection, "die.once"))
        assert dies[0]["result"] == '"lived"'
        assert supervisor.get("/metrics")[0] == 200
        assert supervisor.stop() == 0
        assert "permission denied" not in supervisor.said


async def test_a_worker_delivers_webhooks_without_owning_the_table_and_an_observer_lists_them(
    url_as: RoleUrl, connection: Connection
) -> None:
    async with receiving(answers(410)) as receiver:
        await connection.execute("insert into pushq.webhooks (url) values ($1)", receiver.url)
        with supervising(url_as("worker"), WEBHOOK_ALLOW="127.0.0.1/32"):
            await insert(connection, "echo")
            await has_count(connection, 1, "queue = 'pushq.webhooks' and status = 'failed'")

    assert await connection.fetchval("select paused_at is not null from pushq.webhooks")
    assert receiver.url in (await run_sync(lambda: invoke("webhooks", "list", url=url_as("observer")))).stdout


async def test_a_worker_sweeps_without_owning_the_table(url_as: RoleUrl, connection: Connection) -> None:
    newest = await connection.fetchval(
        "delete from pushq.days where day = (select max(day) from pushq.days) returning day::text"
    )
    await connection.execute(
        f"""
        drop table pushq.jobs_{newest.replace("-", "_")};
        create table pushq.jobs_2020_01_01 (like pushq.jobs including defaults including constraints);
        alter table pushq.jobs attach partition pushq.jobs_2020_01_01 for values from ('2020-01-01') to ('2020-01-02');
        insert into pushq.days (day) values ('2020-01-01');
        insert into pushq.jobs (task, status, finished_on, finished_at)
        values ('old', 'succeeded', '2020-01-01', now());
        insert into pushq.jobs (task, status, supervisor, pool, token, attempt, started_at)
        values ('echo', 'running', 'long gone', 1, gen_random_uuid(), 1, now());
        """
    )
    quickly = ("--lease", "0.3", "--heartbeat-interval", "0.1", "--retention", "1")
    ended = invoke("sweep", *quickly, "--json", url=url_as("worker"))

    assert (ended.exit_code, ended.stderr) == (0, "")
    swept = json.loads(ended.stdout)
    assert (swept["requeued"], swept["made"], swept["retired"]) == (1, [newest], ["2020-01-01"])
    assert swept["dropped"] == []  # only the owner may
    tasks = await connection.fetch("select task, status from pushq.jobs")
    assert [tuple(row) for row in tasks] == [("echo", "queued")]


async def test_a_worker_purges_without_owning_the_table_and_an_observer_sees_the_rule(
    url_as: RoleUrl, connection: Connection
) -> None:
    await connection.execute(
        "insert into pushq.jobs (task, status, finished_on, finished_at) "
        "values ('old', 'succeeded', pushq.current_day(), now() - interval '1 hour')"
    )
    keep = ("queues", "keep", "default", "--for", "1min")
    assert "permission denied" in invoke(*keep, url=url_as("observer")).stderr
    assert invoke(*keep, url=url_as("worker")).exit_code == 0
    assert json.loads(invoke("queues", "list", "--json", url=url_as("observer")).stdout)["keep"] == "00:01:00"
    quickly = ("--lease", "0.3", "--heartbeat-interval", "0.1")
    assert json.loads(invoke("sweep", *quickly, "--json", url=url_as("worker")).stdout)["purged"] == 1
    assert "are made ahead" in invoke("doctor", url=url_as("observer")).stdout


async def test_a_right_that_a_worker_lacks_keeps_the_rest_of_a_sweep_from_nothing(
    url_as: RoleUrl, connection: Connection
) -> None:
    worker = urlsplit(url_as("worker")).username or ""
    await connection.execute(
        f"""
        revoke execute on function pushq.make_days(int) from public, pushq_{worker};
        insert into pushq.jobs (task, status, supervisor, pool, token, attempt, started_at)
        values ('echo', 'running', 'long gone', 1, gen_random_uuid(), 1, now());
        """
    )
    ended = invoke("sweep", "--lease", "0.3", "--heartbeat-interval", "0.1", url=url_as("worker"))

    assert (ended.exit_code, ended.stderr) == (1, "")
    assert "requeued  1\n" in ended.stdout
    assert "permission denied for function make_days" in ended.stdout


async def test_a_worker_changes_jobs_and_queues_by_hand(url_as: RoleUrl, connection: Connection) -> None:
    [job_id] = await insert(connection, "echo")
    for command in (["jobs", "cancel"], ["jobs", "retry"]):
        assert invoke(*command, str(job_id), url=url_as("worker")).exit_code == 0
    for verb in ("pause", "resume"):
        assert invoke("queues", verb, "mail", url=url_as("worker")).exit_code == 0


async def test_an_observer_sees_and_changes_nothing(url_as: RoleUrl, connection: Connection) -> None:
    assert invoke("supervisors", url=url_as("observer")).stderr == "No supervisor is alive.\n"
    [job_id] = await insert(connection, "echo")
    for command in (["jobs", "list"], ["jobs", "show", str(job_id)], ["queues", "list"]):
        ended = invoke(*command, "--json", url=url_as("observer"))
        assert ended.exit_code == 0, ended.stderr
        assert json.loads(ended.stdout)["queue"] == "default"
    for command in (["jobs", "cancel", str(job_id)], ["jobs", "retry", str(job_id)], ["queues", "pause", "default"]):
        ended = invoke(*command, url=url_as("observer"))
        assert "refused us: permission denied for " in ended.stderr
        assert ended.stderr.endswith(". `pushq doctor` names the missing rights.\n")
        assert (ended.exit_code, ended.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("producer", "insert jobs, and may not look at jobs or run jobs"),
        ("worker", "insert jobs, look at jobs, run jobs"),
        ("observer", "look at jobs, and may not insert jobs or run jobs"),
    ],
)
async def test_the_doctor_says_what_a_role_may_do_and_what_the_role_could_not_examine(
    url_as: RoleUrl, role: str, may: str
) -> None:
    ended = invoke("doctor", "--json", url=url_as(role))
    assert ended.stderr == ""
    rows = {row["check"]: row for row in map(json.loads, ended.stdout.splitlines())}
    assert rows["rights"]["says"] == f"this role may {may}"
    hurt = {check for check, row in rows.items() if not row["is_fine"]}
    unseen = {check for check, row in rows.items() if row["says"].startswith("not examined")}
    assert hurt - unseen <= {"settings"}, rows  # of the tests' server
    assert unseen <= hurt
    assert bool(unseen) == (role == "producer"), rows
    assert {rows[check]["remedy"] for check in unseen} <= {"grant pushq_observer to this login"}
    assert ended.exit_code == bool(hurt)
