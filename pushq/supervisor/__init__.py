"""The parent of `pushq supervise`: starts, watches and stops its pools, gives signs of life, sweeps, serves /metrics.

It never imports a handler, so that nothing a handler does, blocking the loop or dying with the process, can stop the
heartbeat, hide the metrics, or leave a job behind.
"""

from __future__ import annotations

import math
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count

import anyio
from anyio.abc import TaskGroup

from pushq.backoff import exponential
from pushq.database.migrate import check_schema
from pushq.database.patience import wait_out
from pushq.database.session import Session
from pushq.database.store import Store, Taken
from pushq.errors import DatabaseAway, DatabaseRefused, PushqError, TasksError
from pushq.events import (
    Draining,
    PoolDied,
    PoolReady,
    PoolStarted,
    PoolStopped,
    SupervisorStarted,
    SupervisorStopped,
    publish,
)
from pushq.exporter.http import application, serve
from pushq.exporter.metrics import Exposition, ProcessFigures
from pushq.pool.link import Assignment
from pushq.settings import Settings
from pushq.supervisor.heartbeat import Heartbeat, new_name
from pushq.supervisor.orphans import bury_orphans
from pushq.supervisor.processes import PoolProcess
from pushq.supervisor.systemd import feed_watchdog, tell_systemd
from pushq.sweeper import Sweeper

SIGNALS = (signal.SIGTERM, signal.SIGINT)
KILLED_AFTER = 0.8
"""Seconds that a pool has to write its last outcomes, after the deadline of its jobs."""
LAST_WORDS = 1.0
"""Seconds for the supervisor's own last statements, all together: it is gone within grace + 3 seconds whatever the
database does."""

LOCK_WAIT = "1s"
"""For which a chore of the sweeper waits where somebody holds a lock: it is tried again soon; others queue behind."""

respawn_delay = exponential(timedelta(seconds=1), longest=timedelta(seconds=30))
SETTLED_AFTER = 60.0
"""Seconds after which a pool's death counts as its first again."""


class Supervisor:
    def __init__(self, settings: Settings, tasks: str, listening: socket.socket) -> None:
        self._settings = settings
        self._tasks = tasks
        self._listening = listening
        self.name = new_name()
        self._pulse = Session(settings.url, f"pushq supervisor {self.name}: heartbeat", deadline=5.0)
        self._upkeep = Session(
            settings.url, f"pushq supervisor {self.name}: sweeper", deadline=30.0, settings={"lock_timeout": LOCK_WAIT}
        )
        self._store = Store(self._pulse)
        self._heartbeat = Heartbeat(
            self._store,
            self.name,
            interval=settings.heartbeat_interval,
            lease=settings.lease,
            revived=self._tell_pools_to_look,
        )
        self._numbers = count(1)
        self._pools: dict[int, PoolProcess] = {}
        self._past = ProcessFigures()  # what pools that have ended had counted
        self._accountable = set[int]()  # pools that run their jobs, or whose jobs are about to be taken from them
        self._is_draining = False
        self._stopping = anyio.Event()
        self._unable: str | None = None
        self._released = 0
        self._gone_by = math.inf
        self._last_words = set[anyio.CancelScope]()
        self._suspected = anyio.Event()
        self._announced: set[int] = set()
        self._told_ready = False

    async def run(self, signals: AsyncIterator[signal.Signals]) -> None:
        """Runs until the first of SIGNALS, and drains.

        Raises TasksError when the pools cannot begin, SchemaError when the database is not migrated, and DatabaseAway
        or DatabaseRefused when there is none to begin with.
        """
        sweeper = Sweeper(
            Store(self._upkeep),
            retention=self._settings.retention,
            takes_signs_of_life=lambda: self._heartbeat.trouble is None,
        )
        exposition = Exposition(self._store, self._figures)
        web = application(exposition, self._why_not_ready, self._token, self._listening)
        if await self._begin(signals):
            async with anyio.create_task_group() as around:
                around.start_soon(self._heartbeat.run)
                around.start_soon(feed_watchdog, self._settings.heartbeat_interval)
                around.start_soon(sweeper.run, self._settings.sweep_interval)
                around.start_soon(self._release_what_nobody_runs)
                around.start_soon(bury_orphans, self._is_pool)
                around.start_soon(serve, self._listening, web)
                async with anyio.create_task_group() as pools:
                    around.start_soon(self._obey, signals, around)
                    around.start_soon(self._watch_for_suspects, pools)
                    for _ in range(self._settings.processes):
                        pools.start_soon(self._keep_pool, pools)
                around.cancel_scope.cancel()
        await self._say_goodbye()
        publish(SupervisorStopped(self.name, self._released))
        if self._unable:
            raise TasksError(self._unable)

    async def _begin(self, signals: AsyncIterator[signal.Signals]) -> bool:
        """Gives the first sign of life. False: a signal came before the database had answered, and there is no more.

        Nothing is awaited before signals are received: a Ctrl-C that cancels whatever is under way may be swallowed.
        """
        fault: PushqError | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._give_up_at_signal, signals, group.cancel_scope)
            try:
                await check_schema(self._settings.url)
                await self._heartbeat.begin()
            except PushqError as error:
                fault = error  # raised out of the group, which would wrap it
            group.cancel_scope.cancel()
        if fault:
            raise fault
        if self._stopping.is_set():
            return False
        port = self._listening.getsockname()[1]
        publish(SupervisorStarted(self.name, self._settings.processes, self._settings.concurrency, port))
        return True

    async def _give_up_at_signal(self, signals: AsyncIterator[signal.Signals], scope: anyio.CancelScope) -> None:
        await anext(signals)
        self._stopping.set()
        scope.cancel()

    # Pools ----------------------------------------------------------------------------------------------------

    async def _keep_pool(self, pools: TaskGroup) -> None:
        """Keeps one pool running: its first death is answered at once, later ones after a growing while."""
        deaths = 0
        while not self._is_draining:
            began = anyio.current_time()
            await self._run_pool(pools)
            deaths = 1 if anyio.current_time() - began > SETTLED_AFTER else deaths + 1
            if deaths > 1:
                with anyio.move_on_after(respawn_delay(deaths - 1).total_seconds()):
                    await self._stopping.wait()

    async def _run_pool(self, pools: TaskGroup, *, solo: bool = False) -> None:
        if self._is_draining:
            return  # nobody would tell it
        pool = PoolProcess(self._assignment(solo=solo), changed=self._notice)
        self._pools[pool.number] = pool
        self._accountable.add(pool.number)
        how = await pool.run(spawned=lambda: publish(PoolStarted(pool.number, pool.pid, solo)))
        del self._pools[pool.number]
        self._remember(pool)
        if pool.unable:
            await self._give_up(pool.unable)
        elif pool.was_killed or pool.is_done:
            publish(PoolStopped(pool.number))
            await self._release(pool)
        else:
            pools.start_soon(self._charge, pool, how)

    def _assignment(self, *, solo: bool) -> Assignment:
        settings = self._settings
        return Assignment(
            supervisor=self.name,
            pool=next(self._numbers),
            tasks=self._tasks,
            url=settings.url,
            listen_url=settings.listen_url,
            queues=settings.queues,
            concurrency=1 if solo else settings.concurrency,
            poll_interval=settings.poll_interval,
            wake=settings.wake,
            log_format=settings.log_format,
            log_level=settings.log_level,
            log_errors=settings.log_errors,
            solo=solo,
        )

    async def _charge(self, pool: PoolProcess, how: str) -> None:
        """A crash is charged to the jobs that were running. They are due again at once."""
        with self._in_time():
            taken = await wait_out(lambda: self._store.requeue([self.name], pool=pool.number, crashed=True))
            self._accountable.discard(pool.number)
            failed = sum(job.status == "failed" for job in taken)
            publish(PoolDied(pool.number, how, len(taken) - failed, failed))
            if any(_is_suspect(job) for job in taken):
                self._suspected.set()
            return
        publish(PoolDied(pool.number, how, 0, 0))

    async def _release(self, pool: PoolProcess) -> None:
        """What a pool still held when it was stopped runs again elsewhere, at no charge."""
        self._accountable.discard(pool.number)
        with self._in_time(), suppress(DatabaseAway, DatabaseRefused):
            taken = await self._store.requeue([self.name], pool=pool.number, crashed=False)
            self._released += len(taken)
            if any(_is_suspect(job) for job in taken):
                self._suspected.set()

    async def _release_what_nobody_runs(self) -> None:
        """A claim may be carried out after its pool's jobs were taken away, and a row may have been locked then."""
        store = Store(self._upkeep)
        while True:
            await anyio.sleep(self._settings.sweep_interval)
            with suppress(DatabaseAway, DatabaseRefused):
                for pool in await store.pools_with_jobs(self.name):
                    if pool not in self._accountable:
                        taken = await store.requeue([self.name], pool=pool, crashed=False)
                        if any(_is_suspect(job) for job in taken):
                            self._suspected.set()

    async def _watch_for_suspects(self, pools: TaskGroup) -> None:
        """Runs jobs that have killed two processes, one at a time, in a pool that runs nothing else."""
        while True:
            self._suspected = anyio.Event()
            if not self._is_draining and await wait_out(self._suspects_are_due):
                ended = anyio.Event()
                pools.start_soon(self._run_solo_pool, pools, ended)
                await ended.wait()
            # Those of our own pools are known at once; others' have been through a sweep.
            with anyio.move_on_after(4 * self._settings.sweep_interval):
                await self._suspected.wait()

    async def _run_solo_pool(self, pools: TaskGroup, ended: anyio.Event) -> None:
        await self._run_pool(pools, solo=True)
        ended.set()

    async def _suspects_are_due(self) -> bool:
        ready = [pool.ready for pool in self._pools.values() if pool.ready]
        return bool(ready) and await self._store.suspects_are_due(ready[0].queues, ready[0].tasks)

    def _is_pool(self, pid: int) -> bool:
        return any(pool.pid == pid for pool in self._pools.values())

    async def _tell_pools_to_look(self) -> None:
        for pool in list(self._pools.values()):
            await pool.look()

    # Stopping -------------------------------------------------------------------------------------------------

    async def _obey(self, signals: AsyncIterator[signal.Signals], around: TaskGroup) -> None:
        """The first signal drains; the second stops at once."""
        await anext(signals)
        around.start_soon(self._drain)
        await anext(signals)
        self._kill_pools()

    async def _drain(self) -> None:
        grace = self._settings.shutdown_timeout
        self._is_draining = True
        self._be_gone_by(anyio.current_time() + grace + KILLED_AFTER + LAST_WORDS)
        self._stopping.set()
        publish(Draining(grace))
        tell_systemd(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round((grace + 5) * 1_000_000)}")
        for pool in list(self._pools.values()):
            await pool.drain(grace)
        await anyio.sleep(grace + KILLED_AFTER)
        self._kill_pools()

    def _kill_pools(self) -> None:
        self._be_gone_by(anyio.current_time() + LAST_WORDS)
        for pool in self._pools.values():
            pool.kill()

    async def _give_up(self, sentence: str) -> None:
        self._unable = sentence
        self._is_draining = True
        self._stopping.set()
        self._kill_pools()

    async def _say_goodbye(self) -> None:
        """Releases what is left, if anything, and gives the lease back."""
        self._be_gone_by(anyio.current_time() + LAST_WORDS)
        with self._in_time(), suppress(DatabaseAway, DatabaseRefused):
            self._released += len(await self._store.requeue([self.name], crashed=False))
            await self._store.goodbye(self.name)
        for session in (self._pulse, self._upkeep):
            session.discard()

    def _be_gone_by(self, instant: float) -> None:
        """What is being said is cut short then, too: it may have begun long before anybody told us to stop."""
        self._gone_by = min(self._gone_by, instant)
        for scope in self._last_words:
            scope.deadline = self._gone_by

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """What the database does not answer before we have to be gone is left to somebody's sweeper."""
        with anyio.CancelScope(deadline=self._gone_by) as scope:
            self._last_words.add(scope)
            try:
                yield
            finally:
                self._last_words.discard(scope)

    # What it shows --------------------------------------------------------------------------------------------

    @property
    def _token(self) -> str | None:
        return self._settings.http_token.get_secret_value() if self._settings.http_token else None

    def _notice(self) -> None:
        """A pool has said something."""
        for pool in self._pools.values():
            if pool.ready and pool.number not in self._announced:
                self._announced.add(pool.number)
                publish(PoolReady(pool.number, len(pool.ready.tasks), pool.ready.queues))
        if not self._told_ready and self._why_not_ready() is None:
            self._told_ready = True
            tell_systemd("READY=1\nSTATUS=claiming jobs")

    def _why_not_ready(self) -> str | None:
        if self._is_draining:
            return "draining"
        ordinary = [pool for pool in self._pools.values() if not pool.assignment.solo]
        if len(ordinary) < self._settings.processes:
            return "a pool has died and is not up again"
        for pool in ordinary:
            if pool.figures.trouble:
                return pool.figures.trouble
            if not pool.figures.has_claimed and not pool.figures.busy:
                return f"pool {pool.number} has not claimed yet"
            if self._settings.wake == "notify" and not pool.figures.hears and not self._only_polls(pool):
                return f"pool {pool.number} does not hear notifications"
        return self._heartbeat.trouble

    def _only_polls(self, pool: PoolProcess) -> bool:
        """Whether a pool has found that it hears nothing, and polls instead."""
        return pool.figures.hears is False and self._settings.poll_interval > 0

    def _figures(self) -> ProcessFigures:
        past = self._past
        figures = ProcessFigures(wakeups=dict(past.wakeups), notifications=past.notifications)
        for pool in self._pools.values():
            figures.busy += pool.figures.busy
            figures.workers += pool.figures.workers
            figures.listeners_up += bool(pool.figures.hears)
            _add_counts(figures, pool)
        return figures

    def _remember(self, pool: PoolProcess) -> None:
        _add_counts(self._past, pool)
        self._announced.discard(pool.number)


def _add_counts(figures: ProcessFigures, pool: PoolProcess) -> None:
    figures.notifications += pool.figures.notifications
    for source, wakeups in pool.figures.wakeups.items():
        figures.wakeups[source] = figures.wakeups.get(source, 0) + wakeups


def _is_suspect(job: Taken) -> bool:
    return job.status == "queued" and job.crashes >= 2
