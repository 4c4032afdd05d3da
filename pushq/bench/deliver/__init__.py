"""deliver: what retention by queue costs, if used and if unused.

Theory of operation
-------------------
What may delay others is measured by the clock: the steps of the purge. What nobody uses must cost nothing, which is
measured by the CPU of the server's process, as in share.
"""

from __future__ import annotations

from pushq.bench.deliver.retention import measure_retention
from pushq.bench.run import Run


async def measure_deliver(run: Run) -> None:
    await measure_retention(run)
