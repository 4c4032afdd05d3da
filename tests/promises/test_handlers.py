"""What a handler may do, and what becomes of its job."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import timedelta
from typing import Any

import pytest

from tests.support.jobs import Connection, finished, has_count, insert, row_of
from tests.support.supervisors import RunningSupervisor, pushq, supervising
from tests.support.waiting import eventually


async def test_every_ending_of_a_handler_has_its_outcome(database_url: str, connection: Connection) -> None:
    cases: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        # task: payload, the finished row
        "echo": ({"a": [1, None]}, {"status": "succeeded", "result": '{"a": [1, null]}', "attempt": 1}),
        "fail": ({}, {"status": "failed", "attempt": 3, "failures": 3, "error": "ValueError: no"}),
        "fail.until": ({"attempt": 3}, {"status": "succeeded", "attempt": 3, "failures": 2, "error": None}),
        "snooze": ({"times": 3}, {"status": "succeeded", "attempt": 4, "failures": 0}),
        "cancel": ({}, {"status": "cancelled", "attempt": 1, "error": "nothing to do"}),
        "raise.exit": ({}, {"status": "failed", "attempt": 1, "error": "SystemExit: 3"}),
        "timeout.async": (
            {},
            {"status": "failed", "failures": 1, "error": "TimeoutError: the attempt took longer than 0.1 s"},
        ),
        # A call in a thread cannot be stopped: it keeps its worker, and is retried only when it has returned.
        "timeout.thread": (
            {},
            {
                "status": "failed",
                "failures": 2,
                "attempt": 2,
                "error": "TimeoutError: the attempt took longer than 0.1 s",
            },
        ),
    }
    with supervising(database_url):
        ids = [(await insert(connection, task, payload=payload))[0] for task, (payload, _) in cases.items()]
        rows = await finished(connection, *ids)

    for row, (task, (_, expected)) in zip(rows, cases.items(), strict=True):
        assert expected == {name: row[name] for name in expected}, task


async def test_where_the_last_attempt_s_error_came_from_is_kept_with_the_job_and_told_in_the_log(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url) as supervisor:
        (failing,) = await insert(connection, "fail", payload={})
        (recovering,) = await insert(connection, "fail.until", payload={"attempt": 3})
        (slow,) = await insert(
            connection, "sleep", payload={"seconds": 60}, timeout=timedelta(seconds=0.1), max_attempts=1
        )
        failed, recovered, timed_out = await finished(connection, failing, recovering, slow)
        place = r"place=tests/support/handlers\.py:\d+"
        lines = await eventually(lambda: said(supervisor, f"outcome=failed .*error=ValueError {place}$"))
    shown = pushq("jobs", "show", str(failing), url=database_url).stdout

    assert len(lines) == 1
    assert "no" not in lines[0].rpartition("error=")[2].split("place=")[0]
    last = failed["traceback"].splitlines()
    assert (last[0], last[-1]) == ("Traceback (most recent call last):", "ValueError: no")
    assert "tests/support/handlers.py" in failed["traceback"]
    assert "pushq/pool" not in failed["traceback"]
    assert "    raise ValueError(message)" in shown
    assert recovered["traceback"] is None
    assert "await asyncio.sleep(seconds)" in timed_out["traceback"]
    assert timed_out["traceback"].endswith("TimeoutError: the attempt took longer than 0.1 s\n")


async def test_a_log_that_is_told_to_shows_messages_and_tracebacks(database_url: str, connection: Connection) -> None:
    with supervising(database_url, LOG_ERRORS="full") as supervisor:
        (failing,) = await insert(connection, "fail", payload={}, max_attempts=1)
        await finished(connection, failing)
        await eventually(lambda: said(supervisor, 'message="ValueError: no"$'))
        await eventually(lambda: said(supervisor, "^    Traceback \\(most recent call last\\):$"))


async def said(supervisor: RunningSupervisor, pattern: str) -> list[str]:
    return [line for line in supervisor.said.splitlines() if re.search(pattern, line)]


async def test_a_job_s_own_limits_win_over_its_task_s(database_url: str, connection: Connection) -> None:
    with supervising(database_url):
        (once,) = await insert(connection, "fail", max_attempts=1)
        brief = await connection.fetchval(
            "insert into pushq.jobs (task, payload, max_attempts, timeout) "
            "values ('sleep', '{\"seconds\": 30}', 1, '50ms') returning id"
        )
        failed, timed_out = await finished(connection, once, brief)

    assert failed["attempt"] == 1
    assert timed_out["error"] == "TimeoutError: the attempt took longer than 0.05 s"


async def test_a_payload_that_does_not_fit_fails_at_once_and_names_the_field(
    database_url: str, connection: Connection
) -> None:
    cases = {
        '{"user_id": "many"}': "user_id",
        '{"user_id": 1, "nam": "x"}': "nam",
        "{}": "user_id",
    }
    with supervising(database_url):
        ids = [(await insert(connection, "typed", payload=payload))[0] for payload in cases]
        rows = await finished(connection, *ids)

    for row, field in zip(rows, cases.values(), strict=True):
        assert (row["status"], row["attempt"], row["failures"]) == ("failed", 1, 1)
        assert row["error"].startswith(f"PayloadError: The payload does not fit task 'typed': {field}: ")
        assert "many" not in row["error"]


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param('{"a": ' + "[" * 5000 + "]" * 5000 + "}", id="5,000 levels"),
        pytest.param('{"a": ' + "1" * 10_000 + "}", id="10,000 digits"),
    ],
)
async def test_a_payload_that_python_cannot_read_fails_at_once_and_its_batch_does_not(
    database_url: str, connection: Connection, payload: str
) -> None:
    async with connection.transaction():
        (hostile,) = await insert(connection, "echo", payload=payload)
        others = await insert(connection, "echo", 20)
    with supervising(database_url):
        rows = await finished(connection, hostile, *others)

    assert (rows[0]["status"], rows[0]["attempt"]) == ("failed", 1)
    assert rows[0]["error"].startswith("PayloadError: The payload of task 'echo' ")
    assert {row["status"] for row in rows[1:]} == {"succeeded"}


async def test_a_payload_whose_text_is_larger_than_any_text_fails_at_once_and_its_batch_does_not(
    database_url: str, connection: Connection
) -> None:
    """It takes 144 KB in the table, and over a gigabyte as text."""
    endless = "select jsonb_build_object('a', jsonb_agg('1e131071'::numeric)) from generate_series(1, 9000)"
    async with connection.transaction():
        hostile = await connection.fetchval(
            f"insert into pushq.jobs (task, payload) values ('echo', ({endless})) returning id"
        )
        others = await insert(connection, "echo", 20)
    with supervising(database_url) as supervisor:
        pools = supervisor.pools
        rows = await finished(connection, *others)
        await has_count(connection, 1, "status = 'failed'")
        assert supervisor.pools == pools

    ended = "select status, attempt, crashes, error from pushq.jobs where id = $1"
    (*counts, error) = tuple(await connection.fetchrow(ended, hostile) or ())
    assert counts == ["failed", 1, 0]
    assert error.startswith("PayloadError: The payload of task 'echo' cannot be read: ")
    assert {row["status"] for row in rows} == {"succeeded"}


@pytest.mark.parametrize(
    ("after", "waits", "status"), [(0, 0, "succeeded"), (0, 5, "failed"), (0.1, 5, "failed"), (0.3, 0, "succeeded")]
)
async def test_a_handler_that_cancels_the_task_it_runs_in_harms_none_beside_it_or_after_it(
    database_url: str, connection: Connection, after: float, waits: float, status: str
) -> None:
    """Nor does it cost a worker, of which there are two."""
    with supervising(database_url, "--concurrency", "2") as supervisor:
        (beside,) = await insert(connection, "sleep", payload={"seconds": 1.5}, max_attempts=1)
        await has_count(connection, 1, "status = 'running'")
        (hostile,) = await insert(connection, "cancel.own.task", payload={"after": after, "waits": waits})
        (ended,) = await finished(connection, hostile)
        await asyncio.sleep(max(0.0, after - waits))  # until the timer that it left has rung
        after_it = await insert(connection, "sleep", 5, payload={"seconds": 0.1}, max_attempts=1)
        rows = await finished(connection, beside, *after_it)
        assert len(supervisor.pools) == 1
        assert supervisor.stop() == 0

    assert (ended["status"], ended["attempt"]) == (status, 1)
    assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 1, 0)}


async def test_a_handler_that_leaves_a_cancel_scope_open_harms_none_beside_it_or_after_it(
    database_url: str, connection: Connection
) -> None:
    """Nor does it cost a worker, of which there are two."""
    kinds = ("plain", "shield", "generator", "cancelled", "cancelled twice", "ends sooner")
    with supervising(database_url, "--concurrency", "2") as supervisor:
        beside = await insert(connection, "sleep", payload={"seconds": 1.5}, max_attempts=1)
        await has_count(connection, 1, "status = 'running'")
        hostile = [
            job
            for limit in (None, timedelta(seconds=30))
            for kind in kinds
            for job in await insert(connection, "leave.scope.open", payload={"kind": kind}, timeout=limit)
        ]
        hostile += await insert(connection, "leave.group.open", 2)
        await finished(connection, *hostile)
        hostile += await insert(connection, "leave.scope.open", payload={"kind": "ends later"})
        ended = await finished(connection, *hostile)
        after_it = await insert(connection, "sleep", 6, payload={"seconds": 0.5}, max_attempts=1)
        await has_count(connection, 2, "status = 'running' and payload->>'seconds' = '0.5'")
        rows = await finished(connection, *beside, *after_it)
        assert supervisor.stop() == 0
        assert "died" not in supervisor.said

    # By failures, not by attempts: what was claimed ahead, and then stood behind a slow one, was given back.
    assert {(row["status"], row["failures"], row["crashes"]) for row in rows} == {("succeeded", 0, 0)}
    for row in ended:
        if "sooner" in row["payload"]:
            assert (row["status"], row["failures"]) == ("failed", 1)
            assert row["error"].startswith("asyncio.exceptions.CancelledError: Cancelled via cancel scope")
        else:
            assert (row["status"], row["failures"], row["result"]) == ("succeeded", 0, '"returned"')


async def test_a_handler_in_a_scope_that_it_opened_is_released_at_the_deadline_of_a_drain(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, SHUTDOWN_TIMEOUT="0.5") as supervisor:
        (job,) = await insert(connection, "leave.scope.open", payload={"kind": "stays"})
        await has_count(connection, 1, "status = 'running'")
        assert supervisor.stop() == 0

    row = await row_of(connection, job)
    assert (row["status"], row["failures"], row["crashes"]) == ("queued", 0, 0)


async def test_a_suspect_that_leaves_a_cancel_scope_open_is_not_taken_for_a_killer(
    database_url: str, connection: Connection
) -> None:
    kinds = ("plain", "cancelled twice", "ends sooner")
    jobs = [(await insert(connection, "leave.scope.open", payload={"kind": kind}))[0] for kind in kinds]
    await connection.execute("update pushq.jobs_unfinished set crashes = 2")
    with supervising(database_url) as supervisor:
        rows = await finished(connection, *jobs)
        assert "died" not in supervisor.said

    assert [(row["status"], row["attempt"], row["crashes"]) for row in rows] == [
        ("succeeded", 1, 2), ("succeeded", 1, 2), ("failed", 1, 2),
    ]  # fmt: skip


async def test_a_def_runs_to_its_end_whoever_cancels_the_task_that_waits_for_it(
    database_url: str, connection: Connection
) -> None:
    """Else it would be taken for failed, and might be run again beside itself."""
    with supervising(database_url, "--concurrency", "1"):
        await finished(connection, *await insert(connection, "cancel.own.task.often", payload={"seconds": 2}))
        rows = await finished(
            connection, *await insert(connection, "sleep.thread", 3, payload={"seconds": 0.5}, max_attempts=1)
        )

    assert {(row["status"], row["attempt"], row["result"]) for row in rows} == {("succeeded", 1, '"slept"')}


async def test_a_def_may_ask_whether_its_attempt_is_over(database_url: str, connection: Connection) -> None:
    """By its timeout, and by the deadline of a drain."""
    with supervising(database_url, SHUTDOWN_TIMEOUT="0.5", LOG_LEVEL="debug") as supervisor:
        limited = await insert(
            connection, "ask.whether.cancelled", payload={"seconds": 15}, timeout=timedelta(seconds=0.2)
        )
        (timed_out,) = await finished(connection, *limited, within=10)
        (stopped,) = await insert(connection, "ask.whether.cancelled", payload={"seconds": 15})
        await has_count(connection, 1, "status = 'running'")
        assert supervisor.stop() == 0
        assert "outcome=released" in supervisor.said  # by the pool, which ended in time
        assert "released=1" in supervisor.said

    assert timed_out["error"] == "TimeoutError: the attempt took longer than 0.2 s"
    row = await row_of(connection, stopped)
    assert (row["status"], row["failures"], row["crashes"]) == ("queued", 0, 0)


async def test_what_a_handler_leaves_behind_meets_no_other_job(database_url: str, connection: Connection) -> None:
    """Neither in its task, where it may cancel what comes later, nor in its context, where it may be seen."""
    leavings = ("nothing", "timers", "thread", "name", "timeout", "child", "scope")
    with supervising(database_url, "--concurrency", "1") as supervisor:
        for leaving in leavings:
            for waits in (True, False):
                await insert(connection, "leave.behind", payload={"kind": leaving, "waits": waits})
                await insert(connection, "look.around", 2)
                await insert(connection, "look.around.thread", 2)
                await insert(connection, "look.around.large", 2, payload={"text": "x" * 20_000})
        await has_count(connection, 0, "status in ('queued', 'running')")
        rows = await connection.fetch("select status, result, error from pushq.jobs where task like 'look.around%'")
        assert "pool died" not in supervisor.said

    assert {tuple(row) for row in rows} == {("succeeded", '["nobody", 28]', None)}
    assert len(rows) == 2 * len(leavings) * 6


async def test_a_handler_that_cancels_or_ends_whatever_it_finds_meets_nothing_but_its_own(
    database_url: str, connection: Connection
) -> None:
    """Neither the pool, nor what runs beside it."""
    ends = [
        {"error": error, "place": place}
        for error in ("SystemExit", "KeyboardInterrupt")
        for place in ("task", "group", "task left", "callback")
    ]
    with supervising(database_url, "--concurrency", "3") as supervisor:
        beside = await insert(connection, "sleep", payload={"seconds": 2}, max_attempts=1)
        beside += await insert(connection, "sleep.thread", payload={"seconds": 2}, max_attempts=1)
        await has_count(connection, 2, "status = 'running'")
        cancelling = await insert(connection, "cancel.all", 3)
        stopping = await insert(connection, "end.loop")
        ending = [job for end in ends for job in await insert(connection, "end.in.child", payload=end)]
        ended = await finished(connection, *ending)
        rows = await finished(connection, *beside, *cancelling, *stopping)
        await finished(connection, *await insert(connection, "echo", 3))
        assert supervisor.stop() == 0
        said = supervisor.said

    assert [(row["status"], row["attempt"], row["crashes"]) for row in rows[:5]] == [("succeeded", 1, 0)] * 5
    assert rows[5]["error"] == "RuntimeError: the event loop belongs to the pool: a handler ends by returning"
    for row, end in zip(ended, ends, strict=True):
        where_it_waits = end["place"] in ("task", "group")
        assert row["status"] == ("failed" if where_it_waits else "succeeded"), end
        assert (end["error"] in row["error"]) if where_it_waits else row["result"] == '"went on"'
    assert "pool died" not in said
    assert said.count("pool started") == 1


async def test_what_a_handler_logs_names_its_job_in_the_log_s_format_and_at_its_level(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, LOG_FORMAT="json") as supervisor:
        jobs = await insert(connection, "say", 2, payload={"words": "hello"})
        jobs += await insert(connection, "say.thread", payload={"words": "hello"})
        rows = await finished(connection, *jobs)
        lines = await eventually(lambda: _lines_of(supervisor, "app", 5))

    told = [(line["id"], line["task"], line["attempt"], line["message"], line["level"]) for line in lines]
    says = [(row["id"], row["task"], row["attempt"]) for row in rows]
    expected = [(*one, words, "info") for one in says[:2] for words in ("in a handler", "in a thread of its own")]
    expected.append((*says[2], "in a def", "warning"))
    assert sorted(told) == sorted(
        (str(job), task, n, f"hello {words}", level) for job, task, n, words, level in expected
    )


async def _lines_of(supervisor: RunningSupervisor, logger: str, count: int) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in supervisor.said.splitlines() if f'"logger": "{logger}"' in line]
    return lines if len(lines) >= count else []


async def test_a_result_that_cannot_be_stored_fails_at_once_since_the_work_is_done(
    database_url: str, connection: Connection
) -> None:
    kinds = ("nan", "object", "nul", "surrogate", "large")
    with supervising(database_url):
        ids = [(await insert(connection, "result", payload={"kind": kind}))[0] for kind in kinds]
        rows = await finished(connection, *ids)

    for row in rows:
        assert (row["status"], row["attempt"], row["result"]) == ("failed", 1, None)
        assert row["error"].startswith("ResultError: the work is done, but its result cannot be stored: ")


async def test_an_error_of_hostile_text_is_made_storable(database_url: str, connection: Connection) -> None:
    with supervising(database_url):
        (row,) = await finished(connection, *await insert(connection, "raise.hostile"))

    assert row["status"] == "failed"
    assert row["error"].startswith(
        "ValueError: nul \N{REPLACEMENT CHARACTER}, lone surrogate \N{REPLACEMENT CHARACTER}, and long "
    )
    assert row["error"].endswith("… (cut)")


async def test_rows_at_the_edges_of_what_a_producer_may_insert_all_run(
    database_url: str, connection: Connection
) -> None:
    edges: list[dict[str, object]] = [
        {"run_at": "1970-01-01 00:00:00+00"},
        {"priority": -32768},
        {"priority": 32767},
        {"max_attempts": 10000},
        {"timeout": "1 year"},
        {"timeout": "1 microsecond", "max_attempts": 1},
        {"payload": '{"a": 1e400, "\\ud83d\\ude00": -0.0}'},
        {"payload": '{"x": "' + "y" * 1_000_000 + '"}'},
        {"unique_key": "k" * 200, "tenant_id": "\N{SNOWMAN}" * 200, "correlation_id": "'; drop table jobs; --"},
        {"submitted_by": "\x1b[31mred\n"},
    ]
    ids = []
    async with connection.transaction():
        for edge in edges:
            columns: dict[str, object] = {"task": "echo"} | edge
            names = ", ".join(columns)
            literals = ", ".join("'" + str(value).replace("'", "''") + "'" for value in columns.values())
            ids.append(await connection.fetchval(f"insert into pushq.jobs ({names}) values ({literals}) returning id"))
    with supervising(database_url):
        rows = await finished(connection, *ids)

    # inf cannot be stored back; a microsecond is over before it began
    assert [row["status"] for row in rows].count("succeeded") >= len(edges) - 2


async def test_a_handler_is_found_in_the_registry_and_never_by_its_name(
    database_url: str, connection: Connection
) -> None:
    names = ("os.system", "builtins.eval", "tests.support.handlers.echo", "__import__", "subprocess:run")
    with supervising(database_url):
        for name in names:
            await insert(connection, name, payload={"command": "true"})
        await finished(connection, *await insert(connection, "echo"))
        statuses = await connection.fetch("select distinct status from pushq.jobs_unfinished")

    assert [row["status"] for row in statuses] == ["queued"]
