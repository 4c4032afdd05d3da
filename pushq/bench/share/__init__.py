"""share: what it costs that a queue is shared: waits, events, tenants and cancels, if used and if unused.

Theory of operation
-------------------
What nobody uses must cost nothing. So pushq/bench/free.py compares today's schema with that of before.py,
by the CPU of the server's process: a clock would mostly measure the disk and the driver. The other parts measure what
is paid by those who use waits (told.py, crowd.py), events (events.py), cancels (cancelled.py) and tenants (tenants.py).
Each has its limit in the same round: the same work without, or a bare notification.
"""

from __future__ import annotations

from pushq.bench.free import measure_free
from pushq.bench.run import Run
from pushq.bench.share.before import BEFORE
from pushq.bench.share.cancelled import measure_cancelled
from pushq.bench.share.crowd import measure_crowd
from pushq.bench.share.events import measure_events
from pushq.bench.share.tenants import measure_tenants
from pushq.bench.share.told import measure_told, measure_waited_for


async def measure_share(run: Run) -> None:
    await measure_free(run, BEFORE)
    await measure_told(run)
    await measure_events(run)
    await measure_cancelled(run)
    await measure_crowd(run)
    await measure_waited_for(run)
    await measure_tenants(run)
