"""insert: the cost of pushq's triggers for producers: of the bell, and of bell and rules together."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from types import MappingProxyType

import anyio

from pushq.bench.connection import Connection, connected
from pushq.bench.figures import Figure, Measure, Target, at_least
from pushq.bench.run import Run
from pushq.bench.supervisors import supervising
from pushq.bench.waiting import wait_until

NONE, EMPTY, ALWAYS, OURS = "no trigger", "an empty trigger", "a trigger that always notifies", "pushq's trigger"
"""In place of the bell. The rules for rows stay."""
BARE = "neither trigger nor rules"
TRIGGERS = (NONE, EMPTY, ALWAYS, OURS, BARE)
CLIENTS = (1, 8, 32, 64)
CROWD = 32
"""Clients of the figures that have targets."""
WORKERS = 10
SHUTTING = 0.5
"""Seconds until a pool without a free worker has shut the gate."""

SCRIPT = "insert into pushq.jobs (task, payload, queue) values ('bench.unknown', '{\"user_id\": 42}', 'default');\n"
"""No pool knows the task, so an idle pool stays idle, however many jobs are inserted."""

BODIES = MappingProxyType({EMPTY: "return null;", ALWAYS: "perform pg_notify('pushq', new.queue); return null;"})

Rates = dict[str, float]
"""Trigger to INSERTs a second."""


async def measure_insert(run: Run) -> None:
    await _without_pools(run)
    await _with_saturated_pool(run)
    await _with_idle_pool(run)


async def _without_pools(run: Run) -> None:
    stage = "insert, no pools"
    if not run.scope.is_long or run.restore(stage):
        return
    async with run.ground.database() as url, connected(url) as connection:
        async for one in run.rounds(stage):
            for clients in CLIENTS:
                _note(run, "no pools", clients, await _rates(run, connection, url, clients, one), ())


async def _with_saturated_pool(run: Run) -> None:
    """All workers are busy and the gate is shut: INSERTs ring nobody."""
    stage = "insert, pools saturated"
    if run.restore(stage):
        return
    async with run.ground.database() as url, connected(url) as connection:
        with supervising(url, f"--concurrency={WORKERS}", "--shutdown-timeout=0") as (supervisor,):
            await supervisor.wait_ready()
            await _saturate(connection, seconds=86400)
            await wait_running(connection, WORKERS)
            await anyio.sleep(SHUTTING)
            async for one in run.rounds(stage):
                for clients in CLIENTS if run.scope.is_long else (CROWD,):
                    _note(run, "pools saturated", clients, await _rates(run, connection, url, clients, one))


async def _with_idle_pool(run: Run) -> None:
    """The gate is open: each INSERT notifies, until there is work."""
    stage = "insert, pools idle"
    if run.restore(stage):
        return
    async with run.ground.database() as url, connected(url) as connection:
        with supervising(url, f"--concurrency={WORKERS}", "--shutdown-timeout=0") as (supervisor,):
            await supervisor.wait_ready()
            async for one in run.rounds(stage):
                rates = await _rates(run, connection, url, CROWD, one, (NONE, ALWAYS, OURS))
                again = await _rate_once_there_is_work(run, connection, url)
                _note(run, "pools idle", CROWD, rates, (ALWAYS,))
                recovered = Measure(
                    "insert",
                    f"{CROWD} clients, 1 s after an idle pool got work",
                    "inserts/s",
                    f"with {NONE}",
                    at_least(0.9),
                )
                run.add(recovered, again, rates[NONE])


def _note(run: Run, pools: str, clients: int, rates: Rates, against: Sequence[str] = (EMPTY, ALWAYS, BARE)) -> None:
    """Adds each trigger's rate, with the rate without a trigger as the limit; and pushq's rate with further limits."""
    where = _where(clients, pools)
    for trigger in (one for one in rates if one not in (NONE, BARE)):
        target = _target(pools, clients, NONE) if trigger == OURS else None
        measure = Measure("insert", f"{where}, {trigger}", "inserts/s", f"with {NONE}", target)
        run.add(measure, rates[trigger], rates[NONE])
    for other in against:
        target = _target(pools, clients, other)
        run.add(Measure("insert", f"{where}, {OURS}", "inserts/s", f"with {other}", target), rates[OURS], rates[other])


def _where(clients: int, pools: str) -> str:
    return f"{clients} client{'s' if clients > 1 else ''}, {pools}"


def _target(pools: str, clients: int, other: str) -> Target | None:
    targets = {
        ("pools saturated", BARE): at_least(0.95),
        ("pools saturated", NONE): at_least(0.9),
        ("pools saturated", EMPTY): at_least(1.0),
        ("pools idle", ALWAYS): at_least(1.0),
    }
    return targets.get((pools, other)) if clients == CROWD or other == BARE else None


async def _rates(
    run: Run,
    connection: Connection,
    url: str,
    clients: int,
    one: int,
    triggers: Sequence[str] = TRIGGERS,
) -> Rates:
    """Measures each trigger once. Each round begins with another trigger."""
    rates: Rates = {}
    turned = [*triggers[one % len(triggers) :], *triggers[: one % len(triggers)]]
    for trigger in turned:
        run.show(f"insert: round {one}, {clients} clients, {trigger}")
        await prepare(connection, trigger)
        seconds = round(run.scope.seconds(3 if run.scope.is_long else 1)) or 1
        rates[trigger] = (await run.ground.pgbench.run(url, SCRIPT, clients=clients, seconds=seconds)).overall
    return {trigger: rates[trigger] for trigger in triggers}


async def prepare(connection: Connection, trigger: str) -> None:
    """Empties the table, and puts one of TRIGGERS in place. Running jobs stay in their workers, without their rows."""
    async with connection.transaction():
        await connection.execute("truncate pushq.jobs_unfinished")
        await connection.execute("drop trigger if exists bench on pushq.jobs_unfinished")
        await connection.execute("alter table pushq.jobs_unfinished enable trigger user")
        if trigger != OURS:
            off = "user" if trigger == BARE else "jobs_ring_the_bell"
            await connection.execute(f"alter table pushq.jobs_unfinished disable trigger {off}")
        if trigger in BODIES:
            await connection.execute(
                "create or replace function bench() returns trigger language plpgsql "
                f"as $$ begin {BODIES[trigger]} end $$"
            )
            await connection.execute(
                "create trigger bench after insert on pushq.jobs_unfinished for each row execute function bench()"
            )


async def _saturate(connection: Connection, *, seconds: float) -> None:
    """Gives every worker a job of `seconds`."""
    await connection.execute(
        "insert into pushq.jobs (task, payload, priority) "
        "select 'bench.sleep', jsonb_build_object('seconds', $1::float8), -1 from generate_series(1, $2)",
        seconds,
        WORKERS,
    )


async def wait_running(connection: Connection, jobs: int) -> None:
    async def they_run() -> bool:
        running = "select count(*) from pushq.jobs_unfinished where status = 'running'"
        return bool(await connection.fetchval(running) == jobs)

    await wait_until(they_run, f"The workers did not come to run {jobs} jobs", within=20, every=0.05)


async def _rate_once_there_is_work(run: Run, connection: Connection, url: str) -> float:
    """The rate in the third second, one second after an idle pool has got work."""
    await prepare(connection, OURS)
    rates: list[float] = []

    async def insert() -> None:
        rates.extend((await run.ground.pgbench.run(url, SCRIPT, clients=CROWD, seconds=3)).by_second)

    async with anyio.create_task_group() as group:
        group.start_soon(insert)
        await anyio.sleep(1.0)
        await _saturate(connection, seconds=2.5)
    await wait_running(connection, 0)
    return rates[-1]


def by_clients(figures: Sequence[Figure]) -> dict[str, dict[int, float]]:
    """The curves of the plot: trigger to clients to the median of INSERTs a second, with saturated pools."""
    curves: dict[str, dict[int, float]] = {trigger: {} for trigger in TRIGGERS}
    for figure in figures:
        for clients in CLIENTS:
            trigger = figure.measure.name.removeprefix(f"{_where(clients, 'pools saturated')}, ")
            if trigger in TRIGGERS and figure.measure.limit == f"with {NONE}":
                curves[trigger][clients] = figure.median
                curves[NONE][clients] = statistics.median(figure.limits)
    return {trigger: curve for trigger, curve in curves.items() if curve}
