"""Jobs with the same affinity run one after the other on the same worker, and nobody waits for ever."""

from __future__ import annotations

from uuid import UUID

from tests.support.jobs import Connection, finished, insert
from tests.support.supervisors import supervising
from tests.support.waiting import eventually


async def mixed(connection: Connection, models: str, seconds: float = 0.0) -> list[UUID]:
    return [(await insert(connection, "load", affinity=model, payload={"seconds": seconds}))[0] for model in models]


async def test_one_worker_drains_one_model_before_the_next(database_url: str, connection: Connection) -> None:
    await connection.execute("select pushq.set_turn('default', '60 s')")
    jobs = await mixed(connection, "ababcbacabcbabcc" * 4)
    with supervising(database_url, CONCURRENCY="1", POLL_INTERVAL="0"):
        rows = await finished(connection, *jobs)
    rows = sorted(rows, key=lambda row: row["started_at"])
    assert [row["affinity"] for row in rows] == ["a"] * 20 + ["b"] * 24 + ["c"] * 20
    assert sum(row["result"] == "true" for row in rows) == 3


async def test_a_stream_of_one_model_gives_way_to_another_after_the_turn(
    database_url: str, connection: Connection
) -> None:
    await connection.execute("select pushq.set_turn('default', '300 ms')")
    many = await mixed(connection, "a" * 30, 0.05)
    [other] = await mixed(connection, "b", 0.05)
    many += await mixed(connection, "a" * 60, 0.05)
    with supervising(database_url, CONCURRENCY="1", POLL_INTERVAL="0"):
        rows = sorted(await finished(connection, *many, other), key=lambda row: row["started_at"])
    assert [row["affinity"] for row in rows].index("b") <= 50
    assert sum(row["result"] == "true" for row in rows) == 3


async def test_each_of_several_workers_keeps_its_model(database_url: str, connection: Connection) -> None:
    await connection.execute("select pushq.set_turn('default', '60 s')")
    await connection.execute(
        "insert into pushq.resources (name, capacity) values ('affinity:a', 1), ('affinity:b', 1), ('affinity:c', 1)"
    )
    with supervising(database_url, CONCURRENCY="3", POLL_INTERVAL="0"):
        for _ in range(5):
            rows = await finished(connection, *await mixed(connection, "abcabcabcabc", 0.02))
            loads = sum(row["result"] == "true" for row in rows)
        assert loads == 0
        held = "select array_agg(affinity || ' ' || workers order by affinity) from pushq.affinities"

        async def is_told() -> bool:
            return bool(await connection.fetchval(held) == ["a 1", "b 1", "c 1"])

        await eventually(is_told)
