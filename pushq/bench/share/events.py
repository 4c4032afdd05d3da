"""What events cost: the CPU of the server's process for claim and finish, a job."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pushq.bench.backend import Backend, backend, claim_and_finish, load_anew, turns
from pushq.bench.bare import CLAIMANT, Rows, finish_arguments, register
from pushq.bench.connection import session_settings
from pushq.bench.figures import Measure, no_more_than
from pushq.bench.run import Run
from pushq.database.statements import statement

BATCH, BATCHES = 100, 10
TURNS, TURNS_LONG = 6, 30
FAILURES = Measure("share", "failures: extra CPU a job for events", "us", "without events", no_more_than(6))
ALL_EVENTS = Measure("share", "successes: extra CPU a job for all events", "us", "without events", no_more_than(11))

ERROR = "ValueError: no such user: 42"
TRACEBACK = """Traceback (most recent call last):
  File "/srv/app/jobs.py", line 42, in send_mail
    user = await find_user(user_id)
  File "/srv/app/users.py", line 17, in find_user
    raise ValueError(f"no such user: {user_id}")
ValueError: no such user: 42
"""


async def measure_events(run: Run) -> None:
    """Measures failures with their events and without; successes with all events, and in a database that keeps none."""
    stage = "share, events"
    if run.restore(stage):
        return
    async with _pool(run) as few, _pool(run) as every:
        await every.connection.execute("select pushq.keep_all_events('default')")
        await _measured(few, every, 1)  # prepares statements, fills caches
        async for _ in run.rounds(stage):
            seen = await _measured(few, every, turns(run, TURNS, TURNS_LONG))
            plain_failure, failure, plain_success, success = (1e6 * one for one in seen)
            run.add(FAILURES, failure - plain_failure, plain_failure)
            run.add(ALL_EVENTS, success - plain_success, plain_success)


async def _measured(few: Backend, every: Backend, count: int) -> list[float]:
    """Seconds of CPU a job: of failures and successes, each without and with events. The medians of `count` turns."""
    kinds = [
        (few, "finish", failures),
        (few, "finish_noting", lambda rows: noting(rows, failures(rows))),
        (few, "finish", finish_arguments),
        (every, "finish_noting", lambda rows: noting(rows, finish_arguments(rows))),
    ]
    for pool in (few, every):
        await load_anew(pool.connection, count * BATCH * BATCHES * len(kinds))
    seen: list[list[float]] = [[] for _ in kinds]
    for turn in range(count):
        for one in range(len(kinds)) if turn % 2 else reversed(range(len(kinds))):
            pool, finish, arguments = kinds[one]
            seen[one].append(
                await claim_and_finish(pool, statement("claim"), statement(finish), arguments, BATCH, BATCHES)
            )
    return [statistics.median(values) for values in seen]


def failures(rows: Rows) -> tuple[object, ...]:
    """The arguments of finish.sql."""
    some = len(rows)
    return *finish_arguments(rows)[:4], ["failed"] * some, [ERROR] * some, [TRACEBACK] * some, []


def noting(rows: Rows, arguments: tuple[object, ...]) -> tuple[object, ...]:
    """The arguments of finish_noting.sql, from those of finish.sql."""
    return *arguments, [], [], [row["attempt"] for row in rows], CLAIMANT.supervisor


@asynccontextmanager
async def _pool(run: Run) -> AsyncIterator[Backend]:
    async with run.ground.database() as url:
        await register(url)
        async with backend(run, url, session_settings(is_durable=False)) as pool:
            yield pool
