"""The handlers of ingest: `pushq supervise tasks:tasks --queue ingest`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pushq import Tasks

tasks = Tasks()


@tasks.register("ingest.bulk", queue="ingest", max_attempts=1)
@tasks.register("ingest.single", queue="ingest", max_attempts=1)
async def ingest(
    episodes: Sequence[Any] = (), seconds: float = 0, fail: str | None = None, **_: object
) -> dict[str, int]:
    """Stands for the graph that is built: takes its time, fails if told to, and counts.

    The payload is the request's whole body, whose other keys are left alone.
    """
    await asyncio.sleep(seconds)
    if fail:
        raise RuntimeError(fail)
    return {"nodes": 3 * len(episodes), "edges": 2 * len(episodes), "episodes": len(episodes)}
