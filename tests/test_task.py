"""Tasks and their registry."""

from __future__ import annotations

import contextvars
import json
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any, assert_type
from uuid import UUID, uuid4

import pytest
from pydantic import AfterValidator, BaseModel, Field

from pushq import Job, NewJob, Task, Tasks, current_job
from pushq.current import set_current_job
from pushq.errors import PayloadError, PushqError, TasksError
from tests.test_outcome import JOB

tasks = Tasks()


class Address(BaseModel):
    city: str


class Unfinished(BaseModel):
    a: "Missing"  # type: ignore[name-defined] # noqa: F821, UP037


class Handle:
    """Nothing that JSON has."""

    async def open(self, path: int) -> int:
        return path

    async def __call__(self, number: int) -> int:
        return number


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
    assert_type(await welcome(user_id=7), str)
    assert_type(welcome.job(user_id=7), NewJob)
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
        ('["secret"]', "payload: Input should be an object"),
        ('{"secret', "cannot be read: EOF while parsing a string"),
        ('{"user_id": ' + "1" * 10_000 + "}", "an integer has too many digits"),
        ('{"user_id": ' + "[" * 100_000 + "}", "nested more than 200 levels deep"),
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


async def generator() -> AsyncIterator[int]:
    yield 1


class Generator:
    def __call__(self) -> Iterator[int]:
        yield 1


def positional(a: int, /) -> None: ...
def variadic(*a: int) -> None: ...
def field(a: int = Field(3)) -> None: ...
def unresolved(a: "Nothing") -> None: ...  # type: ignore[name-defined] # noqa: F821, UP037
def unfinished(a: Unfinished) -> None: ...
def syntax(a: "int(") -> None: ...  # type: ignore[valid-type, syntax, unused-ignore] # noqa: F722
def not_json(a: Handle) -> None: ...


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (generator, "is a generator"),
        (partial(generator), "generator is a generator"),
        (Generator(), "Generator is a generator"),
        (positional, "can only be given by position"),
        (variadic, "can only be given by position"),
        (field, "has a Field for its default"),
        (unresolved, "cannot be resolved: name 'Nothing' is not defined; define or import"),
        (unfinished, "'Missing' is not defined"),
        (syntax, "cannot be resolved"),
        (not_json, r"JSON cannot fill: <class '.*Handle'>; use a dataclass or .*, or Resource\[…\] for"),
        (Handle, "is not a function"),
        (3, "is not a function"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_registered(function: Any, complaint: str) -> None:
    registry = Tasks()
    with pytest.raises(TasksError, match=f"^Task 'it': .*{complaint}"):
        registry.register("it")(function)

    assert registry.names == ()


def test_two_tasks_of_one_name_are_refused_and_both_are_named() -> None:
    registry = Tasks()
    registry.register("taken")(odd_names)
    with pytest.raises(TasksError, match=r"Two tasks are named 'taken': .*\.odd_names and .*\.add; rename one"):
        registry.register("taken")(add)

    assert registry.find("taken").original is odd_names.original


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 0},
        {"max_attempts": 10_001},
        {"max_attempts": True},
        {"timeout": timedelta(0)},
        {"timeout": 30},
        {"queue": ""},
        {"queue": "\ud800"},
        {"name": "x" * 201},
        {"name": "a\x00b"},
        {"name": lambda: None},
        {"backoff": 3},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_option_out_of_range_is_refused_in_a_sentence(options: dict[str, Any]) -> None:
    with pytest.raises(TasksError, match=r"task.*\.$"):
        Tasks().register(**({"name": "task"} | options))


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("retries", "did you mean max_attempts?"),
        ("max_retries", "did you mean max_attempts?"),
        ("time_limit", "did you mean timeout?"),
        ("qeue", "did you mean queue?"),
        ("priority", "a job has it: dataclasses.replace(task.job(…), priority=…)."),
        (
            "serializer",
            "there are queue, max_attempts, timeout, backoff, retry_on, fail_on, needs, batch, transactional.",
        ),
    ],
)
def test_an_option_that_there_is_not_is_answered_with_the_one_that_was_meant(option: str, remedy: str) -> None:
    with pytest.raises(TasksError) as refused:
        Tasks().register("it", **{option: 3})  # type: ignore[call-overload]
    assert str(refused.value) == f"Task 'it': register() has no option '{option}'; {remedy}"


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
    def handler() -> None:
        set_current_job(JOB)
        assert current_job() is JOB
        assert contextvars.copy_context().run(current_job) is JOB  # in what it starts, too
        with pytest.raises(PushqError):
            contextvars.Context().run(current_job)

    contextvars.copy_context().run(handler)
    with pytest.raises(PushqError, match="no job is running here"):
        current_job()


def test_a_parameter_may_have_the_name_of_a_method_s_own() -> None:
    def reflexive(self: int, cls: int) -> int:
        return self - cls

    task = Tasks().register("reflexive")(reflexive)

    assert task.job(self=3, cls=1).payload == {"self": 3, "cls": 1}
    assert task(**task.arguments('{"self": 3, "cls": 1}')) == 2


async def add(a: int, b: int) -> int:
    return a + b


@pytest.mark.parametrize(
    ("handler", "argument"),
    [(partial(add, b=2), "a"), (partial(add, 1), "b"), (Handle().open, "path"), (Handle(), "number")],
    ids=["partial by name", "partial by position", "bound method", "object"],
)
def test_whatever_can_be_called_is_checked_like_a_function(handler: Callable[..., object], argument: str) -> None:
    task = Tasks().register("it")(handler)

    assert task.is_async
    assert task.job(**{argument: 7}).payload == {argument: 7}
    with pytest.raises(PayloadError, match=f"{argument}: Input should be a valid integer"):
        task.arguments(json.dumps({argument: "seven"}))


def test_one_function_may_have_two_names() -> None:
    registry = Tasks()
    first = registry.register("first")(add)

    assert registry.register("second")(first).original is add


def test_the_others_are_checked_by_their_annotation_too() -> None:
    task = Tasks().register("counts")(lambda **_: None)
    task.arguments('{"x": "any"}')

    def counts(**numbers: int) -> None: ...

    with pytest.raises(PayloadError, match="x: Input should be a valid integer"):
        Tasks().register("counts")(counts).arguments('{"x": "no"}')


def test_what_a_value_was_made_with_is_what_every_attempt_gets() -> None:
    class Order(BaseModel):
        key: UUID = Field(default_factory=uuid4)

    def place(order: Order, times: int = 1) -> None: ...

    place.__annotations__["order"] = Order  # it is local, and annotations are text here
    task, order = Tasks().register("place")(place), Order()
    job = task.job(order)

    assert job.payload == {"order": {"key": str(order.key)}}
    assert task.arguments(json.dumps(job.payload)) == {"order": order, "times": 1}


CIRCULAR: list[object] = []
CIRCULAR.append(CIRCULAR)


@pytest.mark.parametrize(
    "value",
    [float("nan"), {"a": float("inf")}, "\x00", "\ud800", 10**5000, object(), b"\xff", CIRCULAR],
    ids=lambda value: type(value).__name__,
)
def test_an_argument_that_jsonb_cannot_hold_is_refused_and_never_becomes_null(value: object) -> None:
    with pytest.raises(PayloadError, match="cannot be JSON"):
        open_ended.job(1, x=value)


def test_a_validator_that_breaks_hurts_only_its_own_job() -> None:
    def breaks(_: str) -> str:
        raise ZeroDivisionError("secret")

    def handler(a: str) -> None: ...

    handler.__annotations__["a"] = Annotated[str, AfterValidator(breaks)]
    with pytest.raises(PayloadError, match=r"^A validator of task 'it' raised ZeroDivisionError\.$"):
        Tasks().register("it")(handler).arguments('{"a": ""}')


def test_running_out_of_memory_is_not_the_payload_s_fault() -> None:
    def exhausts(_: str) -> str:
        raise MemoryError

    def handler(a: str) -> None: ...

    handler.__annotations__["a"] = Annotated[str, AfterValidator(exhausts)]
    with pytest.raises(MemoryError):
        Tasks().register("it")(handler).arguments('{"a": ""}')


def test_another_queue_s_name_for_an_insertion_is_answered_with_ours() -> None:
    with pytest.raises(AttributeError, match=r"A Task has no 'delay'; write `await Queue\(\).insert\(task.job"):
        welcome.delay(1)  # type: ignore[attr-defined]
    assert not hasattr(welcome, "anything")


def test_a_transactional_handler_is_an_async_def_that_takes_one_job() -> None:
    tasks = Tasks()

    with pytest.raises(TasksError, match="transactional=True needs an `async def`"):
        tasks.register("it", transactional=True)(lambda: None)
    with pytest.raises(TasksError, match="a transactional handler takes one job"):
        tasks.register("it", batch=2, transactional=True)(several)  # type: ignore[call-overload]
    with pytest.raises(TasksError, match="transactional is True or False, not 'yes'"):
        tasks.register("it", transactional="yes")(several)  # type: ignore[call-overload]


async def several(jobs: list[Job[dict[str, object]]]) -> None: ...


# Schedules ------------------------------------------------------------------------------------------------------


def test_a_schedule_declares_what_its_row_will_say() -> None:
    tasks = Tasks()

    @tasks.schedule("0 2 * * *", tz="Europe/Berlin")
    @tasks.schedule(
        every=timedelta(minutes=5), name="often", payload={"day": "monday"}, queue="other", needs=["gpu"], missed="all"
    )
    @tasks.register("report.build", queue="reports")
    async def build(day: str = "today") -> str:
        return day

    assert isinstance(build, Task)
    often, daily = tasks.schedules
    assert (daily.name, daily.task, daily.cron, daily.zone, daily.every, daily.payload, daily.queue, daily.missed) == (
        "report.build", "report.build", "0 2 * * *", "Europe/Berlin", None, "{}", "reports", "once",
    )  # fmt: skip
    assert (often.cron, often.every, json.loads(often.payload), often.queue, often.needs, often.missed) == (
        None, timedelta(minutes=5), {"day": "monday"}, "other", {"gpu": 1}, "all",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"cron": "x"}, "Schedule 'report.build': 'x' has not five fields"),
        ({"cron": "0 0 30 2 *"}, "never comes due"),
        ({"cron": "* * * * *", "tz": "Mars"}, "The zone 'Mars' is not known"),
        ({}, "A schedule has either a cron expression or an interval."),
        ({"cron": "* * * * *", "every": timedelta(hours=1)}, "either a cron expression or an interval"),
        ({"every": timedelta(0)}, "An interval is 1 second to 3660 days"),
        ({"cron": "* * * * *", "payload": {"dya": "monday"}}, "Schedule 'report.build': "),
        ({"cron": "* * * * *", "missed": "twice"}, "missed is 'once', 'skip', 'all', not 'twice'."),
        ({"cron": "* * * * *", "name": ""}, "A schedule's name has 1 to 200 printable characters"),
        ({"cron": "* * * * *", "name": "x" * 201}, "A schedule's name has 1 to 200 printable characters"),
        ({"cron": "* * * * *", "queue": "pushq.webhooks"}, "the queue 'pushq.webhooks' is for pushq"),
        ({"cron": "* * * * *", "needs": {"gpu": 0}}, "needs"),
        ({"cron": "* * * * *", "name": "taken"}, "Two schedules are named 'taken'; give one another name, name='…'."),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_where_it_is_declared(options: dict[str, Any], sentence: str) -> None:
    tasks = Tasks()
    build = tasks.register("report.build")(lambda day="today": day)
    tasks.schedule("* * * * *", name="taken")(build)
    with pytest.raises(TasksError) as raised:
        tasks.schedule(**options)(build)
    assert sentence in str(raised.value)
    assert len(tasks.schedules) == 1


def test_a_schedule_stands_above_the_registration() -> None:
    tasks = Tasks()
    with pytest.raises(TasksError, match=r"@tasks.schedule\(…\) stands above @tasks.register\(…\), not below."):
        tasks.schedule("* * * * *")(lambda: None)
