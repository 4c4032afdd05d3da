"""The handlers of graph: `pushq supervise tasks:tasks --queue graph`."""

from __future__ import annotations

import asyncio

from pushq import Tasks

tasks = Tasks()


@tasks.register("graph.build", queue="graph", max_attempts=1)
@tasks.register("graph.overlay", queue="graph", max_attempts=1)
async def work(graph: str = "", seconds: float = 0, fail: str | None = None, **_: object) -> dict[str, int]:
    """Stands for a graph that is built or laid over: takes its time, fails if told to, and counts.

    Other keys of the payload are left alone.
    """
    await asyncio.sleep(seconds)
    if fail:
        raise RuntimeError(fail)
    words = graph.split()
    return {"nodes": len(set(words)), "edges": max(0, len(words) - 1)}
