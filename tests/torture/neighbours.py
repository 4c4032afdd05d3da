"""What other people do to the database that pushq works on, for a while: the table is also theirs."""

from __future__ import annotations

import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import anyio
import asyncpg

from tests.torture.connections import AWAY
from tests.torture.hosts import Host

FOREIGN = "elsewhere"
"""A task that no host knows."""
TRIES = 100

_FINISHED = "select count(*) from pushq.jobs where finished_on < 'infinity'"

_PUBLISH = "drop publication if exists torture; create publication torture for all tables"
_UNPUBLISH = "drop publication if exists torture"

# A row in eight can be inserted, and neither claimed nor finished. The sequence counts also what is rolled back.
_REFUSE = """
    create sequence if not exists torture.refusals;
    create or replace function torture.refuse() returns trigger language plpgsql as $$
    begin
        perform nextval('torture.refusals');
        raise exception 'a neighbour refuses this row';
    end
    $$;
    create or replace trigger torture_refuses before update or delete on pushq.jobs_unfinished
    for each row when ((hashtext(old.id::text) & 7) = 0) execute function torture.refuse();
"""
_ALLOW = "drop trigger if exists torture_refuses on pushq.jobs_unfinished"
_REFUSALS = "select case when is_called then last_value else 0 end from torture.refusals"

# Long past its retention; the day after it tells so.
_OLD_DAY = "2020-02-02"
_WATCH = """
    do $$
    declare
        its_table text;
    begin
        for number in 2..3 loop
            its_table := 'jobs_2020_02_0' || number;
            if to_regclass('pushq.' || its_table) is null then
                execute format(
                    'create table pushq.%I (like pushq.jobs including defaults including constraints)', its_table);
                execute format(
                    'alter table pushq.jobs attach partition pushq.%I for values from (%L) to (%L)',
                    its_table, '2020-02-0' || number, '2020-02-0' || number + 1);
                insert into pushq.days (day) values (('2020-02-0' || number)::date);
            end if;
        end loop;
        create or replace view torture.old_day as select * from pushq.jobs_2020_02_02;
    end
    $$
"""
_RETIRED = f"select count(*) from pushq.days where day = '{_OLD_DAY}' and retired_at is not null"

_FLOOD = f"""
    insert into pushq.tasks (name) values ('{FOREIGN}') on conflict do nothing;
    insert into pushq.jobs (task, priority) select '{FOREIGN}', -1 from generate_series(1, 10000);
"""
_EBB = f"delete from pushq.jobs_unfinished where task = '{FOREIGN}'"

_CROWD = """
    insert into pushq.tasks (name) select 'crowd.' || i from generate_series(1, 1000) as i on conflict do nothing;
    insert into pushq.tallies
    select 'default', 'crowd.' || i, 'succeeded', bucket, bucket, 1, 0, 0
    from generate_series(1, 1000) as i, generate_series(0, 15) as bucket
    on conflict do nothing;
"""
_DISPERSE = "delete from pushq.tallies where task like 'crowd.%'; delete from pushq.tasks where name like 'crowd.%'"


class Neighbours:
    def __init__(self, url: str, hosts: Sequence[Host]) -> None:
        self._url = url
        self._hosts = hosts

    async def publish_everything(self, seconds: float) -> bool:
        """It bites when jobs finish meanwhile."""
        async with self._done_and_undone(_PUBLISH, _UNPUBLISH):
            return await self._grows(_FINISHED, seconds)

    async def refuse_rows(self, seconds: float) -> bool:
        async with self._done_and_undone(_REFUSE, _ALLOW):
            return await self._grows(_REFUSALS, seconds)

    async def flood(self, seconds: float) -> bool:
        """A backlog of a task that nobody here knows, before everybody else's; it bites when theirs go on."""
        async with self._done_and_undone(_FLOOD, _EBB):
            return await self._grows(_FINISHED, seconds)

    @asynccontextmanager
    async def watching_an_old_day(self) -> AsyncIterator[None]:
        async with self._done_and_undone(_WATCH, "drop view if exists torture.old_day"):
            yield

    async def old_day_is_emptied(self) -> bool:
        """Whether a sweeper has come to it, and tries to drop it from then on."""
        for _ in range(TRIES):
            if await self._ask(_RETIRED):
                return True
            await anyio.sleep(0.1)
        return False

    async def scrape(self, seconds: float) -> bool:
        """Everybody's metrics again and again, of a thousand pairs of labels in all their buckets."""
        bitten = False
        async with self._done_and_undone(_CROWD, _DISPERSE):
            with anyio.move_on_after(seconds + 10) as patience:
                while not bitten or patience.deadline - 10 > anyio.current_time():
                    shown = [await anyio.to_thread.run_sync(_metrics_of, host) for host in self._hosts]
                    bitten = bitten or any("crowd.1000" in one for one in shown)
                    await anyio.sleep(0.05)
        return bitten

    @asynccontextmanager
    async def _done_and_undone(self, do: str, undo: str) -> AsyncIterator[None]:
        await self._insist(do)
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self._insist(undo)

    async def _grows(self, count: str, seconds: float) -> bool:
        """Waits for so long, and longer if it does not."""
        before = await self._ask(count)
        await anyio.sleep(seconds)
        for _ in range(TRIES):
            if await self._ask(count) > before:
                return True
            await anyio.sleep(0.1)
        return False

    async def _insist(self, statements: str) -> None:
        """Until the server does it: others crash the server meanwhile, and hold locks. Twice is as good as once."""
        for _ in range(TRIES):
            with suppress(*AWAY):
                await self._execute(f"set lock_timeout = '1s'; {statements}")
                return
            await anyio.sleep(0.1)
        raise AssertionError(f"the server does not do it: {statements}")

    async def _ask(self, count: str) -> int:
        with suppress(*AWAY):
            return int(await self._fetch(count))
        return -1

    async def _execute(self, statements: str) -> None:
        connection = await asyncpg.connect(self._url, timeout=5, command_timeout=10)
        try:
            await connection.execute(statements)
        finally:
            connection.terminate()

    async def _fetch(self, count: str) -> int:
        connection = await asyncpg.connect(self._url, timeout=5, command_timeout=10)
        try:
            return int(await connection.fetchval(count))
        finally:
            connection.terminate()


def _metrics_of(host: Host) -> str:
    with suppress(OSError):
        if port := host.port:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                return str(answer.read().decode())
    return ""
