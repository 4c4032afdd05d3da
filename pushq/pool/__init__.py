"""The child process: hears the bell, claims, runs N workers, writes outcomes.

This file joins the parts. The parts know nothing of one another, and share a doorbell, an intake and an outbox:

    listener ─→ doorbell ─→ claimer ─→ intake ─→ workers ─→ outbox ─→ finisher

Stop is drain. The claimer ends, gives back the jobs that no worker has begun, and closes the intake. The workers finish
their jobs, or are stopped at the deadline. The outbox is closed, and the finisher writes the last batch. The listener
goes last.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf

import anyio
from anyio.abc import TaskGroup

from pushq.artifacts import Limits, keepers
from pushq.database.lending import Lender
from pushq.database.patience import is_rejection, wait_out
from pushq.database.session import Session
from pushq.errors import DatabaseTrouble, TasksError, TasksRaised, UnexpectedState
from pushq.events import ChoreFailed, Draining, publish, subscribe
from pushq.job import Job
from pushq.link import Assignment, Done, Drain, Link, Ready, RegisterAgain, Unable
from pushq.pool.artifacts import SETTINGS as FOR_ARTIFACTS
from pushq.pool.artifacts import ArtifactKeeper
from pushq.pool.attempts import Attempts
from pushq.pool.claimer import Claimer
from pushq.pool.doorbell import Doorbell
from pushq.pool.figures import FigureKeeper
from pushq.pool.finisher import LOCK_WAIT, finish
from pushq.pool.gate import Gate
from pushq.pool.intake import Intake
from pushq.pool.lanes import RULES, Lanes
from pushq.pool.lifespan import Lifespan
from pushq.pool.listener import Listener
from pushq.pool.loads import Loads
from pushq.pool.outbox import Outbox
from pushq.pool.progress import ProgressWriter
from pushq.pool.recalls import CHANNEL as RECALLS
from pushq.pool.recalls import Recalls
from pushq.pool.roster import Roster
from pushq.pool.schedules import CHANNEL as SCHEDULES
from pushq.pool.schedules import SchedulesBell
from pushq.pool.solo import run_suspects
from pushq.pool.spans import flush_spans
from pushq.pool.store import Claimant, Store
from pushq.pool.teller import Teller
from pushq.pool.transactions import Transactions
from pushq.pool.worker import Worker
from pushq.task import Tasks


async def run_pool(assignment: Assignment, tasks: Tasks, link: Link, roster: Roster) -> None:
    """Runs a pool until the supervisor orders a drain or is gone."""
    claimant = Claimant(
        assignment.supervisor,
        assignment.pool,
        assignment.queues or tuple(dict.fromkeys(("default", *tasks.queues))),
        tasks.names,
    )
    name = f"pushq pool {assignment.pool} of {assignment.supervisor}"
    # A claim lost in a crash of the server leaves its jobs queued, so claims need not wait for the disk.
    claims = Session(assignment.url, f"{name}: claims", settings={"synchronous_commit": "off"})
    outcomes = Session(assignment.url, f"{name}: outcomes", settings={"lock_timeout": LOCK_WAIT})
    apart = Session(assignment.url, f"{name}: outcomes apart", settings={"lock_timeout": LOCK_WAIT})
    notifications = Session(assignment.listen_url, f"{name}: listens")
    pieces = Session(assignment.url, f"{name}: artifacts", settings=FOR_ARTIFACTS)
    store = Store(claims)
    teller, progress = Teller(store), ProgressWriter(store)
    limits = Limits(assignment.artifact_bytes, assignment.artifacts_per_job, assignment.artifact_bytes_per_day)
    keeper_of_artifacts = keepers[None] = ArtifactKeeper(pieces, limits)
    intake = Intake(assignment.concurrency)
    in_batches = Store(outcomes, teller.put, assignment.supervisor)
    one_by_one = Store(apart, teller.put, assignment.supervisor)
    lender = Lender(assignment.url, f"{name}: handlers")
    transactions = Transactions(lender, in_batches, one_by_one)
    attempts = Attempts(partial(_payload, store), tasks.middleware_of_app, progress.settle, transactions)
    roster.attempts = attempts
    pool = Pool(assignment, claimant, tasks, store, in_batches, one_by_one, notifications, intake, attempts)
    transactions.lanes = pool.lanes
    keeper = FigureKeeper(assignment.concurrency, pool.is_draining)
    try:
        with subscribe(keeper):
            async with anyio.create_task_group() as around:
                around.start_soon(pool.obey, link, around)
                around.start_soon(teller.run)
                around.start_soon(progress.run)
                around.start_soon(keeper_of_artifacts.run)
                if tasks.has_transactional:
                    around.start_soon(lender.run)
                around.start_soon(pool.schedules_bell.tell, link)
                if unable := await pool.begin(link, around):
                    await link.send(unable)
                elif not pool.beginning.cancel_called:
                    around.start_soon(keeper.report, link, pool.intake)
                    await (pool.run_suspects() if assignment.solo else pool.run())
                await teller.finish()
                await pool.lifespan.leave(by=pool.deadline)
                await flush_spans(by=pool.deadline)
                around.cancel_scope.cancel()
            if pool.lifespan.error:
                raise pool.lifespan.error
            await link.send(keeper.figures)
            await link.send(Done())
    finally:
        for session in (claims, outcomes, apart, notifications, pieces, lender):
            await session.close()


async def _payload(store: Store, job: Job) -> str | None:
    """Fetches a payload. Raises UnexpectedState if no try will ever succeed: on a broken page, say."""
    return await wait_out(
        lambda: store.payload(job), unless=lambda error: isinstance(error, UnexpectedState) and not error.is_timeout
    )


@dataclass(slots=True)
class Pool:
    """The parts, and what the parts share. deadline: of a drain, on the event loop's clock."""

    assignment: Assignment
    claimant: Claimant
    tasks: Tasks
    claims: Store
    outcomes: Store
    apart: Store
    notifications: Session
    intake: Intake
    attempts: Attempts
    doorbell: Doorbell = field(default_factory=Doorbell)
    outbox: Outbox = field(default_factory=Outbox)
    schedules_bell: SchedulesBell = field(default_factory=SchedulesBell)
    beginning: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    claiming: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    deadline: float = inf

    loads: Loads = field(init=False)
    lanes: Lanes = field(init=False)
    lifespan: Lifespan = field(init=False)

    def __post_init__(self) -> None:
        self.loads = Loads(self.tasks)
        self.lanes = Lanes(
            self.claims,
            self.claimant,
            loads=self.loads,
            intake=self.intake,
            outbox=self.outbox,
            doorbell=self.doorbell,
        )
        self.outcomes.lanes = self.apart.lanes = self.lanes
        self.lifespan = Lifespan(self.tasks.lifespan_of_app, self.tasks.misfit, self._end_without_lifespan)

    def is_draining(self) -> bool:
        return self.deadline < inf

    async def begin(self, link: Link, around: TaskGroup) -> Unable | None:
        """Registers, enters the lifespan, and is ready. Returns why the pool cannot begin, if so."""
        with self.beginning:
            await self.register(around)
            try:
                self.attempts.begin_from(await self.lifespan.enter(around))
            except (TasksError, TasksRaised) as error:
                return Unable(str(error), may_pass=isinstance(error, TasksRaised))
            await link.send(Ready(self.claimant.tasks, self.claimant.queues, self._connections))
        return None

    async def register(self, around: TaskGroup) -> None:
        """Registers the pool's tasks and queues, on the connection for outcomes, which is opened by this.

        If the database objects, the pool runs jobs all the same, and goes on trying.
        """
        try:
            await self._register(unless=is_rejection)
        except DatabaseTrouble as error:
            publish(ChoreFailed("register", str(error)))
            around.start_soon(self._register)

    async def _register(self, unless: Callable[[DatabaseTrouble], bool] = lambda _: False) -> None:
        await wait_out(lambda: self.outcomes.register(self.claimant, self.tasks.needs), unless=unless)
        await wait_out(lambda: self.outcomes.label(self.tasks.pairs), unless=unless)
        if self.tasks.schedules:
            declared = self.tasks.schedules
            await wait_out(lambda: self.outcomes.declare_schedules(self.claimant.supervisor, declared), unless=unless)

    async def run(self) -> None:
        """Claims and runs jobs until `claiming` is cancelled, then runs the claimed jobs to the end."""
        async with anyio.create_task_group() as listening:
            if self._listens:
                others: dict[str, Callable[[str], None]] = {
                    RECALLS: Recalls(self.attempts, self.intake).hear,
                    RULES: self.lanes.let_go,
                    SCHEDULES: self.schedules_bell.hear,
                }
                listener = Listener(self.notifications, self.claims, self.doorbell, self.claimant.queues, others)
                listening.start_soon(listener.run)
            listening.start_soon(self.intake.seats.tell, self.outcomes, self.claimant)
            async with anyio.create_task_group() as finishing:
                finishing.start_soon(finish, self.outcomes, self.apart, self.outbox)
                async with anyio.create_task_group() as working:
                    for _ in range(self.intake.workers):
                        working.start_soon(Worker(self.tasks, self.attempts, self.intake, self.outbox, self.lanes).run)
                    with self.claiming:
                        await self._claimer().run()
                self.outbox.close()
            listening.cancel_scope.cancel()

    async def run_suspects(self) -> None:
        """Runs a solo pool until no suspect is due."""
        with self.claiming:
            await run_suspects(self.claims, self.outcomes, self.claimant, self.tasks, self.attempts, self.intake)

    async def obey(self, link: Link, around: TaskGroup) -> None:
        """Follows the supervisor's orders. When the line ends, the pool kills itself.

        A handler may have closed the line. If the pool released its jobs instead, that handler's job would never be
        charged a crash.
        """
        async for order in link:
            if isinstance(order, RegisterAgain):
                around.start_soon(self._register_again, around)
            elif isinstance(order, Drain):
                publish(Draining(order.seconds))
                self.deadline = anyio.current_time() + order.seconds
                self._claim_no_more()
                await anyio.sleep(order.seconds)
                self.attempts.stop()
                return
        os.kill(os.getpid(), signal.SIGKILL)

    async def _register_again(self, around: TaskGroup) -> None:
        """After the supervisor was declared dead: its tasks and queues were forgotten then."""
        self.doorbell.ring()
        await self.register(around)

    def _claim_no_more(self) -> None:
        """Ends the claiming, and a start that is under way: a drain may be ordered before the pool is ready."""
        self.beginning.cancel()
        self.claiming.cancel()

    def _end_without_lifespan(self) -> None:
        """What handlers share is gone: their jobs are released, at no charge."""
        self._claim_no_more()
        self.attempts.stop()

    def _claimer(self) -> Claimer:
        return Claimer(
            self.claims,
            self.claimant,
            loads=self.loads,
            intake=self.intake,
            outbox=self.outbox,
            doorbell=self.doorbell,
            gate=Gate(self.claims, self.claimant.queues) if self._listens else None,
            poll_interval=self.assignment.poll_interval,
            lanes=self.lanes,
        )

    @property
    def _connections(self) -> int:
        """How many the pool opens at most: among others one for each worker, if a handler may ask for one."""
        lent = self.intake.workers if self.tasks.has_transactional else 0
        return 2 + (self._listens and not self.assignment.solo) + lent

    @property
    def _listens(self) -> bool:
        return self.assignment.wake == "notify"
