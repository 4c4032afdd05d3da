"""Tasks whose handlers take batches: what may be registered, and what a job of such a task is."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from pushq import Job, Resource, Task, Tasks
from pushq.batch import BatchForm
from pushq.errors import PayloadError, TasksError


class Mail(BaseModel):
    to: str
    copies: int = 1


@dataclass
class Letter:
    to: str


def batch(function: Callable[..., Any]) -> Task[..., Any]:
    return Tasks().register("mail", batch=10, queue="mails")(function)


@batch
async def send(jobs: list[Job[Mail]]) -> None: ...


def decoded(task: Task[..., Any], payload: str) -> Any:
    assert isinstance(task.form, BatchForm)
    job = Job[str](UUID(int=1), task.name, "default", payload, 3, 2, 0, None, None, "acme", None, UUID(int=2))
    given = task.form.decoded(job)
    assert given._replace(payload=payload) == job
    return given.payload


@pytest.mark.parametrize(
    ("annotation", "comes"),
    [
        (list[Job[Mail]], Mail(to="ada")),
        (Sequence[Job[Letter]], Letter(to="ada")),
        (list[Job[dict[str, str]]], {"to": "ada"}),
        (list[Job], {"to": "ada"}),
        (Annotated[list[Annotated[Job[Annotated[Mail, "a mail"]], "a job"]], "some"], Mail(to="ada")),
        (list, {"to": "ada"}),
        (None, {"to": "ada"}),
    ],
)
def test_each_job_of_the_list_has_its_payload_as_annotated(annotation: Any, comes: object) -> None:
    def handler(jobs): ...  # type: ignore[no-untyped-def]

    handler.__annotations__ = {"jobs": annotation} if annotation else {}
    task = batch(handler)

    assert decoded(task, '{"to": "ada"}') == comes
    assert task.job(comes).payload if annotation == list[Job[Mail]] else True
    assert (task.batch, task.job(to="ada").task, task.job(to="ada").queue) == (10, "mail", "mails")


def test_a_payload_that_does_not_fit_is_refused_where_the_job_is_made_and_where_it_is_read() -> None:
    with pytest.raises(PayloadError, match=r"payload\.to: Input should be a valid string"):
        send.job(to=7)
    with pytest.raises(PayloadError, match=r"payload\.to: Field required"):
        send.job()
    with pytest.raises(PayloadError, match=r"The payload does not fit task 'mail': payload\.to: Field required"):
        decoded(send, "{}")
    with pytest.raises(PayloadError, match="give the payload of one job, or its fields by name"):
        send.job(Mail(to="ada"), copies=2)
    with pytest.raises(PayloadError, match="is to be an object, not list"):
        batch(_of_anything).job([1])
    with pytest.raises(PayloadError, match="The payload of task 'mail' has no 'copis'"):
        send.job(to="ada", copis=2)
    with pytest.raises(PayloadError, match="The payload of task 'mail' has no 'copis'"):
        send.job({"to": "ada", "copis": 2})


def _of_anything(jobs: list[Job[Any]]) -> None: ...


def test_a_job_s_payload_is_all_of_the_payload() -> None:
    assert send.job(to="ada").payload == {"to": "ada", "copies": 1}
    assert decoded(send, json.dumps({"to": 'a"}, "payload": {"to": "b'})).to == 'a"}, "payload": {"to": "b'


def test_what_handlers_share_comes_beside_the_list_whatever_its_name() -> None:
    @batch
    async def handler(jobs: list[Job], payload: Resource[str], argument_0: Resource[str]) -> None: ...

    assert handler.form.resources == {"payload": str, "argument_0": str}
    assert decoded(handler, '{"n": 1}') == {"n": 1}


def test_a_call_runs_the_function_itself() -> None:
    @batch
    def count(jobs: list[Job]) -> int:
        return len(jobs)

    assert count([]) == 0


async def _two(jobs: list[Job], to: str) -> None: ...
async def _none() -> None: ...
async def _any(**jobs: Any) -> None: ...
async def _mails(jobs: list[Mail]) -> None: ...
async def _one(job: Job[Mail]) -> None: ...
async def _number(jobs: list[Job[int]]) -> None: ...
async def _list(jobs: list[Job[list[int]]]) -> None: ...


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (_two, "_two takes batches, and so one argument, `jobs: list[Job[…]]`, beside resources"),
        (_none, "_none takes batches, and so one argument"),
        (_any, "_any takes batches, and so one argument"),
        (_mails, r"parameter 'jobs' of tests.test_batch._mails takes a batch; annotate it as list[Job[T]]"),
        (_one, r"parameter 'job' of tests.test_batch._one takes a batch; annotate it as list[Job[T]]"),
        (_number, "takes a batch, and a payload is an object, never a int"),
        (_list, "takes a batch, and a payload is an object, never a list"),
    ],
)
def test_a_function_that_cannot_take_a_batch_is_refused(function: Callable[..., Any], sentence: str) -> None:
    with pytest.raises(TasksError) as refused:
        batch(function)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("size", [0, -1, 2001, True, "10", 1.5])
def test_a_size_that_no_batch_can_have_is_refused(size: Any) -> None:
    with pytest.raises(TasksError, match=r"Task 'mail': batch is between 1 and 2,000, not"):
        Tasks().register("mail", batch=size)(send)
