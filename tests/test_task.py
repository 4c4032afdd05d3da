"""Tasks and their registry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, assert_type
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from pushq import NewJob, Task, Tasks, current_job
from pushq.errors import PayloadError, PushqError, TasksError
from pushq.job import TRANSITIONS, Status
from pushq.task import running
from tests.test_outcome import JOB

tasks = Tasks()


class Address(BaseModel):
    city: str


@tasks.register("mail.welcome", queue="mail", max_attempts=3, timeout=timedelta(seconds=30))
async def welcome(user_id: int, when: datetime | None = None, address: Address | None = None) -> str:
    return f"{user_id} {when} {address}"


@tasks.register("odd.names")
def odd_names(schema: int, copy: int, _private: int, model_config: int = 0) -> list[int]:
    return [schema, copy, _private, model_config]


@tasks.register("open")
def open_ended(known: int, **rest: object) -> tuple[int, dict[str, object]]:
    return known, rest


async def test_a_task_is_called_like_the_function_it_wraps() -> None:
    assert_type(odd_names(1, 2, 3), list[int])
    assert await welcome(user_id=7) == "7 None None"
    assert odd_names(1, 2, _private=3) == [1, 2, 3, 0]
    assert isinstance(welcome, Task)


def test_a_job_is_made_of_the_handler_s_arguments() -> None:
    job = welcome.job(7, when=datetime(2026, 1, 2, tzinfo=UTC), address=Address(city="Ulm"))

    assert job == NewJob(
        "mail.welcome",
        {"user_id": 7, "when": "2026-01-02T00:00:00Z", "address": {"city": "Ulm"}},
        queue="mail",
    )


def test_arguments_come_back_as_their_annotations_have_them() -> None:
    assert welcome.arguments('{"user_id": 7, "address": {"city": "Ulm"}}') == {
        "user_id": 7,
        "when": None,
        "address": Address(city="Ulm"),
    }
    assert odd_names(**odd_names.arguments('{"schema": 1, "copy": 2, "_private": 3}')) == [1, 2, 3, 0]
    assert open_ended(**open_ended.arguments('{"known": 1, "x": [2]}')) == (1, {"x": [2]})
    assert open_ended.job(1, x=2).payload == {"known": 1, "x": 2}


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        ('{"user_id": "secret"}', "user_id: Input should be a valid integer"),
        ('{"user_id": 1, "address": {}}', "address.city: Field required"),
        ('{"user_id": 1, "usr": "secret"}', "usr: Extra inputs are not permitted"),
        ("{}", "user_id: Field required"),
        ('["secret"]', "payload: Input should be a valid dictionary"),
        ('{"secret', "cannot be read: Unterminated string"),
        ('{"user_id": ' + "1" * 10_000 + "}", "an integer has too many digits"),
        ('{"user_id": ' + "[" * 100_000 + "}", "nested too deeply"),
    ],
)
def test_a_payload_that_does_not_fit_names_the_field_and_never_the_value(payload: str, complaint: str) -> None:
    with pytest.raises(PayloadError) as refusal:
        welcome.arguments(payload)

    assert complaint in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_a_job_of_arguments_that_do_not_fit_is_refused_where_it_is_made() -> None:
    with pytest.raises(PayloadError, match="user_id"):
        welcome.job("seven")  # type: ignore[arg-type]
    with pytest.raises(PayloadError, match="missing a required argument"):
        welcome.job()  # type: ignore[call-arg]


def test_a_name_that_was_meant_is_pointed_out() -> None:
    with pytest.raises(TasksError, match=r"No task named 'mail.welcom' is registered; did you mean 'mail.welcome'\?"):
        tasks.find("mail.welcom")


def test_what_cannot_work_is_refused_when_it_is_registered() -> None:
    registry = Tasks()
    registry.register("taken")(lambda: None)

    async def generator() -> AsyncIterator[int]:
        yield 1

    def positional(a: int, /) -> None: ...
    def variadic(*a: int) -> None: ...
    def unresolved(a: "Nothing") -> None: ...  # type: ignore[name-defined] # noqa: F821, UP037

    for function, complaint in (
        (generator, "is a generator"),
        (positional, "can only be given by position"),
        (variadic, "can only be given by position"),
        (unresolved, "cannot be resolved"),
        (3, "is not a function"),
    ):
        with pytest.raises(TasksError, match=complaint):
            registry.register("task")(function)  # type: ignore[arg-type]
    with pytest.raises(TasksError, match="Two tasks are named 'taken'"):
        registry.register("taken")(lambda: None)
    for options in ({"max_attempts": 0}, {"timeout": timedelta(0)}, {"queue": ""}, {"name": "x" * 201}):
        with pytest.raises(TasksError):
            registry.register(**({"name": "task"} | options))


def test_a_registry_knows_its_names_and_queues() -> None:
    assert tasks.names == ("mail.welcome", "odd.names", "open")
    assert tasks.queues == ("default", "mail")
    assert len(tasks) == len(list(tasks)) == 3


def test_annotations_may_carry_rules() -> None:
    registry = Tasks()

    @registry.register("bounded")
    def bounded(share: Annotated[float, Field(ge=0, le=1)], owner: UUID) -> None: ...

    with pytest.raises(PayloadError, match="share: Input should be less than or equal to 1"):
        bounded.arguments('{"share": 2, "owner": "00000000-0000-0000-0000-000000000000"}')


def test_the_current_job_is_there_in_a_handler_and_nowhere_else() -> None:
    with running(JOB):
        assert current_job() is JOB
    with pytest.raises(PushqError, match="no job is running here"):
        current_job()


def test_every_status_has_its_transitions_and_only_retry_leaves_a_finished_one() -> None:
    assert set(TRANSITIONS) == set(Status)
    for status, following in TRANSITIONS.items():
        if status.is_finished:
            assert following == {Status.QUEUED}


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        NewJob("x", run_at=datetime(2026, 1, 1))  # noqa: DTZ001
