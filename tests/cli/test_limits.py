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


async def test_a_name_that_looks_like_a_kind_is_refused_unless_jobs_need_it_or_the_flag_says_so(
    database_url: str, connection: Connection
) -> None:
    said = refused(database_url, "set", "queues:mail", "--capacity", "1")
    assert said == (
        "pushq: 'queues:mail' would be a resource, and no job needs it; did you mean queue:mail? "
        "For a resource of this name, add --resource."
    )
    assert await connection.fetchval("select count(*) from pushq.resources where name !~ ':\\*$'") == 0
    assert invoke("limits", "set", "model:7b", "--capacity", "1", url=database_url).exit_code == 0
    assert invoke("limits", "set", "queues:mail", "--capacity", "1", "--resource", url=database_url).exit_code == 0
    await connection.execute("insert into pushq.tasks (name, needs) values ('echo', '[\"tasks:7\"]')")
    await insert(connection, "echo", needs=["keys:7"])
    [running] = await insert(connection, "echo", needs=["tenants:7"])
    await connection.execute("select pushq.take($1, 'bert')", running)
    for name in ("queues:mail", "tasks:7", "keys:7", "tenants:7"):
        assert invoke("limits", "set", name, "--capacity", "2", url=database_url).exit_code == 0, name


async def test_numbers_and_hours_beyond_all_measure_are_shown_in_a_few_characters(
    database_url: str, connection: Connection
) -> None:
    await connection.execute(
        "alter table pushq.resources drop constraint resources_rate_is_1e_7_to_1e6; "
        "insert into pushq.resources (name, rate) values ('api', 1e290), ('slow', 1e-7); "
        "insert into pushq.tokens values ('slow', '20000-01-01 UTC')"
    )
    lines = {line.split()[0]: line.split() for line in invoke("limits", url=database_url).stdout.splitlines()}
    assert lines["api"][4] == "1e+290"
    assert lines["slow"][4] == "1e-07"
    assert lines["slow"][-2:] == ["after", "9999"]
    [slow] = [row for row in listed(database_url, "limits") if row["name"] == "slow"]
    assert slow["next_token_at"] == "9999-12-30T00:00:00+00:00"


@pytest.mark.parametrize(
    "arguments",
    [["limits", "set", "m\udcff", "--capacity", "1"], ["limits", "remove", "m\udcff"], ["queues", "why", "m\udcff"],
     ["queues", "turn", "m\udcff", "1s"], ["jobs", "why", "m\udcff"], ["jobs", "list", "--task", "m\udcff"]],
)  # fmt: skip
def test_an_argument_that_is_not_utf_8_is_refused_in_a_sentence(database_url: str, arguments: list[str]) -> None:
    ended = invoke(*arguments, url=database_url)
    assert (ended.exit_code, ended.stdout) == (2, "")
    said = "The argument 'm\\xff' is not UTF-8, which the database takes; write it in UTF-8."
    assert said in " ".join(ended.stderr.split())


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


@pytest.mark.parametrize(
    ("time", "sentence"),
    [
        ("2h", "pushq.set_turn('models'): a turn is 0 to 1 hour, not 02:00:00; 0 is strict order."),
        ("-1s", "pushq.set_turn('models'): a turn is 0 to 1 hour, not -00:00:01; 0 is strict order."),
        ("soon", "'soon' is not a time that PostgreSQL knows; write 50ms, 90s, 2h or 30d."),
        ("nan", "'nan' is not a time that PostgreSQL knows; write 50ms, 90s, 2h or 30d."),
        ("", "'' is not a time that PostgreSQL knows; write 50ms, 90s, 2h or 30d."),
    ],
)
def test_a_turn_that_cannot_be_is_refused_in_a_sentence(database_url: str, time: str, sentence: str) -> None:
    ended = invoke("queues", "turn", "models", "--", time, url=database_url)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert sentence in ended.stderr
    assert "constraint" not in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [["turn", "mial", "3s"], ["fair", "mial", "--by", "key"], ["pause", "mial"], ["keep", "mial", "--for", "2h"],
     ["all-events", "mial"]],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
async def test_what_is_chosen_for_a_queue_that_nobody_has_served_holds_and_may_be_a_slip(
    database_url: str, connection: Connection, arguments: list[str]
) -> None:
    ended = invoke("queues", *arguments, url=database_url)
    assert (ended.exit_code, ended.stderr) == (0, "pushq: No supervisor has served queue 'mial' yet.\n")
    await connection.execute("insert into pushq.queues (name, served_since) values ('mail', now())")
    again = invoke("queues", *arguments, url=database_url)
    assert again.stderr == "pushq: No supervisor has served queue 'mial' yet; did you mean 'mail'?\n"
    verb, _, *more = arguments
    assert invoke("queues", verb, "mail", *more, url=database_url).stderr == ""


async def test_a_limit_of_a_queue_that_nobody_has_served_may_be_a_slip(database_url: str) -> None:
    ended = invoke("limits", "set", "queue:mail", "--capacity", "1", url=database_url)
    assert (ended.exit_code, ended.stderr) == (0, "pushq: No supervisor has served queue 'mail' yet.\n")


async def test_only_keys_are_strict(database_url: str) -> None:
    assert invoke("limits", "set", "key:*", "--capacity", "1", "--strict", url=database_url).exit_code == 0
    assert "only keys can be strict" in refused(database_url, "set", "gpu", "--capacity", "1", "--strict")
