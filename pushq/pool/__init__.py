"""The child process: hears the bell, claims, runs N workers, writes outcomes.

This file joins the parts, which know nothing of one another: they share streams, a doorbell and the slots.

    listener ─ring→ doorbell → claimer ─jobs→ workers ─outcomes→ finisher

Stop is drain: the claimer ends, and with it the stream of jobs; the workers finish what they have, or are stopped at
the deadline; the stream of outcomes ends; the finisher writes the last batch. Only then the listener goes.
"""

from __future__ import annotations

import math

import anyio

from pushq.database.patience import wait_out
from pushq.database.session import Session
from pushq.database.store import Claimant, Store
from pushq.events import Draining, publish, subscribe
from pushq.job import Job
from pushq.outcome import Outcome
from pushq.pool.claimer import Claimer, claim_suspects
from pushq.pool.doorbell import Doorbell
from pushq.pool.figures import FigureKeeper
from pushq.pool.finisher import finish
from pushq.pool.gate import Gate
from pushq.pool.link import Assignment, Drain, Link, Look, Ready
from pushq.pool.listener import Listener
from pushq.pool.slots import Slots
from pushq.pool.worker import Attempts, work
from pushq.task import Tasks


async def run_pool(assignment: Assignment, tasks: Tasks, link: Link) -> None:
    """Runs a pool until it is told to drain, or until its supervisor is gone."""
    claimant = Claimant(
        assignment.supervisor,
        assignment.pool,
        assignment.queues or tuple(dict.fromkeys(("default", *tasks.queues))),
        tasks.names,
    )
    name = f"pushq pool {assignment.pool} of {assignment.supervisor}"
    # Losing a claim to a crash of the server only puts the job back, so claims need not wait for the disk.
    claims = Session(assignment.url, f"{name}: claims", settings={"synchronous_commit": "off"})
    outcomes = Session(assignment.url, f"{name}: outcomes")
    notifications = Session(assignment.listen_url, f"{name}: listens")
    keeper = FigureKeeper(assignment.concurrency)
    try:
        with subscribe(keeper):
            await wait_out(lambda: Store(claims).register(claimant))
            await link.send(Ready(claimant.tasks, claimant.queues))
            await _run(assignment, claimant, tasks, link, keeper, Store(claims), Store(outcomes), notifications)
            await link.send(keeper.figures)
    finally:
        for session in (claims, outcomes, notifications):
            await session.close()


async def _run(
    assignment: Assignment,
    claimant: Claimant,
    tasks: Tasks,
    link: Link,
    keeper: FigureKeeper,
    claims: Store,
    outcomes: Store,
    notifications: Session,
) -> None:
    slots = Slots(assignment.concurrency)
    doorbell = Doorbell()
    attempts = Attempts(assignment.concurrency)
    claiming = anyio.CancelScope()
    send_job, receive_job = anyio.create_memory_object_stream[Job](math.inf)
    send_outcome, receive_outcome = anyio.create_memory_object_stream[Outcome](500)
    listens = assignment.wake == "notify" and not assignment.solo

    async with anyio.create_task_group() as around:
        around.start_soon(_obey, link, claiming, attempts, doorbell)
        around.start_soon(keeper.report, link)
        if listens:
            around.start_soon(Listener(notifications, claims, doorbell, claimant.queues).run)
        async with anyio.create_task_group() as work_group:
            work_group.start_soon(finish, outcomes, receive_outcome)
            for _ in range(assignment.concurrency):
                work_group.start_soon(work, tasks, attempts, slots, receive_job.clone(), send_outcome.clone())
            receive_job.close()
            send_outcome.close()
            with claiming:
                if assignment.solo:
                    await claim_suspects(claims, claimant, slots, send_job)
                else:
                    await Claimer(
                        claims,
                        claimant,
                        slots=slots,
                        doorbell=doorbell,
                        gate=Gate(claims, claimant.queues) if listens else None,
                        jobs=send_job,
                        poll_interval=assignment.poll_interval,
                    ).run()
        around.cancel_scope.cancel()


async def _obey(link: Link, claiming: anyio.CancelScope, attempts: Attempts, doorbell: Doorbell) -> None:
    """Follows the supervisor's orders. Its end of the line closing is the order to drop everything."""
    async for order in link:
        match order:
            case Look():
                doorbell.ring()
            case Drain(seconds):
                publish(Draining(seconds))
                claiming.cancel()
                await anyio.sleep(seconds)
                attempts.stop()
                return
            case _:
                pass
    claiming.cancel()
    attempts.stop()
