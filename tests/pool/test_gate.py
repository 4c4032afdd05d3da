"""The gate: who rings, who may skip, and who must be waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from pushq.database.session import Session
from pushq.errors import DatabaseAway
from pushq.pool.gate import Gate
from tests.support.jobs import Connection, insert
from tests.support.store import Store
from tests.support.waiting import eventually


@asynccontextmanager
async def a_gate(url: str, queue: str = "default") -> AsyncIterator[Gate]:
    session = Session(url, "test gate")
    yield Gate(Store(session), [queue])
    await session.close()


@asynccontextmanager
async def heard(url: str) -> AsyncIterator[list[str]]:
    """The payloads of the notifications that arrive."""
    listener = await asyncpg.connect(url)
    payloads: list[str] = []
    await listener.add_listener("pushq", lambda *arguments: payloads.append(arguments[3]))
    yield payloads
    await listener.close()


def is_settled(gate: Gate) -> bool:
    """Whether whoever inserts from now on rings, and all others have ended."""
    return not gate._passers and gate.next_step_in > 0


async def settle(gate: Gate) -> None:
    while not is_settled(gate):
        await gate.settle()


async def _sync(connection: Connection, payloads: list[str], mark: str) -> list[str]:
    """What was heard before a mark that is sent now."""
    await connection.execute(f"notify pushq, '{mark}'")

    async def arrived() -> bool:
        return mark in payloads

    await eventually(arrived)
    return payloads[: payloads.index(mark)]


async def test_an_insert_rings_while_the_gate_is_open_and_not_before_or_after(
    database_url: str, connection: Connection
) -> None:
    async with a_gate(database_url) as gate, heard(database_url) as payloads:
        await insert(connection, "a")
        assert await _sync(connection, payloads, "-before-") == []
        await settle(gate)
        await insert(connection, "a", 1000)
        assert await _sync(connection, payloads, "-open-") == ["-before-", "default"]
        await gate.shut()
        await insert(connection, "a")
        assert await _sync(connection, payloads, "-shut-") == ["-before-", "default", "-open-", ""]


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
async def test_an_old_snapshot_sees_the_gate_as_it_is_now(
    database_url: str, connection: Connection, isolation: str
) -> None:
    async with a_gate(database_url) as gate, heard(database_url) as payloads:
        async with connection.transaction(isolation=isolation):  # type: ignore[arg-type]
            await connection.fetchval("select count(*) from pushq.jobs")  # the snapshot is taken
            await settle(gate)
            await insert(connection, "a")
        assert await _sync(connection, payloads, "-mark-") == ["default"]


async def test_who_skipped_the_bell_and_has_not_ended_is_waited_for(database_url: str, connection: Connection) -> None:
    async with a_gate(database_url) as gate:
        transaction = connection.transaction()
        await transaction.start()
        await insert(connection, "a")
        for _ in range(5):
            await gate.settle()
            assert not is_settled(gate)
        await transaction.commit()
        await gate.settle()
        assert is_settled(gate)


async def test_a_prepared_transaction_is_waited_for(database_url: str, connection: Connection) -> None:
    async with a_gate(database_url) as gate:
        await connection.execute("begin; insert into pushq.jobs (task) values ('a'); prepare transaction 'gate'")
        await gate.settle()
        await gate.settle()
        assert not is_settled(gate)
        await connection.execute("commit prepared 'gate'")
        await settle(gate)


async def test_a_writer_that_comes_after_the_gate_was_opened_is_not_waited_for(
    database_url: str, connection: Connection
) -> None:
    async with a_gate(database_url) as gate:
        await gate.settle()
        transaction = connection.transaction()
        await transaction.start()
        await insert(connection, "a")
        await settle(gate)
        await transaction.rollback()


async def test_a_gate_that_somebody_shut_is_found_shut_at_the_renewal(
    database_url: str, connection: Connection
) -> None:
    async with a_gate(database_url) as idle, a_gate(database_url) as busy:
        await settle(idle)
        await settle(busy)
        await busy.shut()
        transaction = connection.transaction()
        await transaction.start()
        await insert(connection, "a")  # skips

        idle._renew_at = 0  # it is time
        await idle.settle()

        assert not is_settled(idle)
        await transaction.commit()
        await settle(idle)


async def test_shutting_rings_everybody_even_when_an_earlier_try_was_undone_half_way(database_url: str) -> None:
    async with a_gate(database_url) as gate, heard(database_url) as payloads:
        await settle(gate)
        session = Session(database_url, "test")
        await session.fetch("select setval(pushq.gate('default'), 0)")  # all that is left of a try that was rolled back
        await session.close()
        await gate.shut()

        async def is_heard() -> bool:
            return payloads == [""]

        await eventually(is_heard)


async def test_a_pool_whose_shutting_failed_rings_the_others_before_it_opens_the_gate_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise DatabaseAway("lost")

    async with a_gate(database_url) as gate, heard(database_url) as payloads:
        await settle(gate)
        with monkeypatch.context() as patch:
            patch.setattr(gate._store, "shut_gate", fail)
            with pytest.raises(DatabaseAway):
                await gate.shut()
        await settle(gate)

        async def is_heard() -> bool:
            return payloads == [""]

        await eventually(is_heard)


async def test_an_opening_that_failed_half_way_is_not_believed(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_gate(database_url) as gate:
        await settle(gate)
        await connection.execute("select setval(pushq.gate('default'), 0)")
        transaction = connection.transaction()
        await transaction.start()
        await insert(connection, "a")  # skips

        async def fail(*_: object) -> None:
            raise DatabaseAway("for a moment")

        gate._renew_at = 0
        with monkeypatch.context() as patch:
            patch.setattr(Store, "gate_passers", fail)
            with pytest.raises(DatabaseAway):
                await gate.settle()
        await gate.settle()

        assert not is_settled(gate)
        await transaction.commit()


async def test_a_gate_runs_out_by_itself_when_its_pool_is_dead(database_url: str, connection: Connection) -> None:
    async with heard(database_url) as payloads:
        session = Session(database_url, "test")
        await Store(session).open_gate(["default"], 2000)
        await session.close()
        await insert(connection, "a")
        await connection.execute("select pg_sleep(2.1)")
        await insert(connection, "a")
        assert await _sync(connection, payloads, "-mark-") == ["default"]
