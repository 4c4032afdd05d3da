"""pushq webhooks."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pytest
from anyio.to_thread import run_sync
from click.testing import Result
from standardwebhooks import Webhook

from pushq.webhooks.signature import new_secret
from tests.support.commands import invoke
from tests.support.jobs import Connection, insert, row_of
from tests.support.receivers import answers, receiving


async def test_a_receiver_is_tried_with_a_signed_event(tmp_path: Path) -> None:
    secret = new_secret()
    (tmp_path / "secrets").write_text(f"{secret}\n")
    async with receiving() as receiver:
        ended = await _invoke("test", receiver.url, "--secrets", str(tmp_path / "secrets"), "--json")

    shown = json.loads(ended.stdout)
    assert (ended.exit_code, shown["status"], shown["address"]) == (0, 200, "127.0.0.1")
    [request] = receiver.requests
    assert request.headers["webhook-id"] == shown["webhook_id"]
    told = Webhook(secret).verify(request.body, request.headers)
    assert (told["type"], told["data"]["status"]) == ("job.test", "test")


async def test_a_flat_event_may_be_tried() -> None:
    async with receiving() as receiver:
        ended = await _invoke("test", receiver.url, "--body", "flat")

    assert ended.exit_code == 0
    assert "status      200\n" in ended.stdout
    assert receiver.requests[0].json["state"] == "test"


async def test_an_answer_other_than_2xx_is_exit_code_1() -> None:
    async with receiving(answers(302, location="http://elsewhere.example/")) as receiver:
        ended = await _invoke("test", receiver.url)

    assert (ended.exit_code, "status      302\n" in ended.stdout) == (1, True)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://127.0.0.2/", "127.0.0.2 leads to an address that is refused (loopback)"),
        ("ftp://example.com/", "The URL must begin with http:// or https://."),
    ],
)
async def test_what_is_refused_is_said_in_a_sentence(url: str, sentence: str) -> None:
    ended = await _invoke("test", url)

    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"pushq: {sentence}")


async def test_a_secret_that_cannot_sign_is_told_with_what_a_secret_is(tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text("whsec_c2hvcnQ=\n")
    async with receiving() as receiver:
        ended = await _invoke("test", receiver.url, "--secrets", str(tmp_path / "secrets"))

    assert (ended.exit_code, receiver.connections) == (1, 0)
    told = "pushq: Secret 1 cannot sign: a secret is whsec_ and 24 to 75 bytes in base64; replace the secret."
    assert told in ended.stderr


def test_networks_are_checked_by_the_settings() -> None:
    for value, hint in (("10.1.2.3/8", "has bits of a host"), ("everywhere", "is no network")):
        ended = invoke("webhooks", "test", "http://example.com", "--webhook-allow", value)
        assert ended.exit_code == 2
        assert f"PUSHQ_WEBHOOK_ALLOW={value} cannot be used: it has {value}, which {hint}" in ended.stderr


async def test_webhooks_are_listed_without_their_secrets(connection: Connection, database_url: str) -> None:
    secret = new_secret()
    await connection.execute(
        "insert into pushq.webhooks (tenant_id, url, secrets) values ('acme', 'https://example.com/hook', array[$1])",
        secret,
    )
    for arguments in (("list",), (), ("--json",)):
        ended = await _invoke(*arguments, url=database_url)
        assert (ended.exit_code, secret in ended.stdout) == (0, False)
        assert "https://example.com/hook" in ended.stdout
        assert "acme" in ended.stdout


async def test_dead_deliveries_are_listed_and_replayed(connection: Connection, database_url: str) -> None:
    told = "0192f0c1-0000-7000-8000-000000000001"
    dead, other = await insert(
        connection, "pushq.webhook", 2, queue="pushq.webhooks", correlation_id=told, tenant_id="acme"
    )
    (waiting,) = await insert(connection, "pushq.webhook", queue="pushq.webhooks")
    await _fail(connection, dead, other)

    listed = await _invoke("dead", url=database_url)
    assert str(dead) in listed.stdout
    assert str(waiting) not in listed.stdout
    assert "No jobs match." in (await _invoke("dead", "--tenant", "globex", url=database_url)).stderr

    assert (await _invoke("replay", str(dead), url=database_url)).exit_code == 0
    assert (await row_of(connection, dead))["status"] == "queued"
    assert (await row_of(connection, other))["status"] == "failed"
    assert (await _invoke("replay", "--job", told, "--yes", url=database_url)).exit_code == 0
    assert (await row_of(connection, other))["status"] == "queued"


async def test_a_replay_must_say_of_what(database_url: str) -> None:
    for arguments in ((), ("0192f0c1-0000-7000-8000-000000000001", "--all")):
        ended = await _invoke("replay", *arguments, url=database_url)
        assert ended.exit_code == 2
        assert "Name deliveries by id, or choose them by --tenant, --job or --all." in ended.stderr


async def test_a_job_is_no_delivery_and_does_not_run_again(connection: Connection, database_url: str) -> None:
    """A receiver sees the job's id in data.id, and might hand it in."""
    (job,) = await insert(connection, "echo")
    (dead,) = await insert(connection, "pushq.webhook", queue="pushq.webhooks", correlation_id=str(job))
    await _end(connection, "succeeded", job)
    await _fail(connection, dead)

    ended = await _invoke("replay", str(dead), str(job), url=database_url)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert f"{job} is no delivery; nothing was replayed. To replay the deliveries of a job: --job ID." in ended.stderr
    assert (await row_of(connection, job))["status"] == "succeeded"
    assert (await row_of(connection, dead))["status"] == "failed"

    unknown = "0192f0c1-0000-7000-8000-000000000001"
    ended = await _invoke("replay", str(job), unknown, url=database_url)
    assert f"{job}, {unknown} are no deliveries" in ended.stderr


async def test_a_delivery_that_has_not_failed_is_left_as_it_is(connection: Connection, database_url: str) -> None:
    sent, waiting, dead = await insert(connection, "pushq.webhook", 3, queue="pushq.webhooks")
    await _end(connection, "succeeded", sent)
    await _fail(connection, dead)

    ended = await _invoke("replay", str(sent), str(waiting), str(dead), "--json", url=database_url)
    assert ended.exit_code == 1
    told = [json.loads(line)["did"] for line in ended.stdout.splitlines()]
    assert told == ["is succeeded", "is queued", "queued"]
    assert (await row_of(connection, sent))["status"] == "succeeded"


@pytest.mark.parametrize("command", ["dead", "replay"])
async def test_the_job_of_deliveries_is_named_by_its_id(command: str, database_url: str) -> None:
    ended = await _invoke(command, "--job", "nope", url=database_url)

    assert ended.exit_code == 2
    assert "Invalid value for '--job'" in ended.stderr


async def _fail(connection: Connection, *deliveries: UUID) -> None:
    await _end(connection, "failed", *deliveries)


async def _end(connection: Connection, kind: str, *jobs: UUID) -> None:
    for job in jobs:
        token = await connection.fetchval("select pushq.take($1, 'tests')", job)
        error = "no" if kind == "failed" else None
        assert await connection.fetchval("select pushq.finish($1, $2, $3, error => $4)", job, token, kind, error)


async def _invoke(*arguments: str, url: str | None = None) -> Result:
    return await run_sync(lambda: invoke("webhooks", *arguments, url=url, WEBHOOK_ALLOW="127.0.0.1/32"))
