"""The triggers that `pushq bench insert` compares are in place when they are measured, and no others."""

from __future__ import annotations

from contextlib import nullcontext

import asyncpg
import pytest

from pushq.bench.insert import ALWAYS, BARE, OURS, TRIGGERS, prepare
from tests.support.jobs import Connection
from tests.support.notifications import hearing, open_gate


@pytest.mark.parametrize("trigger", TRIGGERS)
async def test_each_trigger_is_measured_in_place_of_the_bell(
    database_url: str, connection: Connection, trigger: str
) -> None:
    for before in (*TRIGGERS, trigger):  # whatever was measured before
        await prepare(connection, before)

    async with hearing(database_url) as ear:
        await connection.execute("insert into pushq.jobs (task) values ('a')")
        assert bool(await ear.take()) is (trigger == ALWAYS)
        await open_gate(connection)
        await connection.execute("insert into pushq.jobs (task) values ('a')")
        assert bool(await ear.take()) is (trigger in (ALWAYS, OURS))


@pytest.mark.parametrize("trigger", TRIGGERS)
async def test_the_rules_are_measured_with_each_trigger_and_left_out_with_none(
    connection: Connection, trigger: str
) -> None:
    for before in (*TRIGGERS, trigger):
        await prepare(connection, before)

    with nullcontext() if trigger == BARE else pytest.raises(asyncpg.CheckViolationError):
        await connection.execute("insert into pushq.jobs (task) values ('')")
