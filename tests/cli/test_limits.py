"""pushq limits, and why jobs wait."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any
from uuid import uuid4

import pytest

from tests.support.commands import invoke
from tests.support.jobs import Connection, count, insert
from tests.support.supervisors import ROOT, environment
from tests.support.waiting import eventually


def listed(url: str, *arguments: str) -> list[dict[str, Any]]:
    ended = invoke(*arguments, "--json", url=url)
    assert ended.exit_code == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def refused(url: str, *arguments: str) -> str:
    ended = invoke("limits", *arguments, url=url)
    assert (ended.exit_code, ended.stdout) == (2, "")
    return " ".join(ended.stderr.split())


# Limits ---------------------------------------------------------------------------------------------------------


async def test_the_list_shows_rules_and_what_jobs_hold_and_wait_for(database_url: str, connection: Connection) -> None:
    await connection.execute("select pushq.limit('gpu', 4), pushq.limit('key:*', 1)")
    await connection.execute("select pushq.limit('queue:mail', null, 0.1, 2)")
    held = await insert(connection, "echo", needs={"gpu": 3}) + await insert(connection, "echo", 2, queue="mail")
    for job in [*held, *await insert(connection, "echo", limit_key="7")]:
        await connection.execute("select pushq.take($1, 'bert')", job)
    await insert(connection, "echo", 3, needs={"gpu": 2}, limit_key="7")

    rows = {row["name"]: row for row in listed(database_url, "limits")}
    assert {"gpu", "queue:mail", "key:7", "key:*"} <= rows.keys()
    gpu, mail, key, kind = (rows[name] for name in ("gpu", "queue:mail", "key:7", "key:*"))
    assert (gpu["has_rule"], gpu["capacity"], gpu["held"], gpu["free"], gpu["waiting"]) == (True, 4, 3, 1, 3)
    assert (mail["capacity"], mail["held"], mail["free"], mail["rate"], mail["burst"]) == (None, 2, None, 0.1, 2)
    assert mail["next_token_at"]
    assert (key["has_rule"], key["capacity"], key["free"], key["waiting"]) == (False, 1, 0, 3)
    assert (kind["has_rule"], kind["capacity"], kind["held"], kind["waiting"]) == (True, 1, None, None)

    shown = invoke("limits", url=database_url).stdout.splitlines()
    assert shown[0].split() == ["name", "capacity", "held", "free", "rate", "burst", "waiting", "next_token"]
    assert next(line for line in shown if line.startswith("queue:mail")).split()[1:3] == ["any", "2"]


async def test_set_gives_the_limit_to_jobs_that_are_there_and_remove_takes_the_rule_away(
    database_url: str, connection: Connection
) -> None:
    await insert(connection, "echo", 2500)
    assert listed(database_url, "limits", "set", "queue:default", "--capacity", "2") == [
        {"name": "queue:default", "did": "limited", "jobs": 2500}
    ]
    assert await count(connection, "needs = '{\"queue:default\": 1}'") == 2500
    assert listed(database_url, "limits", "set", "queue:default", "--capacity", "2")[0]["did"] == "as before"
    assert listed(database_url, "limits", "remove", "queue:default") == [{"name": "queue:default", "did": "removed"}]
    ended = invoke("limits", "remove", "queue:default", url=database_url)
    assert (ended.exit_code, ended.stdout.split()) == (1, ["name", "did", "queue:default", "no", "rule"])


async def test_any_number_may_be_held_of_a_resource(database_url: str, connection: Connection) -> None:
    assert listed(database_url, "limits", "set", "gpu", "--capacity", "any")[0]["did"] == "limited"
    row = await connection.fetchrow("select capacity, rate from pushq.resources where name = 'gpu'")
    assert tuple(row or ()) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["set", "gpu"], "Give --capacity, --rate or both. To lift a limit: pushq limits remove gpu."),
        (["set", "gpu", "--capacity", "-1"], "-1 is not in the range 0 to 2147483647; 0 lets no job begin."),
        (["set", "gpu", "--capacity", "2147483648"], "2147483648 is not in the range"),
        (["set", "gpu", "--capacity", "x"], "'x' is neither a whole number nor `any`."),
        (["set", "gpu", "--rate", "0"], "a rate is 0.0000001 to 1000000 a second, not 0"),
        (["set", "gpu", "--rate", "nan"], "a rate is 0.0000001 to 1000000 a second, not NaN"),
        (["set", "gpu", "--rate", "1", "--burst", "0"], "a burst is 1 to 1000000, not 0"),
        (["set", "gpu", "--rate", "1", "--burst", "3000000000"], "3000000000"),
        (["set", "gpu", "--capacity", "1", "--burst", "2"], "a burst of 2 needs a rate"),
        (["set", "queue:*", "--capacity", "1"], "name a queue; no limit is for all queues"),
        (["set", "model:*", "--capacity", "1"], "a rule for all names of a kind is for key:*, tenant:*, task:* or"),
        (["set", "x" * 211, "--capacity", "1"], "a name has at most 210 characters, not 211"),
        (["set", "", "--capacity", "1"], "name a resource or a kind of jobs"),
        (["remove"], "Missing argument 'NAME...'"),
    ],
)
async def test_bad_input_is_refused_in_a_sentence(
    database_url: str, connection: Connection, arguments: list[str], sentence: str
) -> None:
    assert sentence in refused(database_url, *arguments)
    assert await connection.fetchval("select count(*) from pushq.resources where name !~ ':\\*$'") == 0


async def test_a_name_with_an_unknown_prefix_is_a_resource_and_perhaps_a_slip(
    database_url: str, connection: Connection
) -> None:
    ended = invoke("limits", "set", "queues:mail", "--capacity", "1", url=database_url)
    assert ended.exit_code == 0
    assert "did you mean queue:mail?" in ended.stderr
    assert not invoke("limits", "set", "model:7b", "--capacity", "1", url=database_url).stderr
    assert await connection.fetchval("select count(*) from pushq.resources where name !~ ':\\*$'") == 2


async def test_a_set_that_is_stopped_says_what_is_left_and_for_whom(database_url: str, connection: Connection) -> None:
    await insert(connection, "echo", 20_000)
    command = [sys.executable, "-m", "pushq", "limits", "set", "queue:default", "--capacity", "2"]
    setting = subprocess.Popen(  # noqa: ASYNC220 - read when it has ended
        command, cwd=ROOT, env=environment(database_url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    await eventually(lambda: connection.fetchval("select exists (select from pushq.jobs where needs is not null)"))
    setting.send_signal(signal.SIGINT)
    _, said = setting.communicate(timeout=20)

    assert setting.returncode != 0
    assert "have got the limit. The rule is set; sweepers go on with the other jobs." in said
    assert "Traceback" not in said
    assert await connection.fetchval("select capacity from pushq.queues where name = 'default'") == 2


# Why ------------------------------------------------------------------------------------------------------------


async def test_why_tells_the_causes_of_a_job_as_sentences_and_as_data(
    database_url: str, connection: Connection
) -> None:
    first, second = await insert(connection, "echo", 2, needs=["gpu"])
    await connection.execute("select pushq.take($1, 'bert')", first)

    shown = invoke("jobs", "why", str(second), url=database_url)
    assert shown.exit_code == 0
    assert f"needs      needs 1 of 'gpu', of which 0 of 1 is free; 1 job holds the rest: {first}" in shown.stdout
    causes = {row["cause"]: row for row in listed(database_url, "jobs", "why", str(second))}
    assert causes["needs"]["detail"]["held_by"] == [str(first)]
    assert causes["unserved"]["sentence"].startswith("no live supervisor serves queue 'default'")


async def test_why_of_a_job_that_does_not_wait_is_a_sentence(database_url: str, connection: Connection) -> None:
    job, last = await insert(connection, "echo", 2)
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until, tasks, queues, workers) "
        "values ('anna', 'here', 1, '1 hour', now() + interval '1 hour', '{echo}', '{default}', 10)"
    )
    waits = invoke("jobs", "why", str(job), url=database_url)
    assert (waits.exit_code, waits.stdout) == (0, "")
    assert waits.stderr == "Nothing keeps the job waiting: the next free worker takes it.\n"
    token = await connection.fetchval("select pushq.take($1, 'bert')", job)
    runs = invoke("jobs", "why", str(job), url=database_url)
    assert "The job waits no more: guest:bert has run it since 2" in runs.stderr
    await connection.execute("select pushq.finish($1, $2, 'succeeded')", job, token)
    assert invoke("jobs", "why", str(job), url=database_url).stderr == "The job waits no more: it has succeeded.\n"
    await connection.execute("select pushq.cancel($1)", last)
    assert invoke("jobs", "why", str(last), url=database_url).stderr == "The job waits no more: it was cancelled.\n"
    unknown = invoke("jobs", "why", str(uuid4()), url=database_url)
    assert unknown.exit_code == 2
    assert "There is no job" in unknown.stderr


async def test_why_of_a_queue_tells_causes_and_how_many_are_queued(database_url: str, connection: Connection) -> None:
    assert "No job of queue 'mail' is queued" not in invoke("queues", "why", "mail", url=database_url).stderr
    await insert(connection, "echo", 2, queue="mail")
    await connection.execute("select pushq.pause('mail')")
    shown = invoke("queues", "why", "mail", url=database_url).stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["paused", "unserved", "queued"]
    assert listed(database_url, "queues", "why", "mail")[-1] == {
        "cause": "queued", "sentence": "2 jobs are queued", "detail": {"jobs": 2, "seconds": None}
    }  # fmt: skip


async def test_a_queue_is_made_fair_and_its_jobs_get_their_turns(database_url: str, connection: Connection) -> None:
    await insert(connection, "echo", 3, tenant_id="acme")
    made = invoke("queues", "fair", "default", "--by", "tenant", "--json", url=database_url)
    assert json.loads(made.stdout) == {"queue": "default", "did": "changed", "jobs": 3}
    assert await connection.fetchval("select count(share) from pushq.jobs") == 3
    ended = invoke("queues", "fair", "default", "--off", url=database_url)
    assert ended.exit_code == 0
    assert await connection.fetchval("select count(share) from pushq.jobs") == 0
    unclear = invoke("queues", "fair", "default", url=database_url)
    assert unclear.exit_code == 2
    assert "Give --by tenant, --by key, or --off." in unclear.stderr


async def test_the_turn_of_a_queue_is_an_interval(database_url: str, connection: Connection) -> None:
    assert "changed" in invoke("queues", "turn", "models", "60s", url=database_url).stdout
    assert "as before" in invoke("queues", "turn", "models", "1 minute", url=database_url).stdout
    assert str(await connection.fetchval("select turn from pushq.queues where name = 'models'")) == "0:01:00"
    for wrong in ("2h", "soon", "-1s"):
        ended = invoke("queues", "turn", "models", "--", wrong, url=database_url)
        assert (ended.exit_code, ended.stdout) == (2, "")
        assert "Traceback" not in ended.stderr


async def test_only_keys_are_strict(database_url: str) -> None:
    assert invoke("limits", "set", "key:*", "--capacity", "1", "--strict", url=database_url).exit_code == 0
    assert "only keys can be strict" in refused(database_url, "set", "gpu", "--capacity", "1", "--strict")
