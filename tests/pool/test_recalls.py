"""Recalled jobs that wait for a worker do not begin, and their claims are forgotten when they have ended."""

from __future__ import annotations

from uuid import UUID

import anyio
import anyio.lowlevel

from pushq import Tasks, current_job
from pushq.database.session import Session
from pushq.events import Event, JobRecalled, subscribe
from pushq.job import Job
from pushq.pool.attempts import Attempts
from pushq.pool.doorbell import Doorbell
from pushq.pool.intake import Intake
from pushq.pool.lanes import Lanes
from pushq.pool.loads import Loads
from pushq.pool.outbox import Outbox
from pushq.pool.recalls import Recalls, digest, given_back
from pushq.pool.store import Claimant, Store
from pushq.pool.worker import Worker
from pushq.recalled import recalled
from tests.support.loops import on_a_pool_s_loop

tasks = Tasks()
begun = list[UUID]()


@tasks.register("note")
async def note() -> None:
    begun.append(current_job().id)


@tasks.register("note.many", batch=10)
async def note_many(jobs: list[Job]) -> None:
    begun.extend(job.id for job in jobs)


def job(number: int, task: str = "note") -> Job:
    return Job(UUID(int=number), task, "default", "{}", 1, 0, 0, None, None, None, None, UUID(int=100 + number))


async def load(_: Job) -> str | None:
    return "{}"


async def has_recalled(jobs: int) -> None:
    with anyio.fail_after(10):
        while len(recalled) < jobs:
            await anyio.lowlevel.checkpoint()
    assert len(recalled) == jobs


@on_a_pool_s_loop
async def test_a_job_that_is_recalled_before_a_worker_begins_does_not_begin() -> None:
    begun.clear()
    intake, attempts, outbox, told = Intake(1), Attempts(load), Outbox(), list[Event]()
    recalls = Recalls(attempts, intake)
    jobs = [job(number) for number in range(1, 5)]
    batch = [job(number, "note.many") for number in range(5, 8)]
    intake.put([*jobs, batch], is_full=False)
    for one in (jobs[1], jobs[3], batch[0], batch[2]):
        recalls.hear(digest(one))
    recalls.hear(digest(job(9)))
    await has_recalled(4)

    intake.close()
    with subscribe(told.append):
        lanes = Lanes(
            Store(Session("postgresql://nowhere", "test")),
            Claimant("here", 1, (), ()),
            loads=Loads(()),
            intake=intake,
            outbox=outbox,
            doorbell=Doorbell(),
        )
        await Worker(tasks, attempts, intake, outbox, lanes).run()
    outcomes = await outbox.batch()

    assert begun == [jobs[0].id, jobs[2].id, batch[1].id]
    assert {one.job.id.int: one.kind for one in outcomes} == {
        1: "succeeded", 2: "cancelled", 3: "succeeded", 4: "cancelled", 5: "cancelled", 6: "succeeded", 7: "cancelled"
    }  # fmt: skip
    assert [one.handler for one in told if isinstance(one, JobRecalled)] == ["did not begin"] * 4
    assert recalled == set()


@on_a_pool_s_loop
async def test_a_recalled_job_that_is_given_back_is_not_kept() -> None:
    intake = Intake(1)
    recalls = Recalls(Attempts(load), intake)
    intake.put([job(1), job(2)], is_full=False)
    recalls.hear(digest(job(2)))
    await has_recalled(1)
    outcomes = [given_back(one) for one in intake.give_back()]

    assert [(one.job.id.int, one.kind) for one in outcomes] == [(1, "released"), (2, "cancelled")]
    assert recalled == set()
