"""A supervisor's pools: keeps pools running, and charges or releases the jobs of ended pools."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from pushq.backoff import exponential
from pushq.database.patience import wait_out
from pushq.errors import DatabaseTrouble
from pushq.events import PoolDied, PoolHeldUp, PoolReady, PoolsGoOn, PoolStarted, PoolStopped, publish
from pushq.exporter.figures import ProcessFigures
from pushq.link import Assignment, Figures, Message, Ready, SchedulesChanged, Unable
from pushq.settings import Settings
from pushq.supervisor.farewell import Farewell
from pushq.supervisor.processes import PoolProcess
from pushq.supervisor.schedules import Schedules
from pushq.supervisor.solo import MOST_SLOW, until_slow, vacancies
from pushq.supervisor.store import Store, Survey
from pushq.webhooks import QUEUE

respawn_delay = exponential(timedelta(seconds=1), longest=timedelta(seconds=30))
SETTLED_AFTER = 60.0
"""Seconds of life after which the death of a pool counts as the first again."""
STEADY_AFTER = 5.0
"""Seconds without a pool held up before the log says that pools go on. On a nearly full disk, writes
succeed and fail in turn."""


@dataclass(slots=True)
class Lane:
    """Pools that run the same tasks: those of the user, or the one that delivers webhooks.

    known: the tasks and queues, once a pool was ready.
    """

    processes: int
    delivers: bool = False
    known: Ready = field(default_factory=lambda: Ready((), ()))
    no_solo_before: float = 0.0


class Crew:
    """`--processes` ordinary pools, a pool that delivers webhooks once there are any, and solo pools while suspects
    are due.

    A suspect is a job that has killed two processes.

    `noticed` is called after each message of a pool. schedules: told what pools hear of them.
    """

    def __init__(
        self,
        name: str,
        tasks: str,
        settings: Settings,
        store: Store,
        farewell: Farewell,
        *,
        noticed: Callable[[], None],
        schedules: Schedules,
    ) -> None:
        self._name = name
        self._tasks = tasks
        self._settings = settings
        self._store = store
        self._farewell = farewell
        self._noticed = noticed
        self._schedules = schedules
        self._hearing = set[int]()  # pools that heard notifications when they last told
        self._numbers = count(1)
        self._pools: dict[int, PoolProcess] = {}
        self._past = ProcessFigures()  # counts of ended pools
        self._accountable = set[int]()  # pools that run jobs, or whose jobs are about to be charged or released
        self._ordinary = Lane(settings.processes)
        self._delivering: Lane | None = None  # from the first webhook on
        self._survey_now = anyio.Event()
        self._heard_figures = anyio.Event()
        self._charges = 0
        self._stopping = anyio.Event()
        self.unable: Unable | None = None
        self.released = 0

    async def run(self) -> None:
        """Runs until the last pool has ended: after a drain, or because no pool can begin, for the reason `unable`."""
        async with anyio.create_task_group() as around:
            async with anyio.create_task_group() as pools:
                around.start_soon(self._look_after_jobs, pools)
                around.start_soon(self._tell_of_trouble)
                for _ in range(self._settings.processes):
                    pools.start_soon(self._keep_pool, pools, self._ordinary)
            around.cancel_scope.cancel()

    # Pools ----------------------------------------------------------------------------------------------------

    async def _keep_pool(self, pools: TaskGroup, lane: Lane) -> None:
        """Keeps one pool running. A first death is answered at once, later deaths after a growing delay."""
        deaths = 0
        while not self.is_draining:
            began = anyio.current_time()
            await self._run_pool(pools, lane)
            deaths = 1 if anyio.current_time() - began > SETTLED_AFTER else deaths + 1
            if deaths > 1:
                with anyio.move_on_after(respawn_delay(deaths - 1).total_seconds()):
                    await self._stopping.wait()

    async def _run_pool(self, pools: TaskGroup, lane: Lane, *, solo: bool = False) -> None:
        if self.is_draining:
            return  # a pool that starts after drain() would not be told to drain
        pool = PoolProcess(self._assignment(lane, solo=solo), heard=partial(self._hear, lane))
        self._pools[pool.number] = pool
        self._accountable.add(pool.number)
        how = await pool.run(spawned=lambda: publish(PoolStarted(pool.number, pool.pid, solo, lane.delivers)))
        del self._pools[pool.number]
        self._hearing.discard(pool.number)
        _add_counts(self._past, pool)
        self.released += pool.figures.released
        if pool.unable and not self._may_pass(pool.unable, lane):
            self._give_up(pool.unable)
        elif pool.unable:
            pools.start_soon(self._charge, pool, f"could not begin: {pool.unable.sentence}")
        elif pool.has_ended_as_ordered:
            publish(PoolStopped(pool.number))
            await self._release(pool)
        else:
            pools.start_soon(self._charge, pool, how)

    def _may_pass(self, unable: Unable, lane: Lane) -> bool:
        """Whether to start another pool, as after a death.

        Not before a first pool was ready. Not if the working directory is gone: only a new supervisor gets a directory.
        A pool that delivers webhooks ends no supervisor.
        """
        return lane.delivers or (unable.may_pass and bool(lane.known.tasks) and _has_directory())

    def _assignment(self, lane: Lane, *, solo: bool) -> Assignment:
        settings = self._settings
        concurrency = settings.webhooks if lane.delivers else settings.concurrency
        return Assignment(
            supervisor=self._name,
            pool=next(self._numbers),
            tasks=self._tasks,
            url=settings.url,
            listen_url=settings.listen_url,
            queues=(QUEUE,) if lane.delivers else settings.queues,
            concurrency=1 if solo else concurrency,
            poll_interval=settings.poll_interval,
            wake=settings.wake,
            log_format=settings.log_format,
            log_level=settings.log_level,
            log_errors=settings.log_errors,
            artifact_bytes=settings.artifact_bytes,
            artifacts_per_job=settings.artifacts_per_job,
            artifact_bytes_per_day=settings.artifact_bytes_per_day,
            solo=solo,
            webhook_allow=(settings.webhook_allow or ()) if lane.delivers else None,
        )

    def _hear(self, lane: Lane, pool: PoolProcess, message: Message) -> None:
        match message:
            case Ready(tasks, queues, connections):
                publish(PoolReady(pool.number, len(tasks), queues, connections))
                if not pool.assignment.solo:
                    lane.known = message
                    self._survey_now.set()
            case Figures():
                self._heard_figures.set()
                self._note_hearing(pool.number, hears=bool(message.hears))
                if pool.assignment.solo:
                    self._survey_now.set()
            case SchedulesChanged():
                self._schedules.ring()
        self._noticed()

    def _note_hearing(self, pool: int, *, hears: bool) -> None:
        """What was notified before a pool heard is lost, so schedules are looked at."""
        if not hears:
            self._hearing.discard(pool)
        elif pool not in self._hearing:
            self._hearing.add(pool)
            self._schedules.ring()

    async def _tell_of_trouble(self) -> None:
        """Logs why pools are held up. Anybody may read /readyz, so only the log says why."""
        while True:
            while not self._held_up():
                await self._more_figures()
            began_at = last_at = anyio.current_time()
            while (now := anyio.current_time()) - last_at < STEADY_AFTER:
                for pool in self._held_up():
                    publish(PoolHeldUp(pool.number, pool.figures.trouble or ""))
                    last_at = now
                with anyio.move_on_after(STEADY_AFTER / 2):
                    await self._more_figures()
            publish(PoolsGoOn(last_at - began_at))

    def _held_up(self) -> list[PoolProcess]:
        return [pool for pool in self._pools.values() if pool.figures.trouble]

    async def _more_figures(self) -> None:
        await self._heard_figures.wait()
        self._heard_figures = anyio.Event()

    # Jobs of pools --------------------------------------------------------------------------------------------

    async def _charge(self, pool: PoolProcess, how: str) -> None:
        """Charges a crash to the jobs that were running. The jobs are due again at once."""
        with self._farewell.in_time():
            taken = await wait_out(lambda: self._store.requeue([self._name], pool=pool.number, crashed=True))
            self._accountable.discard(pool.number)
            requeued, failed = (sum(job.status == status for job in taken) for status in ("queued", "failed"))
            tasks = tuple(name for name, _ in Counter(job.task for job in taken).most_common(5))
            publish(PoolDied(pool.number, how, requeued, failed, tasks))
            if taken:
                self._charges += 1
                for lane in self._lanes:
                    lane.no_solo_before = 0.0
            self._survey_now.set()
            return
        publish(PoolDied(pool.number, how, 0, 0))

    async def _release(self, pool: PoolProcess) -> None:
        """Releases the jobs that a stopped pool still held: due again at once, without a charge."""
        self._accountable.discard(pool.number)
        with self._farewell.in_time(), suppress(DatabaseTrouble):
            self.released += len(await self._store.requeue([self._name], pool=pool.number, crashed=False))
        self._survey_now.set()

    async def _look_after_jobs(self, pools: TaskGroup) -> None:
        """Releases strays and starts solo pools, at every sweep interval and when a pool has begun or ended."""
        while True:
            self._survey_now = anyio.Event()
            surveys = [(lane, await wait_out(partial(self._survey, lane))) for lane in self._lanes]
            _, found = surveys[0]
            self._schedules.note_survey(has_schedules=found.has_schedules)
            with suppress(DatabaseTrouble):
                await self._release_strays(found)
            if found.has_webhooks:
                self._begin_to_deliver(pools)
            for lane, of_lane in surveys:
                self._start_solo_pools(lane, of_lane, pools)
            with anyio.move_on_after(min(self._until_next_survey(lane, of_lane) for lane, of_lane in surveys)):
                await self._survey_now.wait()

    async def _survey(self, lane: Lane) -> Survey:
        most = lane.processes + MOST_SLOW
        return await self._store.survey(self._name, lane.known.queues, lane.known.tasks, most)

    def _begin_to_deliver(self, pools: TaskGroup) -> None:
        """Starts the pool that delivers webhooks, once for the life of the supervisor."""
        if self._delivering is None and self._settings.webhooks and not self.is_draining:
            self._delivering = Lane(1, delivers=True)
            pools.start_soon(self._keep_pool, pools, self._delivering)

    async def _release_strays(self, found: Survey) -> None:
        """Releases running jobs of pools that have ended.

        A claim may commit after the jobs of its pool were charged, and the charge skips locked rows.
        """
        for pool in found.pools:
            if pool not in self._accountable:
                await self._store.requeue([self._name], pool=pool, crashed=False)

    def _start_solo_pools(self, lane: Lane, found: Survey, pools: TaskGroup) -> None:
        if not found.suspects:
            lane.no_solo_before = 0.0
        if self.is_draining or anyio.current_time() < lane.no_solo_before:
            return
        idle = sum(not pool.figures.busy for pool in self._solo_pools(lane))  # each is about to claim a suspect
        for _ in range(min(found.suspects - idle, vacancies(self._ages_of_solo_pools(lane), lane.processes))):
            pools.start_soon(self._run_solo_pool, pools, lane)

    async def _run_solo_pool(self, pools: TaskGroup, lane: Lane) -> None:
        """Runs one solo pool. If no crash was charged meanwhile, the next solo pool waits for a sweep interval.

        Without the wait, a solo pool that cannot begin, or cannot claim the suspect, would be replaced at once.
        """
        charges = self._charges
        await self._run_pool(pools, lane, solo=True)
        if self._charges == charges:
            lane.no_solo_before = anyio.current_time() + self._settings.sweep_interval
        self._survey_now.set()

    def _until_next_survey(self, lane: Lane, found: Survey) -> float:
        due_in = math.inf if found.suspect_due_in is None else found.suspect_due_in
        slow_in = until_slow(self._ages_of_solo_pools(lane)) if found.suspects else math.inf
        return min(self._settings.sweep_interval, due_in, slow_in)

    @property
    def _lanes(self) -> list[Lane]:
        return [self._ordinary, self._delivering] if self._delivering else [self._ordinary]

    def _solo_pools(self, lane: Lane) -> list[PoolProcess]:
        pools = [pool for pool in self._pools.values() if pool.assignment.solo]
        return [pool for pool in pools if pool.assignment.delivers == lane.delivers]

    def _ages_of_solo_pools(self, lane: Lane) -> list[float]:
        now = anyio.current_time()
        return [now - pool.began for pool in self._solo_pools(lane)]

    # Orders ---------------------------------------------------------------------------------------------------

    @property
    def is_draining(self) -> bool:
        return self._stopping.is_set()

    async def drain(self, grace: float) -> None:
        """Tells every pool to claim no more, and to stop its jobs after `grace` seconds."""
        self._stopping.set()
        for pool in list(self._pools.values()):
            await pool.drain(grace)

    async def show(self) -> None:
        """Tells every pool to log what the workers are doing."""
        async with anyio.create_task_group() as asking:
            for pool in list(self._pools.values()):
                asking.start_soon(pool.show)

    def kill(self) -> None:
        for pool in self._pools.values():
            pool.kill()

    async def register_again(self) -> None:
        """Tells every pool to register again, and to look for jobs."""
        for pool in list(self._pools.values()):
            await pool.register_again()

    def _give_up(self, unable: Unable) -> None:
        self.unable = unable
        self._stopping.set()
        self._farewell.be_gone_soon()
        self.kill()

    # What is shown --------------------------------------------------------------------------------------------

    @property
    def ordinary_pools(self) -> list[PoolProcess]:
        return [pool for pool in self._pools.values() if not pool.assignment.solo and not pool.assignment.delivers]

    @property
    def hears(self) -> bool:
        """Whether any pool hears notifications."""
        return bool(self._hearing)

    def has(self, pid: int) -> bool:
        return any(pool.pid == pid for pool in self._pools.values())

    def figures(self) -> ProcessFigures:
        past = self._past
        figures = ProcessFigures(wakeups=dict(past.wakeups), notifications=past.notifications)
        for pool in self._pools.values():
            figures.pools += not pool.assignment.solo
            figures.busy += pool.figures.busy
            figures.workers += pool.figures.workers
            figures.listeners_up += bool(pool.figures.hears)
            _add_counts(figures, pool)
        return figures


def _has_directory() -> bool:
    try:
        Path.cwd()
    except OSError:
        return False
    return True


def _add_counts(figures: ProcessFigures, pool: PoolProcess) -> None:
    figures.notifications += pool.figures.notifications
    for source, wakeups in pool.figures.wakeups.items():
        figures.wakeups[source] = figures.wakeups.get(source, 0) + wakeups
