"""The producer's side in Python."""

from __future__ import annotations

import asyncpg
import pytest

from pushq import NewJob, Queue
from pushq.errors import PayloadError
from tests.support.jobs import Connection, count


async def test_a_job_is_inserted_in_the_caller_s_transaction(connection: Connection) -> None:
    transaction = connection.transaction()
    await transaction.start()
    assert await Queue().insert(NewJob("a"), connection=connection)
    await transaction.rollback()

    assert await count(connection) == 0


async def test_many_are_inserted_at_once_and_those_whose_key_is_taken_are_left_out(connection: Connection) -> None:
    jobs = [NewJob("a", unique_key=key) for key in ("x", "y", "x")] + [NewJob("a")] * 100

    assert len(await Queue("mail").insert_many(jobs, connection=connection)) == 102
    assert await Queue("mail").insert(NewJob("a", unique_key="y"), connection=connection) is None
    assert await Queue().insert_many([], connection=connection) == []
    assert await count(connection, "queue = 'mail'") == 102


async def test_a_value_that_breaks_a_rule_is_refused_by_its_constraint(connection: Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="jobs_task_has_1_to_200_characters"):
        await Queue().insert_many([NewJob("a"), NewJob("")], connection=connection)
    assert await count(connection) == 0


async def test_a_payload_that_is_not_json_is_refused(connection: Connection) -> None:
    for value in (float("nan"), object()):
        with pytest.raises(PayloadError, match="is not JSON"):
            await Queue().insert(NewJob("a", {"x": value}), connection=connection)


async def test_what_is_no_job_is_refused_with_what_makes_one(connection: Connection) -> None:
    with pytest.raises(TypeError, match=r"takes a job, not a builtin_function_or_method: task\.job\(…\)"):
        await Queue().insert(len, connection=connection)  # type: ignore[arg-type]
