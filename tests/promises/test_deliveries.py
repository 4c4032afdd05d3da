"""A delivery is written with the change that it tells: for whom it was asked, in order, once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from pushq.job import Job
from pushq.outcome import Kind, Outcome
from pushq.pool.store import Store
from tests.promises.test_events import ME, keep_all, kinds  # noqa: F401: a fixture
from tests.support.jobs import Connection, count, finished, insert
from tests.support.supervisors import supervising

EVERYTHING = ("queued", "running", "succeeded", "failed", "cancelled", "phase")
TASKS: tuple[tuple[str, dict[str, object]], ...] = (
    ("echo", {}),
    ("fail", {}),
    ("cancel", {}),
    ("progress", {"steps": [{"phase": "loading"}, {"phase": "working"}]}),
)
Told = Mapping[str, Any]


async def subscribe(connection: Connection, *statuses: str, **columns: object) -> UUID:
    given = {"url": "https://example.com/hook", "statuses": list(statuses or EVERYTHING)} | columns
    values = ", ".join(f"${place}" for place in range(1, len(given) + 1))
    webhook: UUID = await connection.fetchval(
        f"insert into pushq.webhooks ({', '.join(given)}) values ({values}) returning id", *given.values()
    )
    return webhook


async def told(connection: Connection, webhook: UUID | None = None) -> list[Told]:
    """The payloads of the unfinished deliveries, in their order."""
    rows = await connection.fetch(
        "select payload from pushq.jobs where queue = 'pushq.webhooks' "
        "and ($1::text is null or payload ->> 'webhook' = $1) order by id",
        webhook and str(webhook),
    )
    return [json.loads(row["payload"]) for row in rows]


async def types(connection: Connection, webhook: UUID | None = None) -> list[str]:
    return [one["type"].removeprefix("job.") for one in await told(connection, webhook)]


async def claimed(store: Store) -> Job:
    (job,) = await store.claim(ME, uuid4(), 1)
    return job


async def test_a_job_s_way_is_told_step_by_step(connection: Connection, store: Store) -> None:
    webhook = await subscribe(connection)
    (job,) = await insert(connection, "any", correlation_id="order 7", tenant_id="acme")
    assert await types(connection) == ["queued"]
    await store.finish([Outcome(await claimed(store), Kind.RETRIED, error="no")])
    await store.finish([Outcome(await claimed(store), Kind.SUCCEEDED, result='{"a": [null]}')])

    deliveries = await told(connection, webhook)
    assert [one["type"] for one in deliveries] == [
        f"job.{status}" for status in ("queued", "running", "queued", "running", "succeeded")
    ]
    assert [one["data"]["attempt"] for one in deliveries] == [0, 1, 1, 2, 2]
    numbers = [one["event"] for one in deliveries]
    assert numbers == sorted(set(numbers))
    last = deliveries[-1]["data"]
    assert (last["id"], last["status"], last["result"]) == (str(job), "succeeded", {"a": [None]})
    assert (last["task"], last["queue"], last["tenant_id"], last["correlation_id"]) == (
        "any",
        "default",
        "acme",
        "order 7",
    )
    assert last["finished_at"] >= last["started_at"] >= last["enqueued_at"]
    assert deliveries[2]["data"]["error"] == "no"
    assert not [one for one in deliveries[:-1] if {"result", "finished_at"} & set(one["data"])]
    rows = await connection.fetch("select * from pushq.jobs where queue = 'pushq.webhooks'")
    assert {(row["task"], row["tenant_id"], row["correlation_id"]) for row in rows} == {
        ("pushq.webhook", None, str(job))
    }


@pytest.mark.parametrize("status", EVERYTHING)
async def test_a_webhook_is_told_what_it_asks_for(connection: Connection, database_url: str, status: str) -> None:
    webhook = await subscribe(connection, status)
    with supervising(database_url):
        for task, payload in TASKS:
            (job,) = await insert(connection, task, max_attempts=1, payload=payload)
            await finished(connection, job)
    expected = {
        "queued": ["queued"] * 4,
        "running": ["running"] * 4,
        "succeeded": ["succeeded"] * 2,
        "failed": ["failed"],
        "cancelled": ["cancelled"],
        "phase": ["phase"] * 2,
    }
    assert await types(connection, webhook) == expected[status]
    if status == "phase":
        assert [one["data"]["phase"] for one in await told(connection)] == ["loading", "working"]
        assert {one["data"]["status"] for one in await told(connection)} == {"running"}


@pytest.mark.parametrize(
    ("asked", "is_told"),
    [
        ({}, True),
        ({"queue": "mail"}, True),
        ({"queue": "other"}, False),
        ({"task": "send"}, True),
        ({"task": "other"}, False),
        ({"tenant_id": "acme"}, True),
        ({"tenant_id": "globex"}, False),
        ({"queue": "mail", "task": "send", "tenant_id": "acme"}, True),
        ({"queue": "mail", "task": "send", "tenant_id": "globex"}, False),
    ],
)
async def test_a_webhook_is_told_of_the_jobs_that_it_covers(
    connection: Connection, asked: Mapping[str, object], is_told: bool
) -> None:
    await subscribe(connection, "queued", "cancelled", **asked)
    (job,) = await insert(connection, "send", queue="mail", tenant_id="acme")
    await connection.execute("select pushq.cancel($1)", job)
    assert await types(connection) == (["queued", "cancelled"] if is_told else [])
    assert ("inserted" in await kinds(connection, job)) is is_told


async def test_a_job_s_own_url_is_told_its_end_alone(connection: Connection, store: Store) -> None:
    (job,) = await insert(connection, "any", webhook_url="https://example.com/mine")
    await store.finish([Outcome(await claimed(store), Kind.RETRIED)])
    assert await told(connection) == []
    await store.finish([Outcome(await claimed(store), Kind.SUCCEEDED, result="7")])
    (one,) = await told(connection)
    assert (one["url"], one["type"], one["data"]["result"]) == ("https://example.com/mine", "job.succeeded", 7)
    assert one["data"]["id"] == str(job)
    assert await kinds(connection, job) == ["retried"]  # no event was kept for it


@pytest.mark.parametrize("end", ["cancel", "third crash", "guest", "change"])
async def test_however_a_job_ends_its_url_and_its_webhooks_are_told(connection: Connection, end: str) -> None:
    webhook = await subscribe(connection, "succeeded", "failed", "cancelled")
    (job,) = await insert(connection, "any", webhook_url="https://example.com/mine")
    if end == "cancel":
        await connection.execute("select pushq.cancel($1)", job)
    elif end == "change":
        assert await connection.fetchval("select pushq.change($1, 'queued', 'cancelled')", job) == "cancelled"
    elif end == "guest":
        token = await connection.fetchval("select pushq.take($1, 'me')", job)
        assert await connection.fetchval("select pushq.finish($1, $2, 'failed', error => 'no')", job, token)
    else:
        await connection.execute("select pushq.take($1, 'me')", job)
        await connection.execute(
            "select pushq.end_jobs(array[id], array[token], null, null, '{crashed}', '{died}', null, null) "
            "from pushq.jobs_unfinished"
        )
    status = "cancelled" if end in ("cancel", "change") else "failed"
    assert await types(connection, webhook) == [status]
    assert await types(connection) == [status, status]


async def test_a_retry_by_hand_is_told_once(connection: Connection) -> None:
    await subscribe(connection, "queued", "cancelled")
    (job,) = await insert(connection, "any")
    await connection.execute("select pushq.cancel($1)", job)
    await connection.execute("select pushq.retry($1)", job)
    assert await types(connection) == ["queued", "cancelled", "queued"]


async def test_what_is_rolled_back_is_not_told(connection: Connection) -> None:
    await subscribe(connection)
    await connection.execute("begin")
    await insert(connection, "any")
    await connection.execute("rollback")
    assert await told(connection) == []


async def test_deliveries_are_told_to_nobody(connection: Connection) -> None:
    await subscribe(connection)
    await insert(connection, "any")
    await connection.execute("select pushq.cancel(id) from pushq.jobs_unfinished where queue = 'pushq.webhooks'")
    assert await types(connection) == ["queued"]
    assert await connection.fetchval("select count(*) from pushq.jobs where task = 'pushq.webhook'") == 1


async def test_a_paused_webhook_is_told_nothing_and_a_deleted_one_costs_nothing(connection: Connection) -> None:
    webhook = await subscribe(connection)
    assert await _noted(connection) == ([""], 1)
    await connection.execute("update pushq.webhooks set paused_at = now()")
    assert await _noted(connection) == ([], 1)
    (job,) = await insert(connection, "any")
    await connection.execute("update pushq.webhooks set paused_at = null, queue = 'default'")
    assert await _noted(connection) == (["default"], 1)
    await connection.execute("delete from pushq.webhooks where id = $1", webhook)
    await connection.execute("select pushq.rest_inserts()")
    assert await _noted(connection) == ([], 0)
    await connection.execute("select pushq.cancel($1)", job)
    assert await told(connection) == []


async def _noted(connection: Connection) -> tuple[list[str], int]:
    rows = await connection.fetch("select queue from pushq.noted_queues order by queue")
    return [row["queue"] for row in rows], await connection.fetchval(
        "select pg_sequence_last_value('pushq.inserts_noted')"
    )


async def test_a_webhook_that_is_rolled_back_leaves_the_others_told(connection: Connection) -> None:
    await subscribe(connection)
    for change in (
        "delete from pushq.webhooks",
        "update pushq.webhooks set paused_at = now()",
        "truncate pushq.webhooks",
    ):
        await connection.execute(f"begin; {change}; rollback")
    await connection.execute("select pushq.rest_inserts()")
    await insert(connection, "any")
    assert await types(connection) == ["queued"]


async def test_queues_that_keep_all_events_and_webhooks_come_and_go_apart(connection: Connection) -> None:
    await keep_all(connection)
    webhook = await subscribe(connection, queue="default")
    await connection.execute("select pushq.keep_all_events('default', false)")
    assert (await _noted(connection))[0] == ["default"]
    await keep_all(connection)
    await connection.execute("delete from pushq.webhooks where id = $1", webhook)
    assert (await _noted(connection))[0] == ["default"]
    await connection.execute("select pushq.keep_all_events('default', false)")
    assert (await _noted(connection))[0] == []


async def test_two_who_change_webhooks_at_once_wait_for_each_other(connection: Connection, database_url: str) -> None:
    """Each would else copy what it sees, and not what the other does."""
    await keep_all(connection)
    other = await asyncpg.connect(database_url)
    await connection.execute("begin; insert into pushq.webhooks (url, queue) values ('http://example.com', 'default')")
    await other.execute("set lock_timeout = '50ms'")
    with pytest.raises(asyncpg.LockNotAvailableError):
        await other.execute("select pushq.keep_all_events('default', false)")
    await connection.execute("commit")
    await other.execute("select pushq.keep_all_events('default', false)")
    assert (await _noted(connection))[0] == ["default"]
    await other.close()


async def test_whatever_somebody_else_s_keys_are_an_outcome_counts(connection: Connection, store: Store) -> None:
    (job,) = await insert(connection, "any", webhook_url="https://example.com/mine")
    number = await connection.fetchval("select nextval('pushq.job_event_ids')") + 1
    key = await connection.fetchval(
        "select pushq.deliveries_of($1, 'url') || lpad($2::bigint::text, 19, '0')", job, number
    )
    await insert(connection, "other", unique_key=key, queue="elsewhere")
    assert await store.finish([Outcome(await claimed(store), Kind.SUCCEEDED)]) == []
    assert await told(connection) == []
    assert await count(connection, "status = 'succeeded'") == 1


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ({"url": "ftp://example.com"}, "webhooks_url_is_http_of_at_most_2000_characters"),
        ({"statuses": []}, "webhooks_statuses_are_known"),
        ({"statuses": ["done"]}, "webhooks_statuses_are_known"),
        ({"secrets": ["secret"]}, "webhooks_secrets_are_up_to_5_of_whsec"),
        ({"secrets": ["whsec_" + "a" * 32] * 6}, "webhooks_secrets_are_up_to_5_of_whsec"),
        ({"secrets": [None]}, "webhooks_secrets_are_up_to_5_of_whsec"),
        ({"body": "xml"}, "webhooks_body_is_standard_or_flat"),
        ({"queue": ""}, "webhooks_queue_has_1_to_200_characters"),
        ({"task": "x" * 201}, "webhooks_task_has_1_to_200_characters"),
        ({"tenant_id": ""}, "webhooks_tenant_id_has_1_to_200_characters"),
    ],
)
async def test_a_webhook_that_makes_no_sense_is_refused_by_name(
    connection: Connection, columns: Mapping[str, object], rule: str
) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as refusal:
        await subscribe(connection, **columns)
    assert refusal.value.constraint_name == rule
    assert await _noted(connection) == ([], 0)


async def test_a_tenant_has_100_webhooks_at_most(connection: Connection) -> None:
    """One job of the tenant's would else have deliveries without end, before those of others."""
    many = (
        "insert into pushq.webhooks (tenant_id, url) "
        "select $1, 'https://example.com/' || number from generate_series(1, $2) as number"
    )
    await connection.execute(many, "acme", 100)
    await connection.execute(many, "globex", 100)
    await connection.execute(many, None, 101)
    with pytest.raises(asyncpg.CheckViolationError, match="a tenant may have 100 rows") as refusal:
        await connection.execute(many, "acme", 1)
    assert refusal.value.constraint_name == "webhooks_of_a_tenant_are_at_most_100"
