"""Days of the calendar that are over: pushq itself only makes those to come."""

from __future__ import annotations

from datetime import date, timedelta

from tests.support.jobs import Connection


async def make_day(connection: Connection, day: date) -> None:
    """A day in the past, as make_days made it then."""
    table = f"pushq.jobs_{day:%Y_%m_%d}"
    await connection.execute(
        f"create table {table} (like pushq.jobs including defaults including constraints);"
        f"alter table pushq.jobs attach partition {table} for values from ('{day}') to ('{day + timedelta(1)}');"
        f"insert into pushq.days (day) values ('{day}')"
    )
