"""What a handler tells is in the row, before the outcome, and its checkpoint is there for the next attempt."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

from tests.support.jobs import Connection, finished, insert, row_of
from tests.support.supervisors import supervising
from tests.support.waiting import eventually, wait_until


async def told(connection: Connection, job: UUID) -> Any:
    return json.loads((await row_of(connection, job))["progress"] or "null")


async def has_told(connection: Connection, job: UUID, expected: dict[str, Any]) -> None:
    async def look() -> bool:
        return bool(await told(connection, job) == expected)

    await eventually(look)


async def phases(connection: Connection, job: UUID) -> list[str]:
    rows = await connection.fetch(
        "select detail from pushq.job_events where job_id = $1 and kind = 'phase' order by id", job
    )
    return [json.loads(row["detail"])["phase"] for row in rows]


@pytest.mark.parametrize("task", ["progress", "progress.thread", "progress.batch"])
async def test_progress_is_read_in_the_row_while_the_job_runs_and_after_it(
    connection: Connection, database_url: str, task: str
) -> None:
    first = {"done": 1, "total": 3, "message": "one", "phase": "loading"}
    steps: list[dict[str, Any]] = [
        first,
        {"sleep": 0.5},
        {"done": 2.5, "checkpoint": {"at": [2]}},
        {"phase": "working"},
    ]
    with supervising(database_url):
        (job,) = await insert(connection, task, payload={"steps": steps})
        await has_told(connection, job, first)
        (row,) = await finished(connection, job)
    assert (row["status"], row["result"]) == ("succeeded", None)
    assert json.loads(row["progress"]) == {
        "done": 2.5, "total": 3, "message": "one", "phase": "working", "checkpoint": {"at": [2]}
    }  # fmt: skip
    assert await phases(connection, job) == ["loading", "working"]


COUNTS_WRITES = """
create table public.writes (progress jsonb);
create function public.note() returns trigger language plpgsql as $$
begin
    insert into public.writes values (new.progress);
    return null;
end $$;
create trigger note after update of progress on pushq.jobs_unfinished for each row execute function public.note();
"""


async def test_a_thousand_calls_are_a_write_or_two_and_the_last_values_are_kept(
    connection: Connection, database_url: str
) -> None:
    await connection.execute(COUNTS_WRITES)
    with supervising(database_url):
        steps = [{"times": 1000}, {"sleep": 0.1}, {"times": 1000}, {"sleep": 0.1}, {"times": 1000}]
        (job,) = await insert(connection, "progress", payload={"steps": steps})
        (row,) = await finished(connection, job)
    assert json.loads(row["progress"]) == {"done": 1000, "total": 1000}
    assert 1 <= await connection.fetchval("select count(*) from public.writes") <= 2


async def test_every_change_of_phase_is_an_event_in_order_also_in_a_quick_job(
    connection: Connection, database_url: str
) -> None:
    names = [f"phase {number}" for number in range(50)]
    with supervising(database_url):
        (job,) = await insert(
            connection, "progress", payload={"steps": [{"phase": name} for name in [*names, names[-1]]]}
        )
        await finished(connection, job)
    assert await phases(connection, job) == names


async def test_the_next_attempt_finds_the_checkpoint_after_a_failure_a_crash_and_a_retry_by_hand(
    connection: Connection, database_url: str
) -> None:
    with supervising(database_url) as supervisor:
        saving = {"checkpoint": {"part": 7}}
        (failing,) = await insert(connection, "progress", payload={"steps": [saving, {"done": 1}, {"fail": "no"}]})
        (row,) = await finished(connection, failing)
        assert (row["status"], json.loads(row["progress"])["checkpoint"]) == ("failed", {"part": 7})
        await connection.execute(
            """update pushq.jobs set payload = '{"steps": [{"done": 2}]}' where id = $1""", failing
        )
        assert await connection.fetchval("select pushq.retry($1)", failing) == "queued"
        (row,) = await finished(connection, failing)
        assert (row["status"], json.loads(row["result"])) == ("succeeded", {"part": 7})
        assert json.loads(row["progress"]) == {"done": 2, "checkpoint": {"part": 7}}

        steps = [{"phase": "begun", "checkpoint": 1}, {"sleep": 0.5}, {"die": [1]}]
        (crashing,) = await insert(connection, "progress", payload={"steps": steps})
        (row,) = await finished(connection, crashing)
        assert (row["status"], row["attempt"], row["result"]) == ("succeeded", 2, "1")
        assert "pool died" in supervisor.said


async def test_a_job_that_is_not_ours_any_more_writes_nothing(connection: Connection, database_url: str) -> None:
    with supervising(database_url, "--concurrency", "1") as supervisor:
        steps = [{"done": 1, "phase": "one"}, {"sleep": 0.3}, {"done": 2, "phase": "two"}]
        (job,) = await insert(connection, "progress.thread", payload={"steps": steps})
        await has_told(connection, job, {"done": 1, "phase": "one"})
        async with connection.transaction():
            await connection.execute("select pushq.change($1, 'running', 'queued')", job)
            await connection.execute("select pushq.reschedule($1, now() + interval '1 hour')", job)
        wait_until(lambda: "job recalled" in supervisor.said)
        await finished(connection, *await insert(connection, "progress", payload={"steps": [{"done": 9}]}))
    assert await told(connection, job) == {"done": 1, "phase": "one"}
    assert await phases(connection, job) == ["one"]


async def test_a_row_that_a_trigger_keeps_from_progress_harms_no_other(
    connection: Connection, database_url: str
) -> None:
    await connection.execute(
        """
        create function public.refuse() returns trigger language plpgsql as $$
        begin
            if new.progress->>'message' = 'refuse me' then raise exception 'no'; end if;
            return new;
        end $$;
        create trigger refuse before update of progress on pushq.jobs_unfinished
        for each row execute function public.refuse();
        """
    )
    with supervising(database_url) as supervisor:
        bad, good = [
            (await insert(connection, "progress", payload={"steps": [{"message": text}, {"sleep": 0.3}]}))[0]
            for text in ("refuse me", "take me")
        ]
        rows = await finished(connection, bad, good)
        assert [row["status"] for row in rows] == ["succeeded", "succeeded"]
        assert supervisor.said.count("progress not written") == 1
    assert [await told(connection, job) for job in (bad, good)] == [None, {"message": "take me"}]


async def test_progress_told_while_the_database_is_away_comes_with_the_outcome(
    connection: Connection, database_url: str
) -> None:
    with supervising(database_url) as supervisor:
        steps = [{"done": 1}, {"sleep": 0.3}, {"done": 2, "checkpoint": 5}, {"fail": "no"}]
        (job,) = await insert(connection, "progress", payload={"steps": steps})
        await has_told(connection, job, {"done": 1})
        for _ in range(3):
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid() and application_name like '%pool 1 of%'"
            )
        (row,) = await finished(connection, job)
        assert "Traceback" not in supervisor.said
    assert (row["status"], row["attempt"]) == ("failed", 2)
    assert json.loads(row["progress"]) == {"done": 2, "checkpoint": 5}
