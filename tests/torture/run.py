"""One run: joins the hosts, the clients and the faults on a database, and gathers what the checker looks at.

Theory of operation. Three hosts work on one database, each by way of a proxy; clients insert and wait, and guests work,
by way of another. The faults of the schedule befall them meanwhile, and overlap. When all are over everything is
healed, and what is left must be run within SETTLES_WITHIN. A calm follows, in which those that wait must be told at
once, and whatever webhooks have to tell must arrive. Then the hosts are stopped, and the witnesses are asked: the logs
of clients, waiters, guests and the receiver of webhooks, the handlers' log, the database's own, by logical decoding,
pushq's events, and the artifacts that are there.

    clients ─proxy→ PostgreSQL ←proxies─ hosts
       │               │ decoding         │ handlers' log
       └───calls──→ History ←─────────────┘   → checker
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import anyio

from pushq.database.migrate import migrate
from pushq.local.server import EmbeddedServer
from tests.support.planting import spoil
from tests.support.waiting import eventually
from tests.torture.calm import have_calm
from tests.torture.checker import check
from tests.torture.clients import Clients
from tests.torture.connections import AWAY, connected
from tests.torture.decoding import DELIVERY, Decoder, deliveries_of
from tests.torture.faults import GONE_WITHIN, Faults
from tests.torture.guests import Guests
from tests.torture.history import (
    Change,
    Committed,
    Completion,
    Event,
    File,
    History,
    Leftovers,
    Registration,
    Rule,
    Settled,
    Violation,
    Webhook,
)
from tests.torture.hosts import Clock, Host, processes_of
from tests.torture.looks import Looks
from tests.torture.needs import OF_A_KEY, STEADY
from tests.torture.neighbours import FOREIGN
from tests.torture.planted import IN_DATABASE
from tests.torture.proxy import Proxy
from tests.torture.receiver import Receiver
from tests.torture.ruler import Ruler
from tests.torture.runs import RunsLog
from tests.torture.scenes import Scenes
from tests.torture.schedule import (
    ALL_EVENTS_OF,
    ALLOWED,
    FAILURES_ALLOWED,
    HOSTS,
    LAST_JOBS,
    LAST_SECONDS,
    LEASE,
    TOLD,
    Fault,
    Schedule,
)
from tests.torture.waiters import Waiters

CRASHES_ALLOWED = 3
DELIVERED_WITHIN = 40.0
"""Seconds within which the deliveries of webhooks are over, whose receiver is kind by then."""
SETTLES_WITHIN = 60.0
"""Seconds after the last fault within which everything must have run: two leases, two sweeps, and what a pool that has
died often waits before it is started again."""
CALM_WITHIN = 20.0
"""Seconds within which the calm after it is over."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What a run came to. settled_after: seconds after the last fault, None: not in time. faults: those that bit.

    toothless: kinds of faults that did not bite: then the run has shown nothing, and is void.
    """

    seed: int
    planted: str | None
    jobs: int
    seconds: float
    settled_after: float | None
    faults: dict[str, int]
    toothless: list[str]
    violations: list[Violation]
    statuses: dict[str, int]
    runs: int
    waits: int
    guests: int
    events: int
    files: int
    deliveries: int
    rules: int
    looks: int

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    def __str__(self) -> str:
        settled = "did not settle" if self.settled_after is None else f"settled after {self.settled_after:.1f} s"
        verdict = "void: did not bite: " + ", ".join(self.toothless) if self.toothless else "0 violations"
        if self.violations:
            verdict = f"{len(self.violations)} violations"
        ended = ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items()))
        faults = sum(self.faults.values())
        others = f"{self.guests} jobs taken by guests; {self.waits} waits; {self.events} events"
        others += (
            f"; {self.files} files; {self.deliveries} deliveries; {self.rules} changes of rules; {self.looks} looks"
        )
        head = (
            f"seed {self.seed}: {verdict}; {self.runs} runs of handlers; {others}; {ended}; {faults} faults; {settled}"
        )
        lines = [head, *(f"  {violation.code} {violation.what}" for violation in self.violations[:20])]
        return "\n".join(lines)


_BACKENDS = "pg_stat_activity where application_name ~ '^pushq (?!waits)'"  # those outlive the last wait
_LEFT = "pushq.jobs_unfinished where queue <> 'pushq.webhooks'"
_UNDELIVERED = "pushq.jobs_unfinished where queue = 'pushq.webhooks'"
_HURRY = """
    update pushq.jobs_unfinished set run_at = now()
    where queue = 'pushq.webhooks' and status = 'queued' and run_at > now()"""
_EVENTS = """
    select job_id, kind, was, became, attempt, tx & 4294967295
    from pushq.job_events
    where job_id is not null
    order by id"""
_FILES = """
    select
        job_id, attempt, token, name, artifact.size || ' ' || encode(artifact.sha256, 'hex'),
        length(its.bytes) || ' ' || encode(sha256(its.bytes), 'hex')
    from pushq.artifacts as artifact
    cross join lateral (
        select coalesce(string_agg(piece.data, '' order by piece.place), '') as bytes
        from pushq.artifact_pieces as piece
        where piece.artifact_id = artifact.id
    ) as its"""
_PIECES_OF_NOBODY = """
    pushq.artifact_pieces as piece
    where not exists (select from pushq.artifacts as artifact where artifact.id = piece.artifact_id)"""


async def run(
    server: EmbeddedServer, schedule: Schedule, directory: Path, planted: str | None, clock: Clock | None
) -> Ended:
    """Plays a schedule in a database of its own. directory: where the logs go."""
    began_at, database = time.monotonic(), f"torture_{schedule.seed}"
    async with _database(server, database, planted) as url:
        stage = Stage(server, database, url, schedule, directory, planted, clock)
        async with stage.set():
            await stage.play()
        return stage.ended(time.monotonic() - began_at)


@asynccontextmanager
async def _database(server: EmbeddedServer, name: str, planted: str | None) -> AsyncIterator[str]:
    await _administrate(server, f"drop database if exists {name} with (force)", f"create database {name}")
    await migrate(server.url(name))
    async with connected(server.url(name)) as connection:
        for function, sound, by in IN_DATABASE.get(planted or "", ()):
            await spoil(connection, function, sound, by)
        await connection.execute("select pushq.keep_all_events($1)", ALL_EVENTS_OF)
    yield server.url(name)
    drop_slots = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = '{name}'"
    await _administrate(server, drop_slots.format(name=name), f"drop database if exists {name} with (force)")


async def _administrate(server: EmbeddedServer, *statements: str) -> None:
    async with connected(server.url()) as connection:
        for statement in statements:
            await connection.execute(statement)


class Stage:
    """What takes part in one run."""

    def __init__(
        self,
        server: EmbeddedServer,
        database: str,
        url: str,
        schedule: Schedule,
        directory: Path,
        planted: str | None,
        clock: Clock | None,
    ) -> None:
        socket = server.directory / ".s.PGSQL.5432"
        self._url = url
        self._schedule = schedule
        self._planted = planted
        self._runs = RunsLog(directory / "runs.jsonl")
        clocks = [None] * (HOSTS - 1) + [clock]
        self._hosts = [
            Host(number, directory, self._runs.file, Proxy(socket), database, planted, its_clock)
            for number, its_clock in enumerate(clocks)
        ]
        self._way_in = Proxy(socket)
        self._faults = Faults(server, database, self._hosts, self._way_in, self._runs)
        self._psql = str(server.bin_directory / "psql")
        self._database = database
        self._waiters: Waiters
        self._clients: Clients
        self._guests: Guests
        self._decoder: Decoder
        self._scenes: Scenes
        self._ruler = Ruler(url, schedule.seed)
        self._looks = Looks(url, self._ruler)
        self._receiver = Receiver(schedule.seed)
        self._webhooks: tuple[Webhook, ...] = ()
        self._committed: list[Committed] = []
        self._delivered: list[Change] = []
        self._settled_after: float | None = None
        self._unsettled = 0
        self._calm_from: float | None = None
        self._events: tuple[Event, ...] = ()
        self._files: tuple[File, ...] | None = None
        self._leftovers = Leftovers()

    @asynccontextmanager
    async def set(self) -> AsyncIterator[None]:
        """The proxies serve and the hosts are kept up."""
        async with AsyncExitStack() as stack:
            for proxy in (self._way_in, *(host.proxy for host in self._hosts)):
                await stack.enter_async_context(proxy.serving())
            await stack.enter_async_context(self._receiver.serving())
            way_in = f"postgresql://pushq@127.0.0.1:{self._way_in.port}/{self._database}?sslmode=disable"
            schedule = self._schedule
            self._waiters = Waiters([self._url, way_in])
            self._clients = Clients(
                way_in, self._psql, schedule.seed, schedule.jobs, self._waiters, f"{self._receiver.base}/url"
            )
            self._guests = Guests(way_in, schedule.seed)
            await self._receiver.subscribe(self._url)
            self._decoder = await Decoder.watching(self._url)
            self._scenes = Scenes(self._url, self._clients, self._runs, self._ruler, self._faults, schedule.seed)
            await self._ruler.begin()
            for host in self._hosts:
                stack.callback(host.end)
            async with anyio.create_task_group() as around:
                for host in self._hosts:
                    around.start_soon(host.keep_up)
                around.start_soon(self._decode)
                around.start_soon(self._waiters.run)
                around.start_soon(self._guests.work)
                around.start_soon(self._looks.run)
                yield
                around.cancel_scope.cancel()

    async def play(self) -> None:
        """Two acts of jobs and faults, with guests in the first, then calm and scenes, then the end."""
        schedule = self._schedule
        last = round(schedule.jobs * LAST_JOBS) if schedule.last else 0
        async with anyio.create_task_group() as rules:
            rules.start_soon(self._ruler.run)
            await self._act(schedule.jobs - last, schedule.seconds, schedule.faults)
            self._guests.is_storm = False
            if schedule.last:
                await self._act(last, LAST_SECONDS, schedule.last)
            rules.cancel_scope.cancel()
        await self._ruler.set_back()
        self._receiver.be_kind()
        await self._settle()
        if self._settled_after is not None:
            await self._have_calm()
        await self._deliver_the_rest()
        self._guests.stop()
        await self._stop()
        await self._look_for_leftovers()

    async def _act(self, jobs: int, seconds: float, faults: Sequence[Fault]) -> None:
        await self._faults.wait_until_all_work()  # whoever is still starting has nothing to lose
        async with anyio.create_task_group() as group:
            group.start_soon(self._clients.place, jobs, seconds)
            group.start_soon(self._faults.run, faults)

    async def _decode(self) -> None:
        """Takes the changes while they come, so that WAL does not pile up."""
        while True:
            await self._take_changes()
            await anyio.sleep(0.5)

    async def _take_changes(self) -> None:
        with suppress(*AWAY):
            committed = await self._decoder.committed()
            self._committed += filter(_is_ours, committed)
            self._delivered += [one for one in committed if isinstance(one, Change) and _task(one) == DELIVERY]

    async def _settle(self) -> None:
        began_at = time.monotonic()
        with suppress(AssertionError):  # what is left then, the checker finds lost
            await eventually(self._is_done, within=SETTLES_WITHIN)
            self._settled_after = time.monotonic() - began_at
            return
        async with connected(self._url) as connection:
            self._unsettled = await connection.fetchval(f"select count(*) from {_LEFT}")

    async def _have_calm(self) -> None:
        await self._faults.wait_until_all_work()
        self._calm_from = time.monotonic()
        await have_calm(self._clients, self._waiters, self._schedule.seed)
        with suppress(AssertionError):
            await eventually(self._is_done, within=CALM_WITHIN)
        await self._waiters.wait_ended(CALM_WITHIN)
        await self._scenes.play(with_faults=bool(self._schedule.faults))
        await self._faults.wait_until_all_work()
        with suppress(AssertionError):
            await eventually(self._is_done, within=CALM_WITHIN)

    async def _is_done(self) -> bool:
        with suppress(*AWAY):
            async with connected(self._url) as connection:
                return not await connection.fetchval(f"select count(*) from {_LEFT}")
        return False

    async def _deliver_the_rest(self) -> None:
        """At once, where it would wait for a minute or an hour."""
        with suppress(AssertionError):
            await eventually(self._is_delivered, within=DELIVERED_WITHIN)

    async def _is_delivered(self) -> bool:
        with suppress(*AWAY):
            async with connected(self._url) as connection:
                await connection.execute(_HURRY)
                return not await connection.fetchval(f"select count(*) from {_UNDELIVERED}")
        return False

    async def _stop(self) -> None:
        """SIGTERM to all. What is not gone in time is left over."""
        for host in self._hosts:
            host.is_wanted = False
            host.signal_group(signal.SIGTERM)
        async with anyio.create_task_group() as group:
            for host in self._hosts:
                group.start_soon(host.reap, GONE_WITHIN)

    async def _look_for_leftovers(self) -> None:
        async with connected(self._url) as connection:

            async def count(what: str) -> int:
                return int(await connection.fetchval(f"select count(*) from {what}"))

            async def are_gone() -> bool:
                return not await count(_BACKENDS)

            with suppress(AssertionError):
                await eventually(are_gone, within=3)
            await connection.execute("select pushq.forget_drafts()")
            self._leftovers = Leftovers(
                running_rows=await count("pushq.jobs_unfinished where status = 'running'"),
                unsettled_jobs=self._unsettled,
                idle_transactions=await count("pg_stat_activity where state like 'idle in transaction%'"),
                prepared_transactions=await count("pg_prepared_xacts"),
                processes=tuple(processes_of([group for host in self._hosts for group in host.groups])),
                sockets=await count(_BACKENDS),
                drafts=await count("pushq.artifact_drafts"),
                pieces_of_no_artifact=await count(_PIECES_OF_NOBODY),
                complaints=(*self._faults.broken_promises, *(line for host in self._hosts for line in host.complaints)),
            )
            self._events = tuple(Event(*row) for row in await connection.fetch(_EVENTS))
            self._webhooks = await self._receiver.webhooks(self._url)
            self._files = tuple(File(*row) for row in await connection.fetch(_FILES))
        await self._take_changes()

    # What the witnesses say -----------------------------------------------------------------------------------

    def ended(self, seconds: float) -> Ended:
        runs, changes = self._runs.runs(), tuple(one for one in self._committed if isinstance(one, Change))
        deliveries = tuple(deliveries_of(self._delivered))
        placed = [*_with_places(self._committed)]
        guests, waits = tuple(self._guests.runs), self._waiters.waits
        history = History(
            lease=LEASE,
            failures_allowed=FAILURES_ALLOWED,
            crashes_allowed=CRASHES_ALLOWED,
            calls=tuple(self._clients.calls),
            runs=runs + guests,
            changes=changes,
            registrations=tuple(one for one in placed if isinstance(one, Registration)),
            excuses=tuple(self._faults.excuses),
            leftovers=self._leftovers,
            allowed=ALLOWED,
            waits=waits,
            finishes=tuple(self._guests.finishes),
            events=self._events,
            all_events_of=frozenset({ALL_EVENTS_OF, TOLD}),
            inserts_of=frozenset({TOLD}),
            completions=tuple(one for one in placed if isinstance(one, Completion)),
            files=self._files,
            deliveries=deliveries,
            arrivals=tuple(self._receiver.arrivals),
            webhooks=self._webhooks,
            told={self._receiver.told: TOLD},
            calm_from=self._calm_from,
            rules=tuple(one for one in placed if isinstance(one, Rule | Settled)),
            steady_needs=self._clients.steady_needs,
            steady=STEADY | {"key:": OF_A_KEY},
            excesses=tuple(self._looks.excesses),
            expected=tuple(self._scenes.expected),
        )
        return Ended(
            self._schedule.seed,
            self._planted,
            self._schedule.jobs,
            seconds,
            self._settled_after,
            dict(self._faults.bit),
            self._faults.toothless,
            check(history),
            dict(Counter(change.after.status for change in changes if change.after and change.after.is_finished)),
            len(runs),
            len(waits),
            len(guests),
            len(self._events),
            len(self._files or ()),
            len(deliveries),
            self._ruler.changes,
            self._looks.count,
        )


def _is_ours(one: Committed) -> bool:
    return not isinstance(one, Change) or _task(one) not in (FOREIGN, DELIVERY)


def _task(change: Change) -> str:
    row = change.after or change.before
    return row.task if row else ""


def _with_places(committed: Iterable[Committed]) -> Iterator[Registration | Completion | Rule | Settled]:
    place = 0
    for one in committed:
        if isinstance(one, Change):
            place += 1
        else:
            yield replace(one, place=place)
