"""One who looks at the table every few milliseconds: do running jobs hold more of a name than there is?

Each look is one statement, so one snapshot. Of a name whose capacity has been lowered more may be held for a while; but
what is held must not grow. Of the limits of queues it may, since jobs that run are stamped with a new limit. The
checker judges the same by the commits, limits of queues included. This one judges by what a session sees.
"""

from __future__ import annotations

import time
from contextlib import suppress

import anyio
import asyncpg

from tests.torture.connections import AWAY, connected
from tests.torture.history import Excess
from tests.torture.ruler import Ruler

PAUSE = 0.003
"""Seconds between two looks."""
_HELD = """
    select held.name, held.units::int, rule.name is not null, rule.capacity
    from (
        select need.key as name, sum(need.value::int) as units
        from pushq.jobs_unfinished as job
        cross join lateral jsonb_each(job.needs) as need
        where job.status = 'running' and job.needs is not null
        group by need.key
    ) as held
    left join pushq.resources as rule on rule.name = held.name
    where held.name not like 'queue:%'"""


class Looks:
    """count: of the looks; excesses: what they found."""

    def __init__(self, url: str, ruler: Ruler) -> None:
        self._url = url
        self._ruler = ruler
        self.count = 0
        self.excesses: list[Excess] = []

    async def run(self) -> None:
        while True:
            with suppress(*AWAY):
                async with connected(self._url) as connection:
                    look = await connection.prepare(_HELD)
                    before: dict[str, int] | None = None
                    since = time.monotonic()
                    while True:
                        began_at = time.monotonic()
                        rows = await look.fetch()
                        self.count += 1
                        if before is not None:
                            self._judge(rows, before, since)
                        before, since = {row[0]: row[1] for row in rows}, began_at
                        await anyio.sleep(PAUSE)
            await anyio.sleep(0.05)

    def _judge(self, rows: list[asyncpg.Record], before: dict[str, int], since: float) -> None:
        for name, units, has_rule, of_rule in rows:
            capacity = of_rule if has_rule else _without_a_rule(name)
            if (
                capacity is None
                or units <= max(capacity, before.get(name, 0))
                or self._ruler.has_just_changed(name, since)
            ):
                continue
            self.excesses.append(Excess(time.monotonic(), name, units, capacity))


def _without_a_rule(name: str) -> int | None:
    kind, colon, _ = name.partition(":")
    return None if colon and kind in ("affinity", "tenant", "task") else 1
