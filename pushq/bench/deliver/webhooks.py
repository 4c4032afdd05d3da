"""How soon a webhook arrives after its job's end, beside a receiver that never answers, and beside one that answers."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from anyio.abc import ByteStream, SocketAttribute

from pushq.bench.connection import Connection, connected
from pushq.bench.figures import Measure, at_most, percentile
from pushq.bench.pick_up import insert_steadily
from pushq.bench.run import Run
from pushq.bench.share.ears import ahead
from pushq.bench.supervisors import supervising
from pushq.bench.waiting import wait_until

RATE = 50
"""Jobs of the quick receiver inserted a second."""
SECONDS, SECONDS_LONG = 2.0, 10.0
OTHERS = 200
"""Deliveries to another receiver at the beginning of each round. If it hangs, they wait, more with each round."""
SECONDS_TO_ARRIVE = 30.0
FLAGS = ("--webhook-allow=127.0.0.0/8", "--sweep-interval=1")

SUBSCRIBE = "insert into pushq.webhooks (tenant_id, url) values ($1, $2)"
INSERT = "insert into pushq.jobs (task, tenant_id) values ('bench.noop', 'quick') returning id"
INSERT_OTHERS = "insert into pushq.jobs (task, tenant_id) select 'bench.noop', 'other' from generate_series(1, $1)"

Arrived = dict[str, float]
"""A job's id → time.monotonic() of the first arrival."""


async def measure_webhooks(run: Run) -> None:
    """Measures two databases in turn, each with a supervisor. In one, the other receiver hangs."""
    stage = "deliver, webhooks"
    if run.restore(stage):
        return
    seconds = run.scope.seconds(SECONDS_LONG if run.scope.is_long else SECONDS)
    async with _side(run, hangs=True) as beside, _side(run, hangs=False) as limit:
        async for one in run.rounds(stage):
            in_turn = (beside, limit) if one % 2 else (limit, beside)
            took = {side.hangs: await side.measured(seconds, OTHERS) for side in in_turn}
            for name, share in (("p50", 0.5), ("p99", 0.99)):
                what = f"a webhook, {RATE}/s, beside a receiver that hangs, {name}"
                measure = Measure("deliver", what, "ms", "beside one that answers", at_most(1.5))
                run.add(measure, percentile(took[True], share), percentile(took[False], share))


@dataclass(frozen=True, slots=True)
class _Side:
    """hangs: whether the other receiver does."""

    hangs: bool
    connection: Connection
    arrived: Arrived

    async def measured(self, seconds: float, others: int) -> list[float]:
        """Milliseconds from the end of each job, by its row, to the arrival."""
        await self.connection.execute(INSERT_OTHERS, others)
        jobs = [str(job) for job in await insert_steadily(self.connection, RATE, seconds, INSERT)]

        async def all_have_arrived() -> bool:
            return self.arrived.keys() >= set(jobs)

        await wait_until(all_have_arrived, f"Of {len(jobs)} webhooks not all arrived", within=SECONDS_TO_ARRIVE)
        since_1970 = await ahead(self.connection)
        rows = await self.connection.fetch(
            "select id::text, extract(epoch from finished_at)::float8 as ended from pushq.jobs "
            "where id = any($1::uuid[]) and finished_on < 'infinity'",
            jobs,
        )
        return [1000 * (self.arrived[row["id"]] + since_1970 - row["ended"]) for row in rows]


@asynccontextmanager
async def _side(run: Run, *, hangs: bool) -> AsyncIterator[_Side]:
    """A database with a supervisor and two receivers."""
    arrived: Arrived = {}

    async def answer(stream: ByteStream) -> None:
        async with stream:
            request = await stream.receive(64 * 1024)
            while not request.endswith(b"}"):
                request += await stream.receive(64 * 1024)
            told = json.loads(request.partition(b"\r\n\r\n")[2])
            arrived.setdefault(told["data"]["id"], time.monotonic())
            await stream.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async def hang(stream: ByteStream) -> None:
        async with stream:
            await anyio.sleep_forever()

    async with run.ground.database() as url, connected(url) as connection, anyio.create_task_group() as receiving:
        for tenant, name, serve in (("quick", "127.0.0.1", answer), ("other", "127.0.0.2", hang if hangs else answer)):
            listener = await anyio.create_tcp_listener(local_host=name)
            receiving.start_soon(listener.serve, serve)
            port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - no Django
            await connection.execute(SUBSCRIBE, tenant, f"http://{name}:{port}/")
        with supervising(url, *FLAGS) as (supervisor,):
            await supervisor.wait_ready()
            side = _Side(hangs, connection, arrived)
            await side.measured(0.5, others=1)  # until the pool that delivers is up
            yield side
        receiving.cancel_scope.cancel()
