"""Carries out the faults of a schedule, each beside the others, and proves of each that it bit.

Some wait for a moment at which they bite best: a host that runs a long job.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
import asyncpg

from pushq.local.server import EmbeddedServer
from tests.torture.connections import AWAY
from tests.torture.history import Excuse
from tests.torture.hosts import SHUTDOWN, Host, is_stopped, state_of
from tests.torture.neighbours import Neighbours
from tests.torture.proxy import Proxy
from tests.torture.runs import RunsLog
from tests.torture.schedule import LEASE, Fault

GONE_WITHIN = SHUTDOWN + 3.0
"""Seconds after SIGTERM."""
FORGETS = 1.0
"""Seconds of claims that a server may forget when it crashes: they are committed without waiting for the disk."""
CLOCK_STEP = 3600.0
CLAIMS, OUTCOMES, LISTENS, PIECES = ": claims", ": outcomes", ": listens", ": artifacts"
"""How the names of these connections end."""
AIMS_FOR = 4.0
"""Seconds at most that a fault waits for its moment."""
PUSHQ_BACKENDS = "select pid from pg_stat_activity where application_name ~ '^pushq ' and pid <> pg_backend_pid()"
LAPSE = """
    with lapsed as (
        update pushq.supervisors set lease_until = lease_until - interval '1 minute' where pid > 0 returning 1)
    select count(*) from lapsed"""


class Faults:
    """`done` and `bit` by kind; `excuses`: when which host could not know that it had lost its jobs."""

    def __init__(
        self, server: EmbeddedServer, database: str, hosts: Sequence[Host], clients: Proxy, runs: RunsLog
    ) -> None:
        self._server = server
        self._url = server.url(database)
        self._hosts = hosts
        self._clients = clients
        self._runs = runs
        self._neighbours = Neighbours(self._url, hosts)
        self._server_is_mine = anyio.Lock()
        self._going_down = [anyio.Lock() for _ in hosts]
        self._stopping = [anyio.Lock() for _ in hosts]
        self.done = Counter[str]()
        self.bit = Counter[str]()
        self.excuses: list[Excuse] = []
        self.broken_promises: list[str] = []

    async def run(self, faults: Sequence[Fault]) -> None:
        """Returns when all are over, and everything is whole again."""
        began_at = anyio.current_time()
        async with anyio.create_task_group() as group:
            for fault in faults:
                group.start_soon(self._commit, fault, began_at + fault.at)

    async def wait_until_all_work(self) -> None:
        """Every host has a pool that claims, listens, and writes outcomes."""
        await _comes_true(lambda: all(host.proxy.serves(CLAIMS, OUTCOMES, LISTENS) for host in self._hosts), within=30)

    @property
    def toothless(self) -> list[str]:
        """Kinds that did not bite each time."""
        return [kind for kind, count in self.done.items() if self.bit[kind] < count]

    async def _commit(self, fault: Fault, at: float) -> None:
        await anyio.sleep_until(at)
        if fault.host is None:
            bit = await self._on_all[fault.kind](fault.seconds)
        else:
            bit = await self._on_a_host(fault, self._hosts[fault.host])
        self.done[fault.kind] += 1
        self.bit[fault.kind] += bool(bit)

    # Hosts ----------------------------------------------------------------------------------------------------

    async def _on_a_host(self, fault: Fault, host: Host) -> bool:
        act: dict[str, Callable[[Host, float], Awaitable[bool]]] = {
            "kill pool": self._kill_pool,
            "kill supervisor": self._kill_supervisor,
            "kill host": self._kill_host,
            "stop pool": self._stop_pool,
            "stop supervisor": self._stop_supervisor,
            "stop host": self._stop_host,
            "drain": self._drain,
            "step clock": self._step_clock,
            "delay": self._delay,
            "cut": self._cut,
            "hold": self._hold,
            "half-open": self._leave_half_open,
            "swallow claims' replies": self._swallow_claims_replies,
            "swallow outcomes' replies": self._swallow_outcomes_replies,
            "swallow pieces' replies": self._swallow_pieces_replies,
            "lose claims": self._lose_claims,
            "lose outcomes": self._lose_outcomes,
            "view on a day": self._watch_a_day,
        }
        return await act[fault.kind](host, fault.seconds)

    async def _kill_pool(self, host: Host, _: float) -> bool:
        victim = await _wait_pool(host)
        _send(signal.SIGKILL, victim)
        return victim > 0 and await _comes_true(lambda: victim not in host.pools)

    async def _kill_supervisor(self, host: Host, seconds: float) -> bool:
        """Its pools die with it, which are at work."""
        await _comes_true(lambda: host.is_up and self._runs.have_run(host.pools))
        async with self._down(host, seconds):
            _send(signal.SIGKILL, host.pid)
            return await host.reap(10) == -signal.SIGKILL

    async def _kill_host(self, host: Host, seconds: float) -> bool:
        async with self._down(host, seconds):
            host.signal_group(signal.SIGKILL)
            return await host.reap(10) == -signal.SIGKILL

    async def _drain(self, host: Host, seconds: float) -> bool:
        """SIGTERM: it must be gone in time, whatever it runs, and rather one that runs a job which outlasts that."""
        host = await self._wait_long_run(GONE_WITHIN + 0.5, *self._hosts) or host
        async with self._stopping[host.number], self._down(host, seconds):
            _send(signal.SIGTERM, host.pid)
            code = await host.reap(GONE_WITHIN)
            if code != 0:
                how = f"was not gone {GONE_WITHIN:g} s after SIGTERM" if code is None else f"ended {code} after SIGTERM"
                self.broken_promises.append(f"host {host.number} {how}")
                host.signal_group(signal.SIGKILL)
            return code is not None

    @asynccontextmanager
    async def _down(self, host: Host, seconds: float) -> AsyncIterator[None]:
        """Its supervisor, which has begun, is to be down afterwards for a while."""
        async with self._going_down[host.number]:
            await _wait_pool(host)  # until then it may end by itself, since there is no database to begin with
            host.is_wanted = False
            yield
            await anyio.sleep(seconds)
            host.is_wanted = True

    async def _stop_pool(self, host: Host, seconds: float) -> bool:
        """Its supervisor goes on, so that its jobs stay its own."""
        return await self._stop(host, lambda: host.pools[:1], seconds, may_cost_jobs=False)

    async def _stop_supervisor(self, host: Host, seconds: float) -> bool:
        """Its pools go on, and are taken for dead meanwhile."""
        await self._wait_long_run(LEASE + 1, host)
        return await self._stop(host, lambda: [host.pid], seconds)

    async def _stop_host(self, host: Host, seconds: float) -> bool:
        return await self._stop(host, lambda: [host.pid, *host.pools], seconds)

    async def _stop(
        self, host: Host, victims: Callable[[], list[int]], seconds: float, *, may_cost_jobs: bool = True
    ) -> bool:
        async with self._stopping[host.number]:
            await _wait_pool(host)
            with self._excused(host.number, "stopped", may_cost_jobs=may_cost_jobs):
                pids = set[int]()

                def stops() -> bool:
                    pids.update(victims())
                    _send(signal.SIGSTOP, *pids)
                    return any(map(is_stopped, pids))

                bit = await _comes_true(stops)
                await anyio.sleep(seconds)
                _send(signal.SIGCONT, *pids)
            return bit

    async def _step_clock(self, host: Host, seconds: float) -> bool:
        """Forwards by an hour and back again, once a handler has gone by it."""
        if host.clock is None:
            return False
        host.clock.set(CLOCK_STEP)
        await anyio.sleep(seconds)
        bit = await _comes_true(lambda: self._runs.goes_by(host.number, CLOCK_STEP), within=20)
        host.clock.set(0)
        return bit

    async def _refuse_threads(self, seconds: float) -> bool:
        """To handlers of all hosts. A job that needs one is released, time and again, and has not failed."""
        refusals = [host.no_threads for host in self._hosts]
        for file in refusals:
            file.touch()
        try:
            return await _for_so_long(seconds, lambda: any(file.stat().st_size for file in refusals))
        finally:
            for file in refusals:
                file.unlink()

    async def _watch_a_day(self, host: Host, seconds: float) -> bool:
        """A view on a day that is past its retention, when a supervisor begins: it looks at the days first of all."""
        async with self._neighbours.watching_an_old_day():
            await self._kill_host(host, 0)
            bit = await self._neighbours.old_day_is_emptied()
            await anyio.sleep(seconds + 1)  # and two more sweeps
            return bit

    # Ways to the database -------------------------------------------------------------------------------------

    async def _delay(self, host: Host, seconds: float) -> bool:
        """Each heartbeat arrives in time; it may take longer than a lease to connect anew."""
        await _wait_pool(host)
        with self._excused(host.number, "delayed", may_cost_jobs=seconds >= LEASE):
            host.proxy.delay, before = 0.15, host.proxy.delayed
            bit = await _for_so_long(seconds, lambda: host.proxy.delayed > before)
            host.proxy.delay = 0.0
        return bit

    async def _cut(self, host: Host, _: float) -> bool:
        await _wait_pool(host)
        return await _comes_true(lambda: host.proxy.cut() > 0)

    async def _hold(self, host: Host, seconds: float) -> bool:
        await _wait_pool(host)
        before = host.proxy.held
        with self._excused(host.number, "cut off"):
            host.proxy.hold()
            bit = await _for_so_long(seconds, lambda: host.proxy.held > before)
            host.proxy.let_flow()
        return bit

    async def _leave_half_open(self, host: Host, seconds: float) -> bool:
        await _wait_pool(host)
        with self._excused(host.number, "cut off"):
            left = await _comes_true(lambda: host.proxy.leave_half_open() > 0)
            await anyio.sleep(seconds)
            host.proxy.cut_half_open()
        return left

    async def _swallow_claims_replies(self, host: Host, seconds: float) -> bool:
        return await self._swallow(host, CLAIMS, seconds)

    async def _swallow_outcomes_replies(self, host: Host, seconds: float) -> bool:
        return await self._swallow(host, OUTCOMES, seconds)

    async def _swallow_pieces_replies(self, host: Host, seconds: float) -> bool:
        """Of artifacts, whose writer sends each piece again."""
        return await self._befall(host, lambda proxy: (proxy.swallows, proxy.swallowed), PIECES, seconds, within=20)

    async def _swallow_clients_replies(self, seconds: float) -> bool:
        return await _while_among(self._clients.swallows, self._clients.swallowed, "", seconds, within=20)

    async def _swallow(self, host: Host, purpose: str, seconds: float) -> bool:
        return await self._befall(host, lambda proxy: (proxy.swallows, proxy.swallowed), purpose, seconds)

    async def _lose_claims(self, host: Host, seconds: float) -> bool:
        return await self._lose(host, CLAIMS, seconds)

    async def _lose_outcomes(self, host: Host, seconds: float) -> bool:
        return await self._lose(host, OUTCOMES, seconds)

    async def _lose(self, host: Host, purpose: str, seconds: float) -> bool:
        return await self._befall(host, lambda proxy: (proxy.loses, proxy.lost), purpose, seconds)

    async def _befall(
        self,
        host: Host,
        how: Callable[[Proxy], tuple[set[str], Counter[str]]],
        purpose: str,
        seconds: float,
        within: float = 10,
    ) -> bool:
        """A host that has had nothing to say all that time leaves it to the first that has."""
        if await _while_among(*how(host.proxy), purpose, seconds, within=1):
            return True
        bitten = False

        async def try_on(one: Host) -> None:
            nonlocal bitten
            bitten |= await _while_among(*how(one.proxy), purpose, seconds, within)
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for one in self._hosts:
                group.start_soon(try_on, one)
        return bitten

    async def _cut_clients(self, _: float) -> bool:
        return await _comes_true(lambda: self._clients.cut() > 0)

    # The server -----------------------------------------------------------------------------------------------

    @property
    def _on_all(self) -> dict[str, Callable[[float], Awaitable[bool]]]:
        return {
            "crash server": self._crash,
            "freeze server": self._freeze,
            "lapse leases": self._lapse,
            "terminate backends": self._terminate,
            "cut clients": self._cut_clients,
            "swallow clients' replies": self._swallow_clients_replies,
            "publication": self._neighbours.publish_everything,
            "refused rows": self._neighbours.refuse_rows,
            "foreign backlog": self._neighbours.flood,
            "scrapes": self._neighbours.scrape,
            "no threads": self._refuse_threads,
        }

    async def _crash(self, _: float) -> bool:
        async with self._server_is_mine:
            before, began_at = self._server.process.pid, time.monotonic()
            # In this thread, with whose end the server ends; everything else may wait meanwhile.
            self._server.restart(crash=True)
            self.excuses.append(Excuse(None, "server crashed", began_at - FORGETS, time.monotonic()))
            return self._server.process.pid != before

    async def _freeze(self, seconds: float) -> bool:
        async with self._server_is_mine:
            with self._excused(None, "server frozen"):
                bit = await _comes_true(lambda: _stands_still(self._server.process.pid))
                await anyio.sleep(seconds)
                _send(signal.SIGCONT, *_with_children(self._server.process.pid))
            return bit

    async def _terminate(self, _: float) -> bool:
        """All of pushq's backends at once."""
        return await self._do(f"select count(pg_terminate_backend(pid)) from ({PUSHQ_BACKENDS}) as theirs")

    async def _lapse(self, seconds: float) -> bool:
        """All leases again and again, as when the server's clock runs ahead: who lives shows it by its heartbeats.
        Guests have none to show, and are spared."""
        until = time.monotonic() + seconds
        bit = await self._do(LAPSE)
        while time.monotonic() < until:
            await self._do(LAPSE)
            await anyio.sleep(0.05)
        return bit

    async def _do(self, query: str) -> bool:
        """Asks the server until there is something to be counted."""
        async with self._server_is_mine:
            for _ in range(50):
                with suppress(*AWAY):
                    connection = await asyncpg.connect(self._url, timeout=5)
                    try:
                        if await connection.fetchval(query):
                            return True
                    finally:
                        connection.terminate()
                await anyio.sleep(0.1)
            return False

    async def _wait_long_run(self, seconds: float, *hosts: Host) -> Host | None:
        """The first of them that runs a job which has so long to go, if that comes soon."""

        def those() -> list[Host]:
            return [host for host in hosts if self._runs.longest_left(host.pools) >= seconds]

        await _comes_true(lambda: bool(those()), within=AIMS_FOR)
        return next(iter(those()), None)

    @contextmanager
    def _excused(self, host: int | None, kind: str, *, may_cost_jobs: bool = True) -> Iterator[None]:
        began_at = time.monotonic()
        try:
            yield
        finally:
            self.excuses.append(Excuse(host, kind, began_at, time.monotonic(), may_cost_jobs))


async def _wait_pool(host: Host) -> int:
    """One of its pools, as soon as it has one."""
    await _comes_true(lambda: host.is_up and bool(host.pools), within=30)
    return next(iter(host.pools), 0)


async def _comes_true(look: Callable[[], bool], within: float = 10.0) -> bool:
    until = anyio.current_time() + within
    while not look():
        if anyio.current_time() > until:
            return False
        await anyio.sleep(0.02)
    return True


async def _for_so_long(seconds: float, bit: Callable[[], bool], within: float = 20) -> bool:
    """Waits for so long, and longer if the fault has not bitten; whether it has."""
    await anyio.sleep(seconds)
    return await _comes_true(bit, within)


async def _while_among(purposes: set[str], count: Counter[str], purpose: str, seconds: float, within: float) -> bool:
    """It is one of them for so long, and at most so much longer until that has bitten; whether it has."""
    before = count[purpose]
    purposes.add(purpose)
    try:
        return await _for_so_long(seconds, lambda: count[purpose] > before, within)
    finally:
        purposes.discard(purpose)


def _send(number: signal.Signals, *pids: int) -> None:
    for pid in filter(None, pids):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _stands_still(postmaster: int) -> bool:
    """It is told to, with those that it has started in the meantime."""
    processes = _with_children(postmaster)
    _send(signal.SIGSTOP, *processes)
    return is_stopped(postmaster) and all(state_of(one) in ("T", "Z", "") for one in processes)


def _with_children(pid: int) -> list[int]:
    """The postmaster first, so that it starts no others meanwhile."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
