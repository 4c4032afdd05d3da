"""The handlers of ingest: `pushq supervise tasks:tasks --queue ingest`."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from typing import Any

import asyncpg

from pushq import Tasks, current_job

tasks = Tasks()


@tasks.register("ingest.bulk", queue="ingest", max_attempts=1)
@tasks.register("ingest.single", queue="ingest", max_attempts=1)
async def ingest(graphiti_body: bool = False, **body: Any) -> dict[str, int]:  # noqa: FBT001, FBT002 - from JSON
    """The payload is the request's whole body, or says that the body is kept apart."""
    if not graphiti_body:
        return await build(**body)
    kept = await body_kept_apart()
    return await build(**kept) if isinstance(kept, dict) else await build(episodes=kept)


async def build(
    episodes: Sequence[Any] = (), seconds: float = 0, fail: str | None = None, **_: object
) -> dict[str, int]:
    """Stands for the graph that is built: takes its time, fails if told to, and counts. Other keys are left alone."""
    await asyncio.sleep(seconds)
    if fail:
        raise RuntimeError(fail)
    return {"nodes": 3 * len(episodes), "edges": 2 * len(episodes), "episodes": len(episodes)}


async def body_kept_apart() -> Any:
    """Fetched on a connection of its own, so that no claim waits for megabytes."""
    connection = await asyncpg.connect(os.environ["INGEST_DATABASE_URL"])
    try:
        return json.loads(
            await connection.fetchval("select payload from graphiti_jobs where job_id = $1", current_job().id)
        )
    finally:
        await connection.close()
