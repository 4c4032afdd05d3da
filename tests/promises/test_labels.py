"""Guarantee 11, the labels: what rows make of known tasks and queues is bounded too, and no pair changes its labels."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import uuid4

import pytest
from anyio.lowlevel import checkpoint
from prometheus_client.parser import text_string_to_metric_families

from pushq.database.session import Session
from pushq.exporter.figures import ProcessFigures
from pushq.exporter.metrics import Exposition
from pushq.outcome import Kind, Outcome
from pushq.pool.store import Claimant
from tests.support.jobs import Connection, insert
from tests.support.store import Store

TASKS = tuple(f"task{number:02}" for number in range(30))
QUEUES = tuple(f"queue{number:02}" for number in range(41))
OWN = tuple(("queue00", task) for task in TASKS)
OTHER = ("_other", "_other")


@asynccontextmanager
async def stores(url: str, number: int = 3) -> AsyncIterator[list[Store]]:
    """Each on a connection of its own, as pools have them, of a supervisor that lives. Its tasks are registered."""
    async with AsyncExitStack() as stack:
        made = []
        for one in range(number):
            session = Session(url, f"test {one}")
            stack.push_async_callback(session.close)
            made.append(Store(session))
        await made[0].heartbeat("living", "here", 1, 3600)
        await made[0].register(claimant(1), {})
        await made[0].label(OWN)
        yield made


def claimant(pool: int) -> Claimant:
    return Claimant("living", pool, QUEUES, TASKS)


async def insert_a_job_of_each_pair(connection: Connection) -> None:
    await connection.execute(
        "insert into pushq.jobs (task, queue) select task, queue from unnest($1::text[]) as task "
        "cross join unnest($2::text[]) as queue order by random()",
        TASKS,
        QUEUES,
    )


async def run_all(stores: list[Store], kind: Kind = Kind.SUCCEEDED) -> None:
    """All pools at once, in batches that each bring pairs of their own and some of the others'."""

    async def run(store: Store, pool: int) -> None:
        while jobs := await store.claim(claimant(pool), uuid4(), 70):
            await store.finish([Outcome(job, kind) for job in jobs])

    await asyncio.gather(*(run(store, pool) for pool, store in enumerate(stores, 1)))


async def counted(store: Store) -> Counter[tuple[str, str]]:
    """Jobs that have had an outcome, by pair of labels."""
    sums = Counter[tuple[str, str]]()
    for row in await store.tallies():
        sums[row["queue"], row["task"]] += row["jobs"]
    return sums


async def test_rows_make_a_thousand_pairs_of_labels_and_the_rest_is_other(
    database_url: str, connection: Connection
) -> None:
    async with stores(database_url) as pools:
        await insert_a_job_of_each_pair(connection)
        await run_all(pools)
        first = await counted(pools[0])

        assert len(first) == 30 + 1000 + 1
        assert first.total() == 30 * 41
        assert {first[pair] for pair in OWN} == {1}
        assert first[OTHER] == 200


async def test_a_pair_keeps_its_labels_whatever_else_happens_and_whoever_counts(
    database_url: str, connection: Connection
) -> None:
    async with stores(database_url) as pools:
        await insert_a_job_of_each_pair(connection)
        await run_all(pools)
        first = await counted(pools[0])
        await insert_a_job_of_each_pair(connection)
        await run_all(pools, Kind.FAILED)
        await insert_a_job_of_each_pair(connection)
        assert len(await pools[0].claim(claimant(1), uuid4(), 500)) == 500
        assert len(await pools[0].requeue(["living"], crashed=True)) == 500
        await connection.execute("select pushq.cancel(id) from pushq.jobs_unfinished")
        while (await pools[1].fold(20_000)).entries:
            pass
        last = await counted(pools[2])

    assert last.keys() == first.keys()
    assert last.total() == 3 * 30 * 41 + 500
    assert {last[pair] - 3 * first[pair] for pair in first if pair != OTHER} == {0, 1}


@pytest.mark.parametrize("kind", [Kind.SUCCEEDED, Kind.FAILED, Kind.RETRIED, Kind.SNOOZED])
async def test_a_pair_beside_the_registered_ones_has_labels_from_its_first_outcome(
    database_url: str, connection: Connection, kind: Kind
) -> None:
    async with stores(database_url, 1) as (store,):
        await insert(connection, "task00", queue="queue05")
        jobs = await store.claim(claimant(1), uuid4(), 1)
        await store.finish([Outcome(job, kind) for job in jobs])

        assert (await counted(store))["queue05", "task00"] == 1


async def test_a_process_s_death_is_an_outcome_too(database_url: str, connection: Connection) -> None:
    async with stores(database_url, 1) as (store,):
        await insert(connection, "task00", queue="queue05")
        await store.claim(claimant(1), uuid4(), 1)
        await store.requeue(["living"], pool=1, crashed=True)

        assert (await counted(store))["queue05", "task00"] == 1


async def test_somebody_s_open_cancel_gives_no_labels_and_holds_up_nobody(
    database_url: str, connection: Connection
) -> None:
    async with stores(database_url, 1) as (store,):
        one, other = await insert(connection, "task00", 2, queue="queue05")
        async with connection.transaction():
            await connection.execute("select pushq.cancel($1)", one)
            jobs = await store.claim(claimant(1), uuid4(), 2)
            assert [job.id for job in jobs] == [other]
            await store.finish([Outcome(job, Kind.SUCCEEDED) for job in jobs])
        sums = await counted(store)

    assert (sums["queue05", "task00"], sums[OTHER]) == (1, 1)


async def test_whoever_keeps_the_labels_locked_holds_up_no_outcome(database_url: str, connection: Connection) -> None:
    """For long: it is counted as `_other`, and a batch waits once, however many pairs it brings."""
    async with stores(database_url, 1) as (store,):
        await insert_a_job_of_each_pair(connection)
        jobs = await store.claim(claimant(1), uuid4(), 300)
        async with connection.transaction():
            await connection.execute("select from pushq.labels for update")
            await store.finish([Outcome(job, Kind.SUCCEEDED) for job in jobs])
        sums = await counted(store)

    own = sum(job.queue == "queue00" for job in jobs)
    assert (sums.total(), sums[OTHER], sum(sums[pair] for pair in OWN)) == (300, 300 - own, own)


async def test_labels_go_on_where_somebody_has_emptied_their_table(database_url: str, connection: Connection) -> None:
    async with stores(database_url, 2) as pools:
        await connection.execute("truncate pushq.labels")
        await insert_a_job_of_each_pair(connection)
        await run_all(pools)
        await pools[0].label(OWN)

        assert (await counted(pools[0])).total() == 30 * 41
        assert await connection.fetchval("select count(*) from pushq.labels where place is not null") == 1000


async def test_pools_that_register_while_others_finish_are_no_deadlock(
    database_url: str, connection: Connection
) -> None:
    """Whatever the order in which they name the pairs."""
    async with stores(database_url, 4) as pools:
        await insert_a_job_of_each_pair(connection)
        pairs = [(queue, task) for queue in QUEUES for task in TASKS]
        await asyncio.gather(run_all(pools[:2]), pools[2].label(pairs), pools[3].label(pairs[::-1]))
        sums = await counted(pools[0])

    assert sums.total() == 30 * 41
    assert set(pairs) <= sums.keys()


async def test_every_counter_of_a_pair_is_there_from_zero(database_url: str) -> None:
    """So that Prometheus sees a task's first failure as one more than before."""
    async with stores(database_url, 1) as (store,):
        samples = await exposed(store)

    for queue, task in (*OWN, OTHER):
        for status in ("succeeded", "failed", "cancelled"):
            assert samples["pushq_jobs_finished_total", queue, task, status] == 0
        assert samples["pushq_job_retries_total", queue, task, ""] == 0
        assert samples["pushq_jobs_requeued_total", queue, task, ""] == 0


async def exposed(store: Store) -> dict[tuple[str, str, str, str], float]:
    pieces, _ = await Exposition(store, ProcessFigures)("")
    return {
        (sample.name, sample.labels["queue"], sample.labels["task"], sample.labels.get("status", "")): sample.value
        for family in text_string_to_metric_families(b"".join(pieces).decode())
        for sample in family.samples
        if "task" in sample.labels
    }


async def test_a_large_exposition_is_written_in_turns_with_whatever_else_there_is_to_do(
    database_url: str, connection: Connection
) -> None:
    async with stores(database_url) as pools:
        await insert_a_job_of_each_pair(connection)
        await run_all(pools)
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await checkpoint()

        exposition = Exposition(pools[0], ProcessFigures)
        await exposition("text/plain")
        counting = asyncio.create_task(count_turns())
        exposition._taken_at = float("inf")  # nothing is read: all that is left is to write it
        before = turns
        pieces, _ = await exposition("application/openmetrics-text; version=1.0.0")
        passed = turns - before
        counting.cancel()

    lines = b"".join(pieces).count(b"\n")
    assert lines > 40_000
    assert lines / passed < 1500


async def test_hostile_names_are_labels_like_any_other(database_url: str) -> None:
    """In both formats: whatever a name holds, it cannot forge a line."""
    task = 'a "quoted"\\ {task}\n# EOF\npushq_supervisors 7'
    async with stores(database_url, 1) as (store,):
        await store.label([("queue00", task)])
        samples = await exposed(store)
        pieces, _ = await Exposition(store, ProcessFigures)("application/openmetrics-text; version=1.0.0")

    assert samples["pushq_job_retries_total", "queue00", task, ""] == 0
    assert b"".join(pieces).count(b"\n# EOF\n") == 1
