"""The parent of `pushq supervise`: starts, watches and stops pools, renews the lease, sweeps, serves /metrics.

A supervisor never imports a handler. So a handler that blocks its loop or kills its process cannot stop the heartbeat,
hide the metrics, or leave a job behind.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import anyio
from anyio.abc import TaskGroup

from pushq.database.migrate import check_schema
from pushq.database.session import Session
from pushq.errors import DatabaseTrouble, PushqError, TasksError, TasksRaised
from pushq.events import Draining, SupervisorStarted, SupervisorStopped, publish
from pushq.exporter.figures import ProcessFigures
from pushq.exporter.port import serve_on_demand
from pushq.settings import Settings
from pushq.supervisor.crew import Crew
from pushq.supervisor.farewell import LAST_WORDS, Farewell
from pushq.supervisor.heartbeat import Heartbeat, new_name
from pushq.supervisor.orphans import reap_orphans
from pushq.supervisor.readiness import Readiness
from pushq.supervisor.schedules import SETTINGS as SCHEDULES
from pushq.supervisor.schedules import Schedules
from pushq.supervisor.signals import DRAIN, SHOW, STOP
from pushq.supervisor.store import Store
from pushq.supervisor.systemd import feed_watchdog, tell_systemd
from pushq.sweeper import Sweeper

KILLED_AFTER = 0.8
"""Seconds from the deadline of a pool's jobs to the kill: time for the last outcomes."""

LOCK_WAIT = "1s"
"""How long a chore of the sweeper waits for a lock: not long, since other sessions queue behind the waiting chore."""


class Supervisor:
    """Joins the parts, and stops them in order: first the pools, then the last statements to the database."""

    def __init__(self, settings: Settings, tasks: str, listening: socket.socket) -> None:
        self._settings = settings
        self._listening = listening
        self.name = new_name()
        self._heartbeat_session = Session(settings.url, f"pushq supervisor {self.name}: heartbeat", deadline=5.0)
        self._sweeper_session = Session(
            settings.url, f"pushq supervisor {self.name}: sweeper", deadline=30.0, settings={"lock_timeout": LOCK_WAIT}
        )
        self._jobs_session = Session(settings.url, f"pushq supervisor {self.name}: jobs", deadline=5.0)
        self._schedules_session = Session(
            settings.url, f"pushq supervisor {self.name}: schedules", deadline=5.0, settings=SCHEDULES
        )
        self._store = Store(self._jobs_session)
        self._is_told_to_stop = False  # during the start
        self._farewell = Farewell()
        self._schedules = Schedules(
            self._store,
            Store(self._schedules_session),
            self._schedules_session,
            poll_interval=settings.poll_interval,
            hears=self._hears if settings.wake == "notify" else None,
        )
        self._crew = Crew(
            self.name,
            tasks,
            settings,
            self._store,
            self._farewell,
            noticed=self._tell_when_ready,
            schedules=self._schedules,
        )
        self._heartbeat = Heartbeat(
            Store(self._heartbeat_session),  # heartbeats alone: statements on one session wait for one another
            self.name,
            interval=settings.heartbeat_interval,
            lease=settings.lease,
            workers=settings.processes * settings.concurrency,
            revived=self._crew.register_again,
        )
        self._readiness = Readiness(self._crew, settings, takes_heartbeats=self._takes_heartbeats)
        self._sweeper = Sweeper(
            Store(self._sweeper_session), retention=settings.retention, takes_heartbeats=self._takes_heartbeats
        )

    async def run(self, signals: AsyncIterator[signal.Signals]) -> None:
        """Runs until a signal asks for a drain. signals: received from the list that obeyed() returns.

        Raises TasksError or TasksRaised when the pools cannot begin, SchemaError when the database is not migrated,
        DatabaseAway or DatabaseRefused when the database is away at the start.
        """
        if await self._begin(signals):
            async with anyio.create_task_group() as around:
                around.start_soon(self._heartbeat.run)
                around.start_soon(feed_watchdog, self._settings.heartbeat_interval)
                around.start_soon(self._sweeper.run, self._settings.sweep_interval)
                around.start_soon(self._schedules.run)
                around.start_soon(reap_orphans, self._crew.has)
                around.start_soon(self._serve)
                around.start_soon(self._obey, signals, around)
                await self._crew.run()
                around.cancel_scope.cancel()
        await self._say_goodbye()
        publish(SupervisorStopped(self.name, self._crew.released))
        if unable := self._crew.unable:
            raise (TasksRaised if unable.may_pass else TasksError)(unable.sentence)

    # Beginning ------------------------------------------------------------------------------------------------

    async def _begin(self, signals: AsyncIterator[signal.Signals]) -> bool:
        """Sends the first heartbeat. Returns False if a signal came before the database answered.

        Signals are received from the first await on. asyncio's own Ctrl-C cancels an await, and the cancellation might
        be swallowed.
        """
        fault: PushqError | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._give_up_at_signal, signals, group.cancel_scope)
            try:
                await check_schema(self._settings.url)
                await self._heartbeat.begin()
            except PushqError as error:
                fault = error  # raised outside the group: a group would wrap the error
            group.cancel_scope.cancel()
        if fault:
            raise fault
        if self._is_told_to_stop:
            return False
        port = self._listening.getsockname()[1]
        publish(SupervisorStarted(self.name, self._settings.processes, self._settings.concurrency, port))
        return True

    async def _give_up_at_signal(self, signals: AsyncIterator[signal.Signals], scope: anyio.CancelScope) -> None:
        async for number in signals:
            if number in (*STOP, *DRAIN):
                self._is_told_to_stop = True
                scope.cancel()

    # Stopping -------------------------------------------------------------------------------------------------

    async def _obey(self, signals: AsyncIterator[signal.Signals], around: TaskGroup) -> None:
        is_draining = False
        async for number in signals:
            if number == SHOW:
                around.start_soon(self._crew.show)
            elif number in STOP and is_draining:
                self._stop_at_once()
            elif number in (*STOP, *DRAIN) and not is_draining:
                is_draining = True
                around.start_soon(self._drain)

    async def _drain(self) -> None:
        grace = self._settings.shutdown_timeout
        self._farewell.be_gone_within(grace + KILLED_AFTER + LAST_WORDS)
        publish(Draining(grace))
        tell_systemd(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round((grace + 5) * 1_000_000)}")
        await self._crew.drain(grace)
        await anyio.sleep(grace + KILLED_AFTER)
        self._stop_at_once()

    def _stop_at_once(self) -> None:
        self._farewell.be_gone_soon()
        self._crew.kill()

    async def _say_goodbye(self) -> None:
        """Releases any jobs left, and gives the lease back."""
        self._farewell.be_gone_soon()
        with self._farewell.in_time(), suppress(DatabaseTrouble):
            self._crew.released += len(await self._store.requeue([self.name], crashed=False))
            await self._store.goodbye(self.name)
        for session in (self._heartbeat_session, self._jobs_session, self._sweeper_session, self._schedules_session):
            session.discard()

    # Asked by the parts ----------------------------------------------------------------------------------------

    def _tell_when_ready(self) -> None:
        self._readiness.tell()

    def _hears(self) -> bool:
        return self._crew.hears

    def _takes_heartbeats(self) -> bool:
        return self._heartbeat.trouble is None

    def _figures(self) -> ProcessFigures:
        figures = self._crew.figures()
        figures.purged = self._sweeper.purged
        return figures

    async def _serve(self) -> None:
        token = self._settings.http_token
        await serve_on_demand(
            self._listening,
            url=self._settings.url,
            name=f"pushq supervisor {self.name}: scrapes",
            figures=self._figures,
            not_ready=self._readiness.why_not,
            token=token.get_secret_value() if token else None,
        )
