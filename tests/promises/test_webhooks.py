"""Webhooks are delivered: at least once, signed, in the order of their job, and whoever hangs delays nobody else."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import Any
from uuid import UUID

import anyio
import pytest
from anyio.abc import ByteStream
from standardwebhooks import Webhook

from pushq.database.statements import statement
from pushq.webhooks.signature import new_secret
from tests.support.jobs import Connection, count, finished, has_count, insert
from tests.support.metrics import shows
from tests.support.receivers import Answer, Receiver, Request, answers, hangs, receiving, sends
from tests.support.supervisors import RunningSupervisor, supervising
from tests.support.waiting import eventually

ALLOWED = "127.0.0.0/8"
DELIVERIES = "queue = 'pushq.webhooks'"


async def subscribe(connection: Connection, receiver: Receiver | str, **columns: Any) -> UUID:
    given = {"url": receiver if isinstance(receiver, str) else receiver.url} | columns
    values = ", ".join(f"${place}" for place in range(1, len(given) + 1))
    webhook: UUID = await connection.fetchval(
        f"insert into pushq.webhooks ({', '.join(given)}) values ({values}) returning id", *given.values()
    )
    return webhook


async def delivery(connection: Connection, where: str = "true") -> Any:
    return await connection.fetchrow(f"select * from pushq.jobs where {DELIVERIES} and {where}")


async def soon(connection: Connection, where: str) -> Any:
    return await eventually(lambda: delivery(connection, where), within=20)


async def due_now(connection: Connection) -> None:
    """Moves time: deliveries that wait for their next attempt are due."""
    await connection.execute(
        f"update pushq.jobs_unfinished set run_at = now() where {DELIVERIES} and status = 'queued'"
    )
    await connection.execute("select pushq.ring('pushq.webhooks')")


def then(*ways: Answer) -> Answer:
    """Each request is answered in the next way, and the rest in the last."""
    left = list(ways)

    async def answer(request: Request, stream: ByteStream) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(request, stream)

    return answer


async def test_a_subscription_is_told_the_end_of_a_job_in_the_form_of_standard_webhooks(
    database_url: str, connection: Connection
) -> None:
    new, old = new_secret(), new_secret()
    async with receiving() as receiver:
        await subscribe(connection, receiver, secrets=[new, old])
        with supervising(database_url, WEBHOOK_ALLOW=ALLOWED):
            (job,) = await insert(connection, "echo", payload={"value": "é"})
            [request] = await receiver.wait_for(1)
            row = await soon(connection, "status = 'succeeded'")

    for secret in (new, old):
        told = Webhook(secret).verify(request.body, request.headers)
        assert told["type"] == "job.succeeded"
        assert (told["data"]["id"], told["data"]["status"]) == (str(job), "succeeded")
    assert request.headers["webhook-id"] == str(row["id"])
    assert request.headers["content-type"] == "application/json"
    assert json.loads(row["result"])["status"] == 200
    assert row["correlation_id"] == str(job)


async def test_a_subscription_may_ask_for_a_flat_body(database_url: str, connection: Connection) -> None:
    async with receiving() as receiver:
        await subscribe(connection, receiver, body="flat")
        with supervising(database_url, WEBHOOK_ALLOW=ALLOWED):
            (job,) = await insert(connection, "echo")
            [request] = await receiver.wait_for(1)

    assert (request.json["id"], request.json["state"]) == (str(job), "succeeded")
    assert "webhook-signature" not in request.headers


async def test_a_job_s_own_url_is_told_its_end(database_url: str, connection: Connection) -> None:
    async with receiving() as receiver:
        with supervising(database_url, WEBHOOK_ALLOW=ALLOWED) as supervisor:
            (job,) = await insert(connection, "fail", max_attempts=1, webhook_url=receiver.url)
            [request] = await receiver.wait_for(1)
            await soon(connection, "status = 'succeeded'")
            assert "webhooks=True" in supervisor.said

    assert (request.json["type"], request.json["data"]["id"]) == ("job.failed", str(job))


async def test_a_delivery_to_a_url_may_say_that_its_body_is_flat(database_url: str, connection: Connection) -> None:
    """As those that the owner's own triggers write, in the transaction of what they tell."""
    async with receiving() as receiver:
        (job,) = await insert(connection, "echo")
        await connection.execute(
            """
            insert into pushq.jobs (task, queue, correlation_id, unique_key, payload)
            values (
                'pushq.webhook', 'pushq.webhooks', $1::uuid, pushq.deliveries_of($1, 'url') || '1',
                jsonb_build_object(
                    'url', $2::text, 'body', 'flat', 'event', 1, 'type', 'job.done', 'timestamp', now(),
                    'data', '{"id": "job 7", "status": "done"}'::jsonb))
            """,
            job,
            receiver.url,
        )
        with supervising(database_url, WEBHOOK_ALLOW=ALLOWED):
            [request] = await receiver.wait_for(1)

    assert request.json == {"id": "job 7", "state": "done"}


async def test_the_pool_that_delivers_is_counted_among_those_that_should_hear(
    database_url: str, connection: Connection
) -> None:
    async with receiving() as receiver:
        await subscribe(connection, receiver)
        with supervising(database_url, WEBHOOK_ALLOW=ALLOWED) as supervisor:
            await insert(connection, "echo")
            await receiver.wait_for(1)
            await shows(supervisor, "pushq_listener_up", 2)
            await shows(supervisor, "pushq_pools", 2)


async def test_deliveries_take_no_workers_from_jobs(database_url: str, connection: Connection) -> None:
    async with receiving(hangs) as receiver:
        await subscribe(connection, receiver)
        with supervising(database_url, "--concurrency", "1", WEBHOOK_ALLOW=ALLOWED):
            await insert(connection, "echo")
            await receiver.wait_for(1)
            await finished(connection, *await insert(connection, "echo", 3))
            (row,) = await connection.fetch(statement("prospects"), ["echo"], ["default"])
            assert row["idle"] == 1


async def test_without_webhooks_there_is_no_pool_for_them_and_no_connection(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url) as supervisor:
        await finished(connection, *await insert(connection, "echo", 3))
        surveyed = await connection.fetchval("select now()")
        await eventually(lambda: _surveyed_since(connection, surveyed))
        assert len(supervisor.pools) == 1
        assert not await connection.fetchval(
            "select count(*) from pg_stat_activity where application_name like '%webhooks%' "
            "and datname = current_database()"
        )


async def _surveyed_since(connection: Connection, instant: object) -> bool:
    return bool(
        await connection.fetchval(
            "select count(*) from pg_stat_activity where application_name like 'pushq supervisor%: jobs' "
            "and datname = current_database() and query_start > $1",
            instant,
        )
    )


async def test_webhooks_0_delivers_none(database_url: str, connection: Connection) -> None:
    async with receiving() as receiver:
        await subscribe(connection, receiver)
        with supervising(database_url, WEBHOOKS="0", WEBHOOK_ALLOW=ALLOWED) as supervisor:
            await finished(connection, *await insert(connection, "echo"))
            surveyed = await connection.fetchval("select now()")
            await eventually(lambda: _surveyed_since(connection, surveyed))
            assert len(supervisor.pools) == 1
        assert receiver.connections == 0
    assert await count(connection, f"{DELIVERIES} and status = 'queued'") == 1


async def test_the_deliveries_of_a_job_arrive_in_order_even_if_the_first_fails(
    database_url: str, connection: Connection
) -> None:
    async with receiving(then(answers(500), answers(500), answers(200))) as receiver:
        await subscribe(connection, receiver, statuses=["queued", "running", "succeeded"])
        with supervising(database_url, WEBHOOK_ALLOW=ALLOWED):
            await insert(connection, "echo")
            for failures in (1, 2):
                row = await soon(connection, f"status = 'queued' and failures = {failures}")
                assert "127.0.0.1 answered 500." in row["error"]
                assert len(receiver.requests) == failures
                await due_now(connection)
            # Those behind may be on their way back into the queue, to wait until the first was due.
            await eventually(lambda: _all_succeed_once_due(connection, 3))

    types = [request.json["type"] for request in receiver.requests]
    assert types == ["job.queued"] * 3 + ["job.running", "job.succeeded"]
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 3


async def _all_succeed_once_due(connection: Connection, deliveries: int) -> bool:
    await due_now(connection)
    return await count(connection, f"{DELIVERIES} and status = 'succeeded'") == deliveries


async def test_the_deliveries_of_many_jobs_arrive_in_order(database_url: str, connection: Connection) -> None:
    async with receiving() as receiver:
        await subscribe(connection, receiver, statuses=["queued", "running", "succeeded"])
        with supervising(database_url, WEBHOOK_ALLOW=ALLOWED):
            jobs = await insert(connection, "echo", 30)
            await receiver.wait_for(90)
            await has_count(connection, 90, f"{DELIVERIES} and status = 'succeeded'")

    for job in jobs:
        mine = [one.json["type"] for one in receiver.requests if one.json["data"]["id"] == str(job)]
        assert list(dict.fromkeys(mine)) == ["job.queued", "job.running", "job.succeeded"]


async def test_a_hanging_receiver_delays_nobody_else(database_url: str, connection: Connection) -> None:
    """Fifty deliveries wait for a receiver that never answers, and all others arrive within its first deadline."""
    async with receiving(hangs, host="127.0.0.2") as hanging, receiving() as healthy:
        await subscribe(connection, hanging, tenant_id="hangs")
        await subscribe(connection, healthy, tenant_id="works")
        with supervising(database_url, WEBHOOK_ALLOW=ALLOWED):
            await insert(connection, "echo", 50, tenant_id="hangs")
            await hanging.wait_for(2)
            await insert(connection, "echo", 50, tenant_id="works")
            await healthy.wait_for(50, within=14)
            assert hanging.most_open == hanging.connections == 2  # which are in their first deadline still


@pytest.mark.parametrize("status", [301, 404, 500])
async def test_any_answer_but_2xx_is_tried_again(database_url: str, connection: Connection, status: int) -> None:
    async with receiving(then(answers(status, location="http://127.0.0.1/"), answers(204))) as receiver:
        await subscribe(connection, receiver)
        with supervising(database_url, WEBHOOK_ALLOW=ALLOWED):
            await insert(connection, "echo")
            row = await soon(connection, "status = 'queued' and failures = 1")
            assert f"NotAccepted: 127.0.0.1 answered {status}" in row["error"]
            assert ("redirects are not followed" in row["error"]) == (status == 301)
            await due_now(connection)
            await soon(connection, "status = 'succeeded'")


async def test_retry_after_is_honoured_up_to_a_day(database_url: str, connection: Connection) -> None:
    async with receiving(then(answers(503, Retry_After="1000"), answers(429, Retry_After="9" * 20))) as receiver:
        await subscribe(connection, receiver)
        with supervising(database_url, WEBHOOK_ALLOW=ALLOWED):
            await insert(connection, "echo")
            await soon(connection, "failures = 1 and run_at between now() + '900 s' and now() + '1000 s'")
            await due_now(connection)
            await soon(connection, "failures = 2 and run_at between now() + '23 h' and now() + '24 h'")


async def test_410_pauses_the_subscription_and_ends_the_delivery(database_url: str, connection: Connection) -> None:
    async with receiving(then(answers(410), answers(200))) as receiver:
        webhook = await subscribe(connection, receiver)
        with supervising(database_url, WEBHOOK_ALLOW=ALLOWED):
            await insert(connection, "echo")
            row = await soon(connection, "status = 'failed'")
            assert row["error"].startswith("ReceiverGone: 127.0.0.1 answered 410 Gone: its webhook is paused.")
            assert await connection.fetchval("select paused_at is not null from pushq.webhooks")

            await connection.execute("select pushq.retry($1)", row["id"])
            row = await soon(connection, "status = 'failed' and error like 'SubscriptionPaused%'")
            assert row["error"].startswith(f"SubscriptionPaused: Webhook {webhook} is paused")

            await connection.execute("update pushq.webhooks set paused_at = null")
            await connection.execute("select pushq.retry($1)", row["id"])
            await soon(connection, "status = 'succeeded'")
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1


async def test_a_deleted_subscription_is_told_nothing_more(database_url: str, connection: Connection) -> None:
    async with receiving(answers(500)) as receiver:
        webhook = await subscribe(connection, receiver)
        with supervising(database_url, WEBHOOK_ALLOW=ALLOWED):
            await insert(connection, "echo")
            await soon(connection, "failures = 1")
            await connection.execute("delete from pushq.webhooks")
            await due_now(connection)
            row = await soon(connection, "status = 'cancelled'")
    assert row["error"] == f"webhook {webhook} has been deleted"


async def test_another_tenant_s_subscription_is_not_used(database_url: str, connection: Connection) -> None:
    async with receiving() as receiver:
        webhook = await subscribe(connection, receiver, tenant_id="acme", secrets=[new_secret()])
        with supervising(database_url, WEBHOOK_ALLOW=ALLOWED):
            payload = {"webhook": str(webhook), "event": 1, "type": "job.failed", "timestamp": "now", "data": {}}
            (forged,) = await insert(
                connection, "pushq.webhook", queue="pushq.webhooks", tenant_id="globex", payload=payload
            )
            [row] = await finished(connection, forged)
    assert (row["status"], receiver.connections) == ("cancelled", 0)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "0x7f.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"]
)
async def test_a_refused_address_ends_the_delivery_by_name(
    database_url: str, connection: Connection, host: str
) -> None:
    async with receiving() as receiver:
        await subscribe(connection, f"http://{host}:{receiver.port}/?token=SECRET")
        with supervising(database_url):
            await insert(connection, "echo")
            row = await soon(connection, "status = 'failed'")
    assert row["error"].startswith("AddressRefused: ")
    assert "PUSHQ_WEBHOOK_ALLOW" in row["error"]
    assert (row["attempt"], receiver.connections) == (1, 0)


async def test_a_secret_is_in_no_payload_error_event_or_log(database_url: str, connection: Connection) -> None:
    secret = new_secret()
    async with receiving(answers(500)) as receiver:
        await subscribe(connection, f"{receiver.url}?token=TOKEN", secrets=[secret])
        with supervising(database_url, LOG_LEVEL="debug", LOG_ERRORS="full", WEBHOOK_ALLOW=ALLOWED) as supervisor:
            await insert(connection, "echo")
            await soon(connection, "failures = 1")
            said = supervisor.said
    jobs = await connection.fetchval("select string_agg(job::text, '') from pushq.jobs as job")
    events = await connection.fetchval("select string_agg(event::text, '') from pushq.job_events as event")
    for text in (said, jobs, events):
        assert secret not in text
        assert secret.removeprefix("whsec_") not in text
        assert "TOKEN" not in text


@pytest.mark.parametrize("url", ["http://localhost:{}/", "https://localhost:1/"])
async def test_what_a_tenant_reads_of_a_failed_delivery_shows_no_address(
    database_url: str, connection: Connection, url: str
) -> None:
    """Not only the error: the trace too, and events."""
    async with receiving(sends(b"")) as receiver:
        await subscribe(connection, url.format(receiver.port))
        with supervising(database_url, WEBHOOK_ALLOW=f"{ALLOWED},::1/128"):
            await insert(connection, "echo")
            row = await soon(connection, "failures = 1")
    assert row["error"].startswith("NoAnswer: ")
    events = await connection.fetchval("select string_agg(event::text, '') from pushq.job_events as event")
    for text in (str(dict(row)), events):
        assert not re.search(r"127\.0\.0\.1|::1", text)


async def test_a_killed_delivering_pool_delivers_again(database_url: str, connection: Connection) -> None:
    async with receiving(then(hangs, answers(200))) as receiver:
        await subscribe(connection, receiver)
        with supervising(database_url, WEBHOOK_ALLOW=ALLOWED) as supervisor:
            await insert(connection, "echo")
            await receiver.wait_for(1)
            os.kill(supervisor.pools[-1], signal.SIGKILL)
            row = await soon(connection, "status = 'succeeded'")
            assert supervisor.said.count("webhooks=True") == 2
    assert (row["crashes"], row["attempt"]) == (1, 2)
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1


async def test_a_delivery_that_has_killed_two_pools_is_run_by_a_solo_pool(
    database_url: str, connection: Connection
) -> None:
    async with receiving(then(hangs, hangs, answers(200))) as receiver:
        await subscribe(connection, receiver)
        with supervising(database_url, WEBHOOK_ALLOW=ALLOWED) as supervisor:
            await insert(connection, "echo")
            for deaths in (1, 2):
                await receiver.wait_for(deaths)
                os.kill(_delivering(supervisor), signal.SIGKILL)
                await soon(connection, f"crashes = {deaths}")
            row = await soon(connection, "status = 'succeeded'")
            assert "solo=True webhooks=True" in supervisor.said
    assert row["crashes"] == 2


def _delivering(supervisor: RunningSupervisor) -> int:
    line = [line for line in supervisor.said.splitlines() if "pool started" in line and "webhooks=True" in line][-1]
    return int(line.partition("pid=")[2].split()[0])


async def test_a_drain_ends_what_is_being_delivered_and_releases_the_rest(
    database_url: str, connection: Connection
) -> None:
    async def slow(request: Request, stream: ByteStream) -> None:
        await release.wait()
        await answers(200)(request, stream)

    release = anyio.Event()
    async with receiving(slow) as receiver:
        await subscribe(connection, receiver)
        with supervising(database_url, WEBHOOK_ALLOW=ALLOWED) as supervisor:
            await insert(connection, "echo", 5)
            await receiver.wait_for(2)
            supervisor.signal(signal.SIGTERM)
            await eventually(lambda: _has_said(supervisor, "draining"))
            release.set()
            await eventually(lambda: _has_ended(supervisor))
            assert supervisor.process.returncode == 0
    assert await count(connection, f"{DELIVERIES} and status = 'succeeded'") == len(receiver.requests)
    assert await count(connection, f"{DELIVERIES} and status = 'queued' and failures = 0 and crashes = 0") == 5 - len(
        receiver.requests
    )


async def _has_said(supervisor: RunningSupervisor, words: str) -> bool:
    return words in supervisor.said


async def _has_ended(supervisor: RunningSupervisor) -> bool:
    return supervisor.process.poll() is not None
