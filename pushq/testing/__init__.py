"""For an app's own tests: a handler run as a job, and a queue in a database of the test's own.

    async def test_a_welcome_is_sent() -> None:
        assert await run(tasks, send_welcome.job(user_id=1)) == "sent"

    async def test_a_sign_up_is_welcomed(pushq_queue: TestQueue) -> None:
        await sign_up("ada", database=pushq_queue.url)
        assert await pushq_queue.inserted("mail.welcome")
        (job,) = await pushq_queue.drain(tasks)
        assert job.status == "succeeded"

The fixture `pushq_queue` comes with pushq, by pytest's plugin (`plugin.py`).
"""

from __future__ import annotations

from pushq.testing.inline import run
from pushq.testing.queue import FoundJob, TestQueue

__all__ = ["FoundJob", "TestQueue", "run"]
