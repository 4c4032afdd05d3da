"""Jobs of all kinds of callers run."""

from __future__ import annotations

import asyncio
import json
from uuid import UUID

from pushq import Queue
from tests.producers.drivers import CALLERS, SYNC_CALLERS
from tests.support.handlers import echo
from tests.support.jobs import Connection, finished
from tests.support.supervisors import supervising


async def test_what_any_caller_has_committed_runs(database_url: str, connection: Connection) -> None:
    with supervising(database_url, POLL_INTERVAL="0"):
        ids = [await inserted(database_url, name) for name in CALLERS]
        ids += [await asyncio.to_thread(inserted_sync, database_url, name) for name in SYNC_CALLERS]
        rows = await finished(connection, *ids)

    assert [json.loads(row["result"]) for row in rows] == [{"by": name} for name in (*CALLERS, *SYNC_CALLERS)]


async def inserted(url: str, name: str) -> UUID:
    async with CALLERS[name](url) as caller:
        job_id = await Queue().insert(echo.job(by=name), connection=caller.connection)
        await caller.commit()
    assert job_id
    return job_id


def inserted_sync(url: str, name: str) -> UUID:
    with SYNC_CALLERS[name](url) as caller:
        job_id = Queue().insert_sync(echo.job(by=name), connection=caller.connection)
        caller.commit()
    assert job_id
    return job_id
