"""deliver: what retention by queue and spans cost, if used and if unused, how soon webhooks arrive, and how fast
artifacts are written and read.

Theory of operation
-------------------
What may delay others is measured by the clock: the steps of the purge, and webhooks beside a receiver that hangs. What
nobody uses must cost nothing, which is measured by the CPU of the server's process, as in share. Spans are measured by
the CPU of attempts in a bare loop.
"""

from __future__ import annotations

from pushq.bench.deliver.artifacts import measure_artifacts
from pushq.bench.deliver.before import BEFORE
from pushq.bench.deliver.otel import measure_otel
from pushq.bench.deliver.retention import measure_retention
from pushq.bench.deliver.webhooks import measure_webhooks
from pushq.bench.free import measure_free
from pushq.bench.run import Run


async def measure_deliver(run: Run) -> None:
    await measure_free(run, BEFORE)
    await measure_retention(run)
    await measure_otel(run)
    await measure_webhooks(run)
    await measure_artifacts(run)
