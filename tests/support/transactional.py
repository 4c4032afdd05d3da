"""Transactional tasks, whose handlers write to a table of the app's, `effects`."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from pushq import Cancel, Detach, Queue, Retry, Tasks, current_job
from pushq.backoff import exponential
from tests.support.waiting import eventually

tasks = Tasks()
at_once = exponential(timedelta(milliseconds=1), longest=timedelta(milliseconds=2))

MAKE = """
create table public.effects (
    number bigint generated always as identity, job uuid not null, note text,
    made_in xid8 default pg_current_xact_id());
create table public.owners (id int primary key);
create table public.owned (owner int references public.owners deferrable initially deferred);
"""


async def write(note: str = "") -> asyncpg.Connection[asyncpg.Record]:
    connection = await current_job().connection()
    await connection.execute("insert into public.effects (job, note) values ($1, $2)", current_job().id, note)
    return connection


async def _wait_for_sign(path: str) -> None:
    """Waits until the test has made the file."""

    async def is_there() -> bool:
        return Path(path).exists()

    await eventually(is_there, within=60)


@tasks.register("tx.write", transactional=True)
async def tx_write(note: str = "") -> dict[str, str]:
    await write(note)
    return {"wrote": note}


@tasks.register("tx.nothing", transactional=True)
async def tx_nothing() -> str:
    return "asked for nothing"


@tasks.register("tx.then", transactional=True, max_attempts=2, backoff=at_once)
async def tx_then(then: str) -> Any:
    """Writes, and then does what it must not, or what is to be rolled back."""
    connection = await write(then)
    if then in _RAISED:
        raise _RAISED[then]
    if then in _EXECUTED:
        await connection.execute(_EXECUTED[then])
    match then:
        case "abort":
            with suppress(asyncpg.PostgresError):
                await connection.execute("select 1/0")
        case "close":
            await connection.close()
        case "at work":
            _leftover.append(asyncio.create_task(connection.execute("select pg_sleep(20)")))
            await asyncio.sleep(0.1)
    return _RETURNED.get(then)


_RAISED = {"raise": ValueError("no"), "retry": Retry(after=timedelta(hours=1)), "cancel": Cancel("no need")}
_RETURNED: dict[str, Any] = {"detach": Detach(timedelta(minutes=1)), "unstorable": float("nan")}
_EXECUTED = {
    "commit": "commit",
    "rollback": "rollback",
    "anew": "commit; begin",
    "defer": "insert into public.owned values (7)",
    "role": "set local role pg_monitor",
}
_leftover = list[Any]()


@tasks.register("tx.wait", transactional=True)
async def tx_wait(seconds: float, attempts: int = 1) -> str:
    """Has a statement in progress for so long, in its first attempts."""
    connection = await write("waits")
    if current_job().attempt <= attempts:
        await connection.execute("select pg_sleep($1)", seconds)
    return "in the end"


@tasks.register("tx.until", transactional=True)
async def tx_until(path: str, read_only: bool = False) -> str:
    """Holds its transaction open until there is the file."""
    if read_only:
        await (await current_job().connection()).execute("select 1")
    else:
        await write("holds")
    await _wait_for_sign(path)
    return "seen"


@tasks.register("tx.swallow", transactional=True)
async def tx_swallow() -> str:
    """Goes on after it was cancelled, and returns."""
    connection = await write("before")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await connection.execute("insert into public.effects (job, note) values ($1, 'after')", current_job().id)
    return "on"


@tasks.register("tx.enqueue", transactional=True)
async def tx_enqueue(task: str, payload: dict[str, Any], path: str, raw: bool = False) -> str:
    """Inserts a job in the transaction, and then waits for the file."""
    connection = await write("enqueues")
    if raw:
        statement = "insert into pushq.jobs (task, payload) values ($1, $2) returning id"
        inserted: UUID | None = await connection.fetchval(statement, task, json.dumps(payload))
    else:
        inserted = await Queue().insert(tasks.find(task).job(**payload), connection=connection)
    await _wait_for_sign(path)
    return str(inserted)


@tasks.register("tx.leave", transactional=True)
async def tx_leave(what: str) -> int:
    """Leaves something behind on the connection. Returns the server's process."""
    connection = await write(what)
    if what in _LEFT:
        await connection.execute(_LEFT[what])
    match what:
        case "savepoint":
            await connection.transaction().start()
        case "listener":
            await connection.add_listener("left_behind", lambda *_: None)
        case "connection":
            _kept.append(connection)
        case "statement":
            _kept.append(await connection.prepare("select 1"))
    return int(await connection.fetchval("select pg_backend_pid()"))


_kept = list[Any]()
_LEFT = {
    "setting": "set work_mem = '777kB'",
    "search path": "set local search_path = pg_temp",
    "temporary table": "create temporary table left_behind (a int)",
    "cursor": "declare left_behind cursor with hold for select 1",
    "lock": "select pg_advisory_lock(77)",
}


@tasks.register("tx.look", transactional=True)
async def tx_look() -> dict[str, Any]:
    """What a handler finds on its connection."""
    connection = await current_job().connection()
    found: dict[str, Any] = dict(
        await connection.fetchrow(
            """
            select
                pg_backend_pid() as process, current_setting('work_mem') as work_mem,
                current_setting('search_path') as search_path, current_setting('enable_seqscan') as enable_seqscan,
                current_setting('transaction_isolation') as isolation, current_setting('statement_timeout') as timeout,
                to_regclass('pg_temp.left_behind') is not null as table,
                exists (select from pg_cursors where name = 'left_behind') as cursor,
                exists (select from pg_locks where locktype = 'advisory') as lock
            """
        )
        or {}
    )
    for kept in _kept:
        try:
            await (kept.execute("select 1") if hasattr(kept, "execute") else kept.fetch())
        except asyncpg.InterfaceError:
            found["kept"] = "refused"
        else:
            found["kept"] = "usable"
    return found


@tasks.register("tx.twice", transactional=True)
async def tx_twice() -> bool:
    one, other = await asyncio.gather(current_job().connection(), current_job().connection())
    return one is other


@tasks.register("tx.savepoint", transactional=True)
async def tx_savepoint() -> None:
    connection = await write("kept")
    with suppress(ZeroDivisionError):
        async with connection.transaction():
            await write("undone")
            raise ZeroDivisionError


@tasks.register("tx.progress", transactional=True)
async def tx_progress() -> None:
    await write()
    current_job().progress(1, 2, phase="halfway")
    async with current_job().artifact("a.txt", "text/plain") as file:
        await file.write(b"a")


@tasks.register("tx.die", transactional=True)
async def tx_die(times: int = 1) -> None:
    await write("dies")
    if current_job().crashes < times:
        os.kill(os.getpid(), 9)


@tasks.register("untransactional")
async def untransactional() -> None:
    await current_job().connection()


@tasks.register("echo")
async def echo(**payload: object) -> dict[str, object]:
    return payload
