"""Pools as the database sees them."""

from __future__ import annotations

from tests.support.jobs import Connection
from tests.support.waiting import eventually

_LAST_SAID = """
    select state = 'idle' and query like '%pushq.next_due%'
    from pg_stat_activity
    where datname = current_database() and application_name like '%: claims'
"""
_GATE_IS_OPEN = "select pg_sequence_last_value(pushq.gate($1)) > pushq.gate_clock()"


async def asleep(connection: Connection, queue: str = "default", since: str = "-infinity") -> None:
    """Waits until the one pool that there is has opened its gate, found nothing and gone to sleep, after `since`."""

    async def look() -> bool:
        is_open = await connection.fetchval(_GATE_IS_OPEN, queue)
        return bool(is_open and await connection.fetchval(f"{_LAST_SAID} and query_start > '{since}'"))

    await eventually(look)
