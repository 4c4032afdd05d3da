"""Why a job waits, and where it stands in line."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.support.jobs import Connection, insert

RUN = """
    update pushq.jobs
    set status = 'running', supervisor = 'anna', pool = 1, token = gen_random_uuid(), attempt = 1, started_at = now()
    where id = any($1)
"""


async def why(connection: Connection, job: UUID) -> dict[str, tuple[str, Any]]:
    rows = await connection.fetch("select * from pushq.why($1)", job)
    return {row["cause"]: (row["sentence"], json.loads(row["detail"])) for row in rows}


async def supervisor(connection: Connection, *tasks: str) -> None:
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until, tasks, queues, workers) "
        "values ('anna', 'here', 1, '1 hour', now() + interval '1 hour', $1, '{default}', 10)",
        list(tasks),
    )


async def test_a_job_that_nothing_keeps_waiting_has_no_cause(connection: Connection) -> None:
    await supervisor(connection, "echo")
    [job] = await insert(connection, "echo")
    assert await why(connection, job) == {}


async def test_each_cause_is_a_sentence_and_data(connection: Connection) -> None:
    [job] = await insert(connection, "echo")
    assert list(await why(connection, job)) == ["unserved"]
    await supervisor(connection, "other")
    assert list(await why(connection, job)) == ["unknown"]
    await connection.execute("update pushq.supervisors set tasks = '{echo}'")
    await connection.execute("select pushq.pause('default')")
    sentence, detail = (await why(connection, job))["paused"]
    assert sentence.startswith("queue 'default' is paused since ")
    assert detail["by"]
    await connection.execute("select pushq.resume('default')")
    await connection.execute("update pushq.jobs set run_at = now() + interval '1 hour' where id = $1", job)
    assert list(await why(connection, job)) == ["later"]
    await connection.execute("update pushq.jobs set failures = 1, error = 'ValueError: no' where id = $1", job)
    assert "ValueError: no" in (await why(connection, job))["backoff"][0]


async def test_what_a_job_lacks_is_told_with_who_holds_it(connection: Connection) -> None:
    await supervisor(connection, "echo")
    [first, second] = await insert(connection, "echo", 2, needs=["gpu"])
    token = await connection.fetchval("select pushq.take($1, 'bert')", first)
    assert token
    sentence, detail = (await why(connection, second))["needs"]
    assert sentence == f"needs 1 of 'gpu', of which 0 of 1 is free; 1 job holds the rest: {first}"
    assert detail == {
        "name": "gpu", "units": 1, "capacity": 1, "free": 0, "held_by": [str(first)], "holders": 1, "cancelling": 0
    }  # fmt: skip
    assert await connection.fetchval("select pushq.take($1, 'bert')", second) is None
    await connection.execute("select pushq.finish($1, $2, 'succeeded')", first, token)
    assert await why(connection, second) == {}


async def test_a_capacity_below_what_a_job_needs_is_told(connection: Connection) -> None:
    await supervisor(connection, "echo")
    await connection.execute("select pushq.limit('gpu', 4)")
    [job] = await insert(connection, "echo", needs={"gpu": 4})
    await connection.execute("select pushq.limit('gpu', 2)")
    assert (await why(connection, job))["needs"][0] == "needs 4 of 'gpu', whose capacity is 2"


async def test_the_next_token_of_a_rate_is_told(connection: Connection) -> None:
    await supervisor(connection, "echo")
    await connection.execute("select pushq.limit('api', rate => 0.1)")
    [first, second] = await insert(connection, "echo", 2, needs=["api"])
    token = await connection.fetchval("select pushq.take($1, 'bert')", first)
    await connection.execute("select pushq.finish($1, $2, 'succeeded')", first, token)
    assert list(await why(connection, second)) == ["rate"]


async def test_both_what_is_held_and_the_rate_of_a_name_are_told(connection: Connection) -> None:
    await supervisor(connection, "echo")
    await connection.execute("select pushq.limit('api', 1, rate => 0.1)")
    [first, second] = await insert(connection, "echo", 2, needs=["api"])
    await connection.execute("select pushq.take($1, 'bert')", first)
    assert list(await why(connection, second)) == ["needs", "rate"]


async def test_a_need_above_the_burst_is_told_and_has_no_next_token(connection: Connection) -> None:
    await supervisor(connection, "echo")
    await connection.execute("select pushq.limit('api', rate => 1, burst => 5)")
    [job] = await insert(connection, "echo", needs={"api": 5})
    await connection.execute("select pushq.limit('api', rate => 1, burst => 3)")
    assert (await why(connection, job))["rate"] == (
        "needs 5 of 'api', of which 3 may be taken at once",
        {"name": "api", "next_at": None},
    )


async def test_a_name_of_capacity_0_is_closed(connection: Connection) -> None:
    await supervisor(connection, "echo")
    await connection.execute("select pushq.limit('gpu', 0)")
    [job] = await insert(connection, "echo", needs=["gpu"])
    assert (await why(connection, job))["needs"][0] == "needs 'gpu', which is closed: its capacity is 0"


async def test_a_holder_that_is_being_cancelled_holds_its_units_and_is_told(connection: Connection) -> None:
    await supervisor(connection, "echo")
    [first, second] = await insert(connection, "echo", 2, needs=["gpu"])
    await connection.execute(RUN, [first])
    assert await connection.fetchval("select pushq.cancel($1)", first) == "cancelling"
    sentence, detail = (await why(connection, second))["needs"]
    assert sentence.endswith(f"1 job holds the rest: {first}, 1 being cancelled")
    assert (detail["holders"], detail["cancelling"]) == (1, 1)


async def test_a_suspect_waits_for_a_process_of_its_own_and_not_behind_other_jobs(connection: Connection) -> None:
    await supervisor(connection, "echo")
    await insert(connection, "echo", 3)
    first, second = await insert(connection, "echo", 2)
    await connection.execute("update pushq.jobs set crashes = 2 where id = any($1)", [first, second])
    assert list(await why(connection, first)) == ["suspect"]
    assert (await why(connection, second))["suspect"][1] == {"crashes": 2, "jobs": 1}


async def test_units_are_reserved_for_a_job_of_another_queue_that_has_waited_for_longer(connection: Connection) -> None:
    await supervisor(connection, "echo")
    await connection.execute("update pushq.supervisors set queues = '{default,mail}'")
    await connection.execute("select pushq.limit('gpu', 4)")
    [small] = await insert(connection, "echo", needs={"gpu": 1})
    await connection.execute("select pushq.take($1, 'bert')", small)
    [large] = await insert(connection, "echo", needs={"gpu": 4}, queue="mail")
    await connection.execute("update pushq.jobs set run_at = now() - interval '5 s' where id = $1", large)
    [later] = await insert(connection, "echo", needs=["gpu"])
    assert (await why(connection, later))["reserved"] == (
        f"what it needs of 'gpu' is reserved for job {large}, which has waited for longer",
        {"name": "gpu", "for": str(large)},
    )
    # Nothing is reserved for a job whose queue is paused, or whose task nobody knows.
    await connection.execute("select pushq.pause('mail')")
    assert await why(connection, later) == {}
    await connection.execute("select pushq.resume('mail')")
    await connection.execute("update pushq.jobs set task = 'other' where id = $1", large)
    assert await why(connection, later) == {}


async def test_nothing_is_reserved_for_a_job_that_needs_more_than_there_is(connection: Connection) -> None:
    await supervisor(connection, "echo")
    await connection.execute("select pushq.limit('gpu', 4)")
    [held] = await insert(connection, "echo", needs={"gpu": 1})
    await connection.execute("select pushq.take($1, 'bert')", held)
    [large] = await insert(connection, "echo", needs={"gpu": 4})
    await connection.execute("update pushq.jobs set run_at = now() - interval '5 s' where id = $1", large)
    [later] = await insert(connection, "echo", needs=["gpu"])
    assert list(await why(connection, later)) == ["reserved", "behind"]
    await connection.execute("select pushq.limit('gpu', 2)")
    assert list(await why(connection, later)) == ["behind"]


async def test_guests_that_take_jobs_of_a_queue_are_told_where_no_supervisor_serves_it(connection: Connection) -> None:
    [first, second] = await insert(connection, "echo", 2)
    await connection.execute("select pushq.take($1, 'bert')", first)
    assert (await why(connection, second))["unserved"] == (
        "no live supervisor serves queue 'default'; 1 guest has taken jobs of it",
        {"queue": "default", "guests": 1},
    )


async def test_all_workers_are_busy_only_if_those_that_may_run_the_job_are(connection: Connection) -> None:
    await supervisor(connection, "echo")
    jobs = await insert(connection, "echo", 11)
    await connection.execute(RUN, jobs[:9])
    assert "busy" not in await why(connection, jobs[10])
    await connection.execute(RUN, jobs[:10])
    assert (await why(connection, jobs[10]))["busy"] == (
        "all 10 workers that may run the job are busy",
        {"workers": 10},
    )


async def test_an_estimate_comes_from_the_jobs_that_ended_last_and_is_absent_without_them(
    connection: Connection,
) -> None:
    await supervisor(connection, "echo")
    done = await insert(connection, "echo", 30)
    await connection.execute(
        "select count(pushq.finish(id, pushq.take(id, 'bert'), 'succeeded')) from unnest($1::uuid[]) as id", done[:5]
    )
    jobs = await insert(connection, "echo", 21)
    assert (await why(connection, jobs[-1]))["behind"][1]["seconds"] is None
    await connection.execute(
        "select count(pushq.finish(id, pushq.take(id, 'bert'), 'succeeded')) from unnest($1::uuid[]) as id", done[5:]
    )
    await connection.execute("update pushq.jobs set finished_at = now() - interval '60 s' where status = 'succeeded'")
    sentence, detail = (await why(connection, jobs[-1]))["behind"]
    assert detail["jobs"] == 20
    assert 40 <= detail["seconds"] < 50  # 30 in 60 s
    assert sentence.startswith("is behind 20 other jobs of its queue; at the rate of late, some 4")
    await connection.execute("select pushq.pause('default')")
    assert (await why(connection, jobs[-1]))["behind"][1]["seconds"] is None


# Of a queue -----------------------------------------------------------------------------------------------------


async def why_queue(connection: Connection, queue: str = "default") -> dict[str, tuple[str, Any]]:
    rows = await connection.fetch("select * from pushq.why_queue($1)", queue)
    return {row["cause"]: (row["sentence"], json.loads(row["detail"])) for row in rows}


async def test_an_empty_queue_that_is_served_has_no_cause(connection: Connection) -> None:
    assert list(await why_queue(connection)) == ["unserved"]
    await supervisor(connection, "echo")
    assert await why_queue(connection) == {}


async def test_a_queue_tells_every_cause_for_which_its_jobs_wait(connection: Connection) -> None:
    await supervisor(connection, "echo")
    await connection.execute("update pushq.supervisors set workers = 2")
    await connection.execute("select pushq.pause('default')")
    await connection.execute("select pushq.limit('queue:default', 2)")
    await connection.execute("select pushq.limit('api', null, 0.1)")
    held = await insert(connection, "echo", needs=["gpu"]) + await insert(connection, "echo", needs=["api"])
    for job in held:
        assert await connection.fetchval("select pushq.take($1, 'bert')", job)
    await connection.execute("update pushq.jobs set supervisor = 'anna' where status = 'running'")
    await insert(connection, "echo", 3, needs=["gpu"])
    await insert(connection, "echo", 2, needs=["api", "gpu"])
    [suspect] = await insert(connection, "echo")
    await connection.execute("update pushq.jobs set crashes = 2 where id = $1", suspect)
    await connection.execute("delete from pushq.supervisors where pid = 0")
    await insert(connection, "echo", needs=["free"])
    told = await why_queue(connection)
    assert list(told) == ["paused", "full", "suspects", "needs", "rates", "busy", "queued"]
    assert told["full"][0].startswith("needs 1 of 'queue:default', of which 0 of 2 are free; 2 jobs hold the rest")
    assert told["needs"][0] == "5 jobs wait for 'gpu', of which 0 of 1 is free"
    assert told["rates"][0].startswith("2 jobs wait for 'api', whose rate allows the next at ")
    assert told["suspects"][0] == "1 job has killed two processes, and waits for a process of its own"
    assert told["busy"][1] == {"workers": 2}
    assert told["queued"] == ("7 jobs are queued", {"jobs": 7, "seconds": None})
    await connection.execute("update pushq.jobs set run_at = now() + interval '1 hour' where status = 'queued'")
    assert "later" in await why_queue(connection)


async def test_tasks_that_nobody_knows_are_told_of_a_queue(connection: Connection) -> None:
    await supervisor(connection, "echo")
    await insert(connection, "lost")
    await insert(connection, "gone", priority=3)
    assert (await why_queue(connection))["unknown"] == (
        "no live supervisor that serves the queue knows tasks 'gone', 'lost'",
        {"tasks": ["gone", "lost"]},
    )


@pytest.mark.parametrize("columns", [{"needs": ["free"]}, {"limit_key": "a"}, {"tenant_id": "acme"}, {}])
async def test_tasks_that_nobody_knows_are_told_of_jobs_with_needs_and_of_fair_queues_and_of_suspects(
    connection: Connection, columns: dict[str, Any]
) -> None:
    await supervisor(connection, "echo")
    if "tenant_id" in columns:
        await connection.execute("select pushq.be_fair('default', 'tenant')")
    await insert(connection, "echo", **columns)
    [lost] = await insert(connection, "lost", **columns)
    if not columns:
        await connection.execute("update pushq.jobs set crashes = 2 where id = $1", lost)
    assert (await why_queue(connection))["unknown"] == (
        "no live supervisor that serves the queue knows task 'lost'",
        {"tasks": ["lost"]},
    )


async def all_of(connection: Connection, cause: str) -> list[tuple[str, Any]]:
    rows = await connection.fetch("select * from pushq.why_queue('default') where cause = $1", cause)
    return [(row["sentence"], json.loads(row["detail"])) for row in rows]


async def test_jobs_of_a_queue_that_need_more_than_is_free_are_told(connection: Connection) -> None:
    await supervisor(connection, "echo")
    await connection.execute("select pushq.limit('gpu', 4)")
    [held] = await insert(connection, "echo", needs={"gpu": 3})
    await connection.execute("select pushq.take($1, 'bert')", held)
    await insert(connection, "echo", 2, needs={"gpu": 2})
    await insert(connection, "echo", needs={"gpu": 1})
    assert await all_of(connection, "needs") == [
        (
            "2 jobs wait for 'gpu', of which 1 of 4 are free",
            {"name": "gpu", "units": 2, "capacity": 4, "free": 1, "holders": 1, "jobs": 2},
        )
    ]


async def test_jobs_of_a_queue_that_need_more_than_the_capacity_or_the_burst_are_told(connection: Connection) -> None:
    await supervisor(connection, "echo")
    await connection.execute("select pushq.limit('gpu', 4), pushq.limit('api', rate => 1, burst => 5)")
    await insert(connection, "echo", needs={"gpu": 4})
    await insert(connection, "echo", needs={"api": 5})
    await insert(connection, "echo", needs={"api": 4})
    await connection.execute("select pushq.limit('gpu', 2), pushq.limit('api', rate => 1, burst => 3)")
    assert await all_of(connection, "needs") == [
        (
            "1 job needs 4 of 'gpu', whose capacity is 2",
            {"name": "gpu", "units": 4, "capacity": 2, "free": 2, "holders": 0, "jobs": 1},
        )
    ]
    assert await all_of(connection, "rates") == [
        (
            "2 jobs need up to 5 of 'api', of which 3 may be taken at once",
            {"name": "api", "units": 5, "next_at": None, "jobs": 2},
        )
    ]


async def test_of_a_queue_a_name_of_capacity_0_is_closed(connection: Connection) -> None:
    await supervisor(connection, "echo")
    await connection.execute("select pushq.limit('gpu', 0)")
    await insert(connection, "echo", 2, needs=["gpu"])
    assert [sentence for sentence, _ in await all_of(connection, "needs")] == [
        "2 jobs wait for 'gpu', which is closed: its capacity is 0"
    ]


@pytest.mark.parametrize("columns", [{}, {"priority": 5}, {"needs": ["gpu"]}])
async def test_no_queue_is_said_to_wait_for_an_hour_to_come_while_a_job_is_due(
    connection: Connection, columns: dict[str, Any]
) -> None:
    await supervisor(connection, "echo")
    later = {**columns, "run_at": datetime.now(UTC) + timedelta(hours=1)}
    await insert(connection, "echo", 1_500, **later)
    assert "later" in await why_queue(connection)
    await insert(connection, "echo", **{**columns, "priority": columns.get("priority", 0) + 1})
    assert "later" not in await why_queue(connection)


@pytest.mark.parametrize("name", [None, ""])
async def test_a_question_about_no_queue_is_refused_in_a_sentence(connection: Connection, name: str | None) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match=r"name a queue; pushq.queues lists them"):
        await connection.fetch("select * from pushq.why_queue($1)", name)


# Positions ------------------------------------------------------------------------------------------------------


async def test_the_position_is_the_rank_among_jobs_that_are_due_by_then_whatever_they_need(
    connection: Connection,
) -> None:
    chance = random.Random(7)
    await connection.execute("set time zone 'UTC'")
    for _ in range(200):
        late = chance.choice([0, 0, 0, -60, 60, 3600])
        columns: dict[str, Any] = {"run_at": datetime.now(UTC) + timedelta(seconds=late)} if late else {}
        await insert(
            connection,
            chance.choice(["echo", "mail", "note"]),
            priority=chance.choice([-5, -1, 0, 0, 0, 2, 7]),
            needs=chance.choice([None, ["gpu"], {"cpu": 1}]),
            **columns,
        )
    await connection.execute("update pushq.jobs set crashes = 2 where id::text ~ '[0-3]$'")
    jobs = await connection.fetch("select id, priority, run_at from pushq.jobs where status = 'queued'")
    now = datetime.now(UTC)
    for job in jobs:
        place = (job["priority"], job["run_at"], job["id"])
        due_by = max(now, job["run_at"])
        before = sum(
            (other["priority"], other["run_at"], other["id"]) < place and other["run_at"] <= due_by for other in jobs
        )
        assert await connection.fetchval("select pushq.position($1)", job["id"]) == before


NAMES = ("cpu", "gpu", "api", "net")


async def test_what_keeps_each_job_waiting_is_what_a_computation_of_its_own_finds(connection: Connection) -> None:
    """The rules of needs, reservations and tasks, once more in Python, for random jobs of two queues."""
    chance = random.Random(20)
    await supervisor(connection, "echo", "mail")
    await connection.execute("update pushq.supervisors set queues = '{default,other}', workers = 1000")
    for capacity in range(12):
        await _random_round(connection, chance, {name: chance.choice([0, 1, 2, 4]) for name in NAMES}, capacity)


async def _random_round(connection: Connection, chance: random.Random, capacities: dict[str, int], seed: int) -> None:
    await _fill(connection, chance, capacities)
    for one in await connection.fetch("select id from pushq.jobs order by md5(id::text || $1) limit 8", str(seed)):
        await connection.execute("select pushq.take($1, 'bert')", one["id"])
    rows = [
        {**one, "needs": json.loads(one["needs"])}
        for one in await connection.fetch(
            "select id, status, task, needs, run_at < now() - interval '1 s' as is_overtaken "
            "from pushq.jobs order by priority, run_at, id"
        )
    ]
    free = dict(capacities)
    for row in rows:
        for name, units in row["needs"].items() if row["status"] == "running" else ():
            free[name] -= units
    left, reserved_by = dict(free), dict[str, str]()
    for row in rows:
        if row["status"] == "queued":
            lacking = {name for name, units in row["needs"].items() if free[name] < units}
            short = {name for name, units in row["needs"].items() if left[name] < units}
            reservers = {} if lacking or row["task"] == "lost" else {reserved_by.get(name) for name in short} - {None}
            await _check(connection, row, lacking, {*reservers})
            _pass_by(row, {name for name in free if free[name] < 1}, left, short, reserved_by)


async def _fill(connection: Connection, chance: random.Random, capacities: dict[str, int]) -> None:
    await connection.execute("delete from pushq.jobs; delete from pushq.resources")
    for name, capacity in capacities.items():
        await connection.execute("select pushq.limit($1, $2)", name, capacity)
    for _ in range(40):
        names = chance.sample(NAMES, chance.randint(1, 3))
        age = timedelta(seconds=chance.choice([0, 30, 60, 90])) + timedelta(milliseconds=chance.random())
        await connection.execute(
            "insert into pushq.jobs (task, queue, priority, needs, run_at) "
            "values ($1, $2, $3, $4, now() - $5::interval)",
            chance.choice(["echo", "mail", "lost"]),
            chance.choice(["default", "other"]),
            chance.choice([0, 0, 1]),
            json.dumps({name: chance.randint(1, max(1, capacities[name])) for name in names}),
            age,
        )
    await connection.execute("update pushq.jobs set run_at = now() where run_at > now() - interval '5 seconds'")


async def _check(connection: Connection, row: Any, lacking: set[str], reservers: set[str | None]) -> None:
    told = await connection.fetch(
        "select cause, detail->>'name' as name, detail->>'for' as it from pushq.why($1)", row["id"]
    )
    assert {one["name"] for one in told if one["cause"] == "needs"} == lacking
    assert any(one["cause"] == "unknown" for one in told) == (row["task"] == "lost")
    named = {one["it"] for one in told if one["cause"] == "reserved"}
    assert bool(named) == bool(reservers)
    assert named <= reservers


def _pass_by(row: Any, spent: set[str], left: dict[str, int], short: set[str], reserved_by: dict[str, str]) -> None:
    """What the job leaves to those behind it: less, if it fits or has been due for a second."""
    if row["task"] == "lost" or spent & row["needs"].keys() or (short and not row["is_overtaken"]):
        return
    for name, units in row["needs"].items():
        left[name] -= units
        if short:
            reserved_by.setdefault(name, str(row["id"]))


async def test_under_a_strict_key_the_job_in_front_is_named(connection: Connection) -> None:
    await supervisor(connection, "echo")
    await connection.execute("select pushq.limit('key:*', 1, strict => true)")
    [first, second] = await insert(connection, "echo", 2, limit_key="a")
    await connection.execute(
        "update pushq.jobs_unfinished set attempt = 1, failures = 1, run_at = now() + interval '1 hour' where id = $1",
        first,
    )
    sentence, detail = (await why(connection, second))["order"]
    assert sentence.startswith(f"waits for job {first} of the same key, which is tried again at ")
    assert detail["for"] == str(first)
    assert "order" not in await why(connection, first)
