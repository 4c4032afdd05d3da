"""The producer's side in Python."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from pushq import NewJob, Queue
from pushq.errors import PayloadError
from pushq.producers.inserts import insert_of
from pushq.queue import columns_of
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


@pytest.mark.parametrize("name", ["postgresql://app:secret@localhost/app", "", "a\nb", "x" * 201, 7, b"mail"])
def test_what_is_no_name_of_a_queue_is_refused_without_being_shown(name: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"Queue\(\) takes the name of a queue") as refused:
        Queue(name)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"payload": [1]}, "A job's payload is a dict: {'user_id': 42}, not of type list."),
        ({"priority": "high"}, "A job's priority is an int: -10, not of type str."),
        ({"priority": True}, "A job's priority is an int: -10, not of type bool."),
        ({"timeout": 30}, "A job's timeout is a timedelta: timedelta(seconds=30), not of type int."),
        ({"max_attempts": "5"}, "A job's max_attempts is an int: 5, not of type str."),
        ({"task": tuple}, "A job's task is a str: 'mail.send', not of type type."),
        ({"queue": None}, "A job's queue is a str: 'mail', not of type NoneType."),
        ({"unique_key": 7}, "A job's unique_key is a str: 'report:7', not of type int."),
        (
            {"traceparent": 7},
            "A job's traceparent is a str: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', not of type int.",
        ),
        ({"correlation_id": 7}, "A job's correlation_id is a str: 'order 7', not of type int."),
        ({"limit_key": 7}, "A job's limit_key is a str: 'account 7', not of type int."),
        ({"affinity": 7}, "A job's affinity is a str: 'llama-3', not of type int."),
        ({"tenant_id": 7}, "A job's tenant_id is a str: 'acme', not of type int."),
        (
            {"run_at": "tomorrow"},
            "A job's run_at is a datetime: datetime.now(UTC) + timedelta(hours=1), not of type str.",
        ),
    ],
)
def test_a_value_of_another_type_is_refused_where_the_job_is_made(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TypeError) as refused:
        NewJob(**{"task": "mail.send"} | values)
    assert str(refused.value) == sentence
    with pytest.raises(TypeError):
        replace(NewJob("mail.send"), **values)


@pytest.mark.parametrize("unstorable", ["a\0b", "a\ud800b", "\udfff"])
@pytest.mark.parametrize(
    "column",
    [
        "task",
        "queue",
        "unique_key",
        "tenant_id",
        "correlation_id",
        "traceparent",
        "webhook_url",
        "limit_key",
        "affinity",
    ],
)
def test_text_that_postgresql_does_not_take_is_refused_where_the_job_is_made(column: str, unstorable: str) -> None:
    with pytest.raises(ValueError, match=rf"^A job's {column} has a .*, which PostgreSQL does not take: leave") as told:
        NewJob(**{"task": "mail.send"} | {column: unstorable})  # type: ignore[arg-type]
    assert ("a NUL character" if "\0" in unstorable else "a lone surrogate") in str(told.value)


def test_jobs_that_need_nothing_are_inserted_without_the_columns_of_needs() -> None:
    plain, needy = NewJob("a", webhook_url="https://example.com"), NewJob("a", limit_key="k")

    name, values = insert_of(columns_of([plain] * 2))
    assert (name, len(values), values[-2:]) == ("insert", 13, [[], ["https://example.com"] * 2])
    name, values = insert_of(columns_of([plain, needy]))
    assert (name, values[-4:]) == ("insert_with_needs", [["https://example.com", None], [], [None, "k"], []])


async def test_one_job_in_place_of_several_is_answered_with_what_takes_one() -> None:
    with pytest.raises(TypeError, match="insert_many takes several jobs, and was given one: use insert"):
        columns_of(NewJob("mail.send"))  # type: ignore[arg-type]
