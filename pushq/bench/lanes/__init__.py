"""lanes: what needs, limits and fairness cost, if used and if unused, and how soon whoever waits goes on.

Theory of operation
-------------------
What nobody uses must cost nothing. So pushq/bench/free.py compares today's schema with that of before.py. What a rule
costs each job (limit.py, fair.py) is measured in the same way: by the CPU of the server's process, in turn with the
same jobs without the rule. What depends on pools, on bells and on the event loop is measured on real supervisors
without polling (drained.py, freed.py, limit.py, fair.py), by the instants in the rows. What one statement takes is
measured by the clock (nothing.py, explained.py).
"""

from __future__ import annotations

from pushq.bench.free import measure_free
from pushq.bench.lanes.before import BEFORE
from pushq.bench.lanes.drained import measure_drained
from pushq.bench.lanes.explained import measure_explained
from pushq.bench.lanes.fair import measure_fair, measure_lonely
from pushq.bench.lanes.freed import measure_freed
from pushq.bench.lanes.limit import measure_limit, measure_limited_drain
from pushq.bench.lanes.nothing import measure_nothing
from pushq.bench.run import Run


async def measure_lanes(run: Run) -> None:
    await measure_free(run, BEFORE)
    await measure_drained(run)
    await measure_freed(run)
    await measure_limit(run)
    await measure_limited_drain(run)
    await measure_fair(run)
    await measure_lonely(run)
    await measure_nothing(run)
    await measure_explained(run)
