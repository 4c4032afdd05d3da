"""How long a step of pushq.delete_tenant takes beside the jobs of other tenants."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pushq.bench.connection import Connection, connected
from pushq.bench.figures import Measure, no_more_than, number, percentile
from pushq.bench.fill import fill_days, fill_history
from pushq.bench.run import Run
from pushq.errors import PushqError

OTHERS = 250_000
"""Jobs of other tenants."""
STEP = 5_000
STEPS, STEPS_LONG = 4, 10
"""Steps a round."""
MOST_MS = 50
TENANT = "bench"

MAY_SEPARATE = """
select to_regrole('pushq_tenant') is not null as has_role, rolsuper or rolcreaterole as may_make_roles
from pg_roles
where rolname = current_user
"""


async def measure_tenants(run: Run) -> None:
    """Deletes a tenant's finished jobs, with those of other tenants beside and with none. Tenants are kept apart."""
    others, step = run.scope.jobs(OTHERS), run.scope.jobs(STEP)
    beside = f"beside {number(others)} of others"
    stage = f"share, delete_tenant {beside}"
    if run.restore(stage):
        return
    if not await _may_separate(run):
        run.add_remark("share: this role may not make the role pushq_tenant, so delete_tenant was not measured.")
        return
    async with _separated(run) as full, _separated(run) as empty:
        run.show(f"{stage}: loading")
        await fill_days(full, others)
        steps = STEPS_LONG if run.scope.is_long else STEPS
        async for one in run.rounds(stage):
            in_turn = (full, empty) if one % 2 else (empty, full)
            took = {connection: await _delete(connection, step, steps) for connection in in_turn}
            for name, share in (("p50", 0.5), ("max", 1.0)):
                what = f"delete_tenant, {number(step)} a step, {beside}, {name}"
                measure = Measure("share", what, "ms", "with none", no_more_than(MOST_MS))
                run.add(measure, percentile(took[full], share), percentile(took[empty], share))


async def _delete(connection: Connection, step: int, steps: int) -> list[float]:
    """Milliseconds of each step that deletes jobs."""
    await fill_history(connection, step * steps, TENANT)
    took: list[float] = []
    while True:
        began = time.perf_counter()
        deleted = await connection.fetchval("select pushq.delete_tenant($1, $2)", TENANT, step)
        if not deleted:
            break
        took.append(1000 * (time.perf_counter() - began))
    if len(took) != steps:
        raise PushqError(f"A tenant's {step * steps} jobs were deleted in {len(took)} steps.")
    return took


@asynccontextmanager
async def _separated(run: Run) -> AsyncIterator[Connection]:
    async with run.ground.database() as url, connected(url) as connection:
        await connection.execute("select pushq.separate_tenants()")
        yield connection


async def _may_separate(run: Run) -> bool:
    """Whether tenants can be kept apart, which makes the server's role pushq_tenant, if the role is not there."""
    async with connected(run.ground.url) as administrator:
        row = await administrator.fetchrow(MAY_SEPARATE)
    assert row is not None
    if not row["has_role"] and row["may_make_roles"]:
        run.ground.roles.add("pushq_tenant")
    return bool(row["has_role"] or row["may_make_roles"])
