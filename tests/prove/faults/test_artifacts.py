"""Artifacts while the database, or the way to it, fails: whole, or a sentence for the handler."""

from __future__ import annotations

import asyncio
import csv
import gc
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Thread
from typing import Any
from uuid import UUID

import anyio
import pytest

from pushq.artifacts import Limits, NewArtifact, drafts, keepers
from pushq.database.session import Session
from pushq.errors import ArtifactRefused, DatabaseAway, PushqError
from pushq.pool import artifacts
from pushq.pool.artifacts import SETTINGS, ArtifactKeeper
from tests.promises.test_artifacts import MIB, left, rows, taken
from tests.prove.faults.test_lost_replies import _has_swallowed, behind_a_proxy
from tests.support.jobs import Connection, finished, insert
from tests.support.pgbouncer import pooling
from tests.support.supervisors import supervising
from tests.support.waiting import eventually

LIMITS = Limits(100 * MIB, 10, 100 * MIB)
ENDED_BY_FORCE = """
select pg_terminate_backend(pid) from pg_stat_activity
where application_name like '%: artifacts' and datname = current_database()
"""


@asynccontextmanager
async def keeping(url: str, held: tuple[UUID, UUID]) -> AsyncIterator[Session]:
    """A pool's keeper of artifacts, in this process."""
    session = Session(url, "test: artifacts", settings=SETTINGS)
    keeper = keepers[held] = ArtifactKeeper(session, LIMITS)
    async with anyio.create_task_group() as beside:
        beside.start_soon(keeper.run)
        yield session
        beside.cancel_scope.cancel()
    del keepers[held]
    await session.close()


async def has_sent(connection: Connection, pieces: int) -> bool:
    return bool(await connection.fetchval("select pieces = $1 from pushq.artifact_drafts", pieces))


async def test_a_connection_that_is_lost_between_two_pieces_costs_nothing(
    connection: Connection, database_url: str
) -> None:
    held = await taken(connection)
    async with keeping(database_url, held), NewArtifact(held, "a", "a/b") as file:
        for _ in range(4):
            await file.write(b"x" * MIB)
            assert await connection.fetchval(ENDED_BY_FORCE)
    assert await left(database_url, held[0]) == {"a": b"x" * 4 * MIB}


async def test_a_reply_that_is_lost_adds_no_piece_twice() -> None:
    async with behind_a_proxy() as (proxy, _, connection):
        for statement in range(3):
            proxy.swallows.add("artifacts")
            (job,) = await insert(connection, "leave", payload={"size": 2 * MIB + statement})
            await eventually(lambda: _has_swallowed(proxy, "artifacts"))
            proxy.swallows.clear()
            proxy.swallowed.clear()
            (row,) = await finished(connection, job)
            assert row["status"] == "succeeded"
            assert await connection.fetchval("select size from pushq.artifacts where job_id = $1", job) == (
                2 * MIB + statement
            )
            whole = await connection.fetchval("select pushq.read_artifact($1, 'a')", job)
            assert whole == b"x" * (2 * MIB + statement)


async def test_a_database_that_stays_away_is_told_to_the_handler(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "PATIENCE", 0.3)
    held = await taken(connection)
    async with keeping("postgresql://nobody@127.0.0.1:1/none", held):
        with pytest.raises(DatabaseAway, match=f"The artifact 'a' of job {held[0]} was not written: .* is away: "):
            async with NewArtifact(held, "a", "a/b"):
                pass
    assert drafts == {}


async def test_an_error_of_a_write_that_the_handler_swallows_spoils_the_artifact(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "PATIENCE", 0.3)
    held = await taken(connection)
    async with keeping(database_url, held) as session:
        with pytest.raises(DatabaseAway):  # noqa: PT012 - the end of the block raises
            async with NewArtifact(held, "a", "a/b") as file:
                url, session._url = session._url, "postgresql://nobody@127.0.0.1:1/none"
                await connection.fetchval(ENDED_BY_FORCE)
                with pytest.raises(DatabaseAway):
                    await file.write(b"x" * 2 * MIB)
                session._url = url
        with pytest.raises(ArtifactRefused, match="was cut off"):  # noqa: PT012 - the end of the block raises
            async with NewArtifact(held, "b", "a/b") as file:
                with anyio.move_on_after(0) as scope:
                    await file.write(b"x" * 2 * MIB)
                assert scope.cancelled_caught

        async def is_clean() -> bool:
            return await rows(connection) == (0, 0, 0)

        await eventually(is_clean)
    assert drafts == {}


async def test_pieces_that_a_crash_of_the_database_has_lost_are_missed(
    connection: Connection, database_url: str
) -> None:
    """Pieces wait for the disk only with the end of their artifact."""
    held = await taken(connection)
    async with keeping(database_url, held):
        with pytest.raises(ArtifactRefused, match="has lost pieces in a crash"):  # noqa: PT012 - the end of the block raises
            async with NewArtifact(held, "a", "a/b") as file:
                await file.write(b"x" * 2 * MIB)
                await eventually(lambda: has_sent(connection, 2))
                await connection.execute("delete from pushq.artifact_pieces where place = 1")
                await connection.execute("update pushq.artifact_drafts set pieces = 1, size = $1", MIB)
                await file.write(b"x" * 2 * MIB)
        with pytest.raises(ArtifactRefused, match="or begin the artifact again if the database has lost pieces"):  # noqa: PT012 - the end of the block raises
            async with NewArtifact(held, "b", "a/b") as file:
                await file.write(b"x" * 2 * MIB)
                await eventually(lambda: has_sent(connection, 2))
                await connection.execute("update pushq.artifact_drafts set pieces = 1, size = $1", MIB)
    assert await left(database_url, held[0]) == {}


async def test_who_writes_when_the_pool_has_ended_is_told_and_does_not_hang(
    connection: Connection, database_url: str
) -> None:
    held = await taken(connection)
    told: list[BaseException] = []

    def write() -> None:
        try:
            with NewArtifact(held, "a", "a/b") as file:
                begun.append(True)
                while True:
                    file.write(b"x" * MIB)
        except PushqError as error:
            told.append(error)

    begun: list[bool] = []
    thread = Thread(target=write)

    async def has_begun() -> bool:
        return bool(begun)

    async with keeping(database_url, held):
        thread.start()
        await eventually(has_begun)
    await anyio.to_thread.run_sync(thread.join, 10)
    assert "the pool has ended" in str(told[0])


async def test_a_with_that_would_block_the_loop_is_refused(connection: Connection, database_url: str) -> None:
    held = await taken(connection)
    async with keeping(database_url, held):
        with pytest.raises(PushqError, match="use `async with`"), NewArtifact(held, "a", "a/b"):
            pass


async def test_a_write_that_is_not_awaited_gives_the_artifact_up(connection: Connection, database_url: str) -> None:
    held = await taken(connection)
    async with keeping(database_url, held):
        with (  # noqa: PT012, PT031 - the end of the block raises
            pytest.warns(RuntimeWarning, match="never awaited"),
            pytest.raises(ArtifactRefused, match="'a' is not whole: 2 of its writes were called and not awaited"),
        ):
            async with NewArtifact(held, "a", "a/b") as file:
                await file.write(b"x")
                for _ in range(2):
                    file.write(b"y")  # type: ignore[unused-coroutine]
                    gc.collect()
        async with NewArtifact(held, "b", "a/b") as file:
            await asyncio.gather(file.write(b"x"), asyncio.create_task(file.write(b"y")))
    assert await left(database_url, held[0]) in ({"b": b"xy"}, {"b": b"yx"})
    assert drafts == {}


async def test_what_is_no_bytes_is_refused_with_the_artifact_s_name(connection: Connection, database_url: str) -> None:
    held = await taken(connection)

    def write() -> None:
        with NewArtifact(held, "b", "a/b") as file:
            binary: Any = file
            for write_text in (csv.writer(binary).writerow, binary.write):
                with pytest.raises(TypeError, match="The artifact 'b' is written in bytes, not in str: encode text"):
                    write_text("ab")
            with io.TextIOWrapper(file, "utf-8", newline="") as wrapper:
                csv.writer(wrapper).writerow("ab")

    async with keeping(database_url, held):
        async with NewArtifact(held, "a", "a/b") as file:
            for wrong in ("text", 3, None):
                with pytest.raises(TypeError, match=f"'a' is written in bytes, not in {type(wrong).__name__}"):
                    await file.write(wrong)  # type: ignore[arg-type]
            await file.write(b"whole")
        await anyio.to_thread.run_sync(write)
    assert await left(database_url, held[0]) == {"a": b"whole", "b": b"a,b\r\n"}


async def test_through_a_transaction_pooler_they_are_written_and_read(
    connection: Connection, database_url: str
) -> None:
    files = [{"name": "a", "size": 3 * MIB + 1}]
    with pooling(database_url) as pooled:
        with supervising(pooled, WAKE="poll", POLL_INTERVAL="0.2"):
            (job,) = await insert(connection, "artifacts", payload={"files": files})
            await finished(connection, job)
        assert await left(pooled, job) == {"a": b"1" * (3 * MIB + 1)}
