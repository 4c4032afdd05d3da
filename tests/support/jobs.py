"""Jobs as a plain SQL client sees them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

import asyncpg

from tests.support.waiting import eventually

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection


async def insert(connection: Connection, task: str, count: int = 1, **columns: Any) -> list[UUID]:
    """Inserts equal jobs; `payload` and `needs` are values for JSON, the other columns are as asyncpg takes them."""
    given = {"task": task} | columns
    given |= {
        name: json.dumps(value) for name, value in given.items() if isinstance(value, dict | list) and name != "waiters"
    }
    names = ", ".join(given)
    values = ", ".join(f"${number}" for number in range(1, len(given) + 1))
    rows = await connection.fetch(
        f"insert into pushq.jobs ({names}) select {values} from generate_series(1, {count}) returning id",
        *given.values(),
    )
    return [row["id"] for row in rows]


async def row_of(connection: Connection, job_id: UUID) -> Any:
    return await connection.fetchrow("select * from pushq.jobs where id = $1", job_id)


async def finished(connection: Connection, *job_ids: UUID, within: float = 20) -> list[Any]:
    """The rows of jobs, in the order of the ids, once all are finished."""

    async def look() -> list[Any] | None:
        rows = await connection.fetch(
            "select * from pushq.jobs where id = any($1) and finished_on < 'infinity' order by array_position($1, id)",
            list(job_ids),
        )
        return rows if len(rows) == len(job_ids) else None

    return await eventually(look, within=within) or []


async def count(connection: Connection, where: str = "true") -> int:
    return int(await connection.fetchval(f"select count(*) from pushq.jobs where {where}"))


async def has_count(connection: Connection, expected: int, where: str, within: float = 20) -> None:
    async def look() -> bool:
        return await count(connection, where) == expected

    await eventually(look, within=within)


async def die_with_them(connection: Connection) -> None:
    """All unfinished jobs run, and their supervisor is dead."""
    await connection.execute(
        """
        insert into pushq.supervisors (name, host, pid, lease, lease_until)
        values ('dead', 'here', 1, '1 microsecond', now());
        update pushq.jobs_unfinished
        set status = 'running', supervisor = 'dead', pool = 1, attempt = attempt + 1, token = gen_random_uuid(),
            started_at = now()
        """
    )
