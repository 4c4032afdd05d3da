"""The handlers of the SaaS: `pushq supervise tasks:tasks`."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from pushq import Tasks, current_job

tasks = Tasks()


def soon(_failures: int) -> timedelta:
    return timedelta(milliseconds=300)


@tasks.register("ai_generate", queue="job_queue", max_attempts=3, backoff=soon)
@tasks.register("video_ingest", queue="job_queue", max_attempts=3, backoff=soon)
async def work(
    prompt: str = "", url: str = "", seconds: float = 0, failures: int = 0, **_: object
) -> dict[str, object]:
    """Stands for a model or a download: sleeps, fails a number of times, then succeeds.

    Other keys of the payload are left alone, as the old workers leave them.
    """
    job = current_job()
    await asyncio.sleep(seconds)
    if job.failures < failures:
        raise RuntimeError(f"no luck with {prompt or url!r}, failure {job.failures + 1} of {failures}")
    return {"tenant": job.tenant_id, "attempt": job.attempt}
