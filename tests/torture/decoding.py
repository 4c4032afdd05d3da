"""Reads what the database committed, by logical decoding: the one witness that shares no code with pushq.

Theory of operation
-------------------
PostgreSQL writes every change of a row into its log, and a replication slot hands them out again, whole transactions in
the order of their commits, as text that the plugin `test_decoding` makes of them. What was rolled back never comes.
With REPLICA IDENTITY FULL an update and a delete show the whole row as it was before.

A slot outlives a restart of the server, but after a crash it may stand where it stood at the last checkpoint and hand
out again what was taken since. So changes are looked at first (peek) and the slot is moved on afterwards, and whatever
was committed before the last commit that we know is passed over: nothing is missing, and nothing comes twice, however
often the server crashes and wherever an answer was lost.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Self, TypeAlias
from uuid import UUID

import asyncpg

from tests.torture.history import (
    ITS_URL,
    Change,
    Committed,
    Completion,
    Delivery,
    Registration,
    Row,
    Rule,
    Settled,
    Telling,
)

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

Columns: TypeAlias = dict[str, str | None]

OLD_DAYS = "table pushq.jobs_2020_"
"""How lines begin that tell of days which are made only to be dropped: no job ends there."""
DELIVERY = "pushq.webhook"
"""The task of deliveries."""
BATCH = 20_000
"""Lines after which a look at the slot ends, with the transaction at which it is."""
PATIENCE = 10.0
"""Seconds for which the server may take a reader that was cut off for one that still reads."""

# The days that a sweeper makes later must show whole rows, too.
_SHOW_WHOLE_ROWS = """
    create schema torture;

    create function torture.show_whole_rows() returns event_trigger language plpgsql as $$
    declare
        made oid;
    begin
        for made in
            select objid
            from pg_event_trigger_ddl_commands()
            where object_type = 'table' and schema_name = 'pushq'
        loop
            execute format('alter table %s replica identity full', made::regclass);
        end loop;
    end
    $$;

    create event trigger torture_show_whole_rows on ddl_command_end
    when tag in ('CREATE TABLE')
    execute function torture.show_whole_rows();

    do $$
    declare
        its_part oid;
    begin
        for its_part in select inhrelid from pg_inherits where inhparent = 'pushq.jobs'::regclass
        loop
            execute format('alter table %s replica identity full', its_part::regclass);
        end loop;
    end
    $$;
"""
# All databases of a server share the names of slots.
_ITS_NAME = "select 'torture_' || oid from pg_database where datname = current_database()"
_CREATE_SLOT = "select pg_create_logical_replication_slot($1, 'test_decoding')"
# The bytes of artifacts are not looked at.
_PEEK = """
    select lsn, xid, case when data like 'table pushq.artifact\\_pieces%' then '' else data end
    from pg_logical_slot_peek_changes($1, null, $2)"""
_ADVANCE = "select pg_replication_slot_advance($1, $2)"


async def watch_changes(connection: Connection) -> str:
    """Has the server keep the changes of its jobs from now on, whole rows of them; the name of the slot.

    The server needs wal_level=logical, and the connection is a superuser's. The slot keeps the log of the whole server
    until it is read or dropped; it goes with its database.
    """
    await connection.execute(_SHOW_WHOLE_ROWS)
    slot = str(await connection.fetchval(_ITS_NAME))
    await connection.execute(_CREATE_SLOT, slot)
    return slot


class Decoder:
    """The reader of a slot, on connections of its own."""

    def __init__(self, url: str, slot: str, *, batch: int = BATCH) -> None:
        self._url = url
        self._slot = slot
        self._batch = batch
        self._read_to = 0  # where the last transaction that we know committed
        self._unasked: list[Committed] = []
        self._turn = asyncio.Lock()

    @classmethod
    async def watching(cls, url: str, *, batch: int = BATCH) -> Self:
        """One that knows what is committed from now on."""
        connection = await asyncpg.connect(url)
        try:
            return cls(url, await watch_changes(connection), batch=batch)
        finally:
            await connection.close()

    async def committed(self) -> list[Committed]:
        """What was committed since it was last asked, in that order.

        Raises what asyncpg raises when the server is away. Asked again, it misses nothing.
        """
        async with self._turn:
            await self._take_all()
            asked, self._unasked = self._unasked, []
        return asked

    async def _take_all(self) -> None:
        connection = await asyncpg.connect(self._url, timeout=10, command_timeout=30)
        deadline = time.monotonic() + PATIENCE
        try:
            while True:
                try:
                    if await self._take(connection) < self._batch:
                        return
                except asyncpg.ObjectInUseError:
                    if time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(0.05)
        finally:
            connection.terminate()

    async def _take(self, connection: Connection) -> int:
        """Takes whole transactions, some more lines than a batch; how many lines there were."""
        lines = await connection.fetch(_PEEK, self._slot, self._batch)
        for committed_at, changes in transactions(map(tuple, lines)):
            if committed_at > self._read_to:
                self._unasked += changes
                self._read_to = committed_at
        if lines:
            await connection.execute(_ADVANCE, self._slot, self._read_to)
        return len(lines)


def transactions(lines: Iterable[tuple[int, int, str]]) -> Iterator[tuple[int, list[Committed]]]:
    """What was said of each transaction, as (where it committed, its changes of jobs, artifacts and supervisors).

    lines: as the slot hands them out, (where, transaction, text). Raises ValueError for a change that is not wholly
    known: a table was truncated, or has not the replica identity.
    """
    changes: list[Committed] = []
    for where, transaction, text in lines:
        if text.startswith("table pushq.jobs_") and not text.startswith(OLD_DAYS):
            changes.append(_change(transaction, text))
        elif its := _SUPERVISOR.match(text):
            changes.append(Registration(transaction, its["name"].replace("''", "'"), its["act"] != "DELETE"))
        elif its := _RULE.match(text):
            changes.append(_rule(transaction, its["table"], its["act"], _columns(text, its.end())))
        elif its := _SETTLED.match(text):
            changes.append(Settled(its["name"]))
        elif text.startswith(_COMPLETED):
            changes.append(_completion(transaction, _columns(text, len(_COMPLETED))))
        elif text.startswith("COMMIT"):
            yield where, changes
            changes = []


_COMPLETED = "table pushq.artifacts: INSERT:"
_BEFORE, _AFTER = " old-key:", " new-tuple:"
_WHAT = re.compile(r"table pushq\.(?P<table>jobs_\w+): (?P<act>INSERT|UPDATE|DELETE):")
# Its key comes first, and of a row that is deleted nothing else.
_SUPERVISOR = re.compile(
    r"table pushq\.supervisors: (?P<act>INSERT|UPDATE|DELETE): name\[text\]:'(?P<name>[^']*(?:''[^']*)*)'"
)
# Of a row that is deleted, its key is told.
_RULE = re.compile(r"table pushq\.(?P<table>resources|queues): (?P<act>INSERT|UPDATE|DELETE):")
_SETTLED = re.compile(r"message: .* prefix: torture\.settled, .* content:(?P<name>.*)", re.DOTALL)
# A value in quotes may hold anything, what looks like further columns included; a quote in it is doubled.
_COLUMN = re.compile(
    r""" (?P<name>\w+|"(?:[^"]|"")*")\[(?P<type>[^\[\]]*(?:\[\])?)\]:"""
    r"""(?:'(?P<quoted>[^']*(?:''[^']*)*)'|(?P<bare>[^' ]+))"""
)


def _change(transaction: int, text: str) -> Change:
    table, before, after = told(text)
    return Change(transaction, _row(table, before) if before else None, _row(table, after) if after else None)


def _rule(transaction: int, table: str, act: str, columns: Columns) -> Rule:
    name = _text(columns, "name")
    name = f"queue:{name}" if table == "queues" else name
    if act == "DELETE":
        return Rule(transaction, name, is_there=False)
    capacity, rate = columns.get("capacity"), columns.get("rate")
    return Rule(
        transaction,
        name,
        is_there=True,
        capacity=None if capacity is None else int(capacity),
        rate=None if rate is None else float(rate),
        burst=int(_text(columns, "burst")),
    )


def _completion(transaction: int, columns: Columns) -> Completion:
    job, token, name = (_text(columns, one) for one in ("job_id", "token", "name"))
    return Completion(transaction, UUID(job), UUID(token), name)


def told(text: str) -> tuple[str, Columns | None, Columns | None]:
    """What a line tells of one row: its table, the columns before and the columns after. Raises like `transactions`."""
    what = _WHAT.match(text)
    if what is None:
        raise _unknown(text)
    table, act, position = what["table"], what["act"], what.end()
    if act == "INSERT":
        return table, None, _columns(text, position)
    if act == "DELETE":
        return table, _columns(text, position), None
    if not text.startswith(_BEFORE, position):
        raise _unknown(text)
    before, position = _columns_until(text, position + len(_BEFORE))
    if not text.startswith(_AFTER, position):
        raise _unknown(text)
    # A large value that did not change is not told again.
    return table, before, before | _columns(text, position + len(_AFTER))


def _columns(text: str, position: int) -> Columns:
    """The columns from there to the end."""
    columns, end = _columns_until(text, position)
    if end != len(text) or not columns:
        raise _unknown(text)
    return columns


def _columns_until(text: str, position: int) -> tuple[Columns, int]:
    """The columns from there on, and where they end. Of a row as it was before, nulls are not told."""
    columns: Columns = {}
    while column := _COLUMN.match(text, position):
        position = column.end()
        if column["quoted"] is not None:
            columns[column["name"]] = column["quoted"].replace("''", "'")
        elif column["bare"] != "unchanged-toast-datum":
            columns[column["name"]] = None if column["bare"] == "null" else column["bare"]
    return columns, position


def _unknown(text: str) -> ValueError:
    return ValueError(f"no change of a whole row: {text[:300]!r}")


def _row(table: str, columns: Columns) -> Row:
    most, token = columns.get("max_attempts"), columns.get("token")
    return Row(
        job=UUID(_text(columns, "id")),
        status=_text(columns, "status"),
        attempt=int(_text(columns, "attempt")),
        failures=int(_text(columns, "failures")),
        crashes=int(_text(columns, "crashes")),
        max_attempts=None if most is None else int(most),
        token=None if token is None else UUID(token),
        supervisor=columns.get("supervisor"),
        is_finished=table != "jobs_unfinished",
        told=_told(columns.get("result"), columns.get("error")),
        task=_text(columns, "task"),
        queue=_text(columns, "queue"),
        waiters=columns.get("waiters"),
        is_cancelling=columns.get("apart") == "cancelling",
        has_url=columns.get("webhook_url") is not None,
        telling=_telling(columns) if columns.get("task") == DELIVERY else None,
        needs=columns.get("needs"),
        started_at=columns.get("started_at"),
    )


def _telling(columns: Columns) -> Telling:
    told = json.loads(_text(columns, "payload"))
    what = told["type"].removeprefix("job.")
    return Telling(UUID(told["data"]["id"]), told.get("webhook", ITS_URL), told["event"], what)


def deliveries_of(changes: Iterable[Change]) -> Iterator[Delivery]:
    """Those that these changes of their rows tell of."""
    deliveries: dict[UUID, Delivery] = {}
    for change in changes:
        row = change.after
        if row and row.job in deliveries:
            deliveries[row.job] = replace(deliveries[row.job], status=row.status, crashes=row.crashes)
        elif row and (it := row.telling):
            deliveries[row.job] = Delivery(
                row.job, it.job, it.receiver, it.number, it.tells, change.transaction, row.status
            )
    yield from deliveries.values()


def _text(columns: Columns, name: str) -> str:
    value = columns.get(name)
    if value is None:
        raise ValueError(f"no change of a whole row: {name} is missing from {columns}")
    return value


_TOKEN = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_IN_RESULT = re.compile(rf'"token": "({_TOKEN})"')
_IN_ERROR = re.compile(rf"\btoken ({_TOKEN})\b")


def _told(result: str | None, error: str | None) -> UUID | None:
    found = _IN_RESULT.search(result) if result is not None else _IN_ERROR.search(error) if error is not None else None
    return UUID(found[1]) if found else None
