"""A registry's lifespan and middleware, and the parameters that the lifespan fills."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, Protocol, get_args

import pytest

from pushq import Job, Resource, Tasks, injected
from pushq.errors import PayloadError, PushqError, TasksError
from pushq.lifespan import resources_here, set_resources
from pushq.once import yielding_once


class Client:
    pass


class Sends(Protocol):
    def send(self) -> None: ...


async def a_generator() -> AsyncIterator[Client]:
    yield Client()


@asynccontextmanager
async def a_context() -> AsyncIterator[Client]:
    yield Client()


async def a_middleware(_: Job) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize("function", [a_generator, a_context])
async def test_a_lifespan_is_an_async_generator_or_an_async_context_manager(function: Any) -> None:
    tasks = Tasks()
    assert tasks.lifespan(function) is function
    assert tasks.lifespan_of_app
    async with tasks.lifespan_of_app() as value:
        assert isinstance(value, Client)


async def coroutine() -> None: ...


def plain_generator() -> Iterator[None]:
    yield


@pytest.mark.parametrize(
    ("kind", "function", "reason"),
    [
        ("lifespan", coroutine, "is no async context manager; write `async def` with one `yield`."),
        ("lifespan", plain_generator, "is no async context manager"),
        ("lifespan", contextlib.contextmanager(plain_generator), "is no async context manager"),
        ("lifespan", "app:lifespan", "@tasks.lifespan stands above a function, not 'app:lifespan'."),
        ("lifespan", a_middleware, "must take no argument."),
        ("lifespan", None, "@tasks.lifespan() has brackets; write @tasks.lifespan above the function."),
        ("middleware", None, "@tasks.middleware() has brackets; write @tasks.middleware above the function."),
        ("middleware", a_generator, "must take the Job alone."),
        ("middleware", coroutine, "is no async context manager"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(kind: str, function: Any, reason: str) -> None:
    with pytest.raises(TasksError) as refusal:
        getattr(Tasks(), kind)(function)
    assert reason in str(refusal.value)


@pytest.mark.parametrize(("kind", "function"), [("lifespan", a_generator), ("middleware", a_middleware)])
def test_a_second_one_is_refused_and_both_are_named(kind: str, function: Callable[..., Any]) -> None:
    tasks = Tasks()
    getattr(tasks, kind)(function)
    with pytest.raises(TasksError, match=f"There are two functions under @tasks.{kind}: .*{function.__name__} and "):
        getattr(tasks, kind)(function)


def test_a_job_is_made_of_the_arguments_that_are_no_resources() -> None:
    tasks = Tasks()

    @tasks.register("send")
    async def send(to: str, client: Resource[Client] = injected) -> None: ...

    @tasks.register("plain")
    def plain(client: Resource[Client], to: str) -> None: ...

    assert send.job("ada").payload == {"to": "ada"}
    assert plain.job(to="ada").payload == {"to": "ada"}  # type: ignore[call-arg]
    with pytest.raises(PayloadError):
        send.job("ada", client=Client())
    with pytest.raises(PayloadError, match="client: Extra inputs are not permitted"):
        send.arguments('{"to": "ada", "client": 1}')
    token = set_resources(client := Client())
    try:
        assert send.arguments('{"to": "ada"}') == {"to": "ada", "client": client}
    finally:
        token.var.reset(token)


def test_a_resource_that_nothing_yields_or_of_another_type_is_a_misfit() -> None:
    tasks = Tasks()

    @tasks.register("send")
    async def send(client: Resource[Client]) -> None: ...

    assert str(tasks.misfit()).startswith("Task 'send': parameter 'client' is a resource, and there is no lifespan;")
    tasks.lifespan(a_generator)
    assert tasks.misfit() is None
    assert tasks.misfit(Client()) is None
    assert "needs a Client, but the lifespan yields a str." in str(tasks.misfit("client"))


@pytest.mark.parametrize("kind", [Sends, dict[str, int]])
def test_what_nobody_can_tell_at_run_time_is_no_misfit(kind: Any) -> None:
    tasks = Tasks()

    async def send(client: object) -> None: ...

    send.__annotations__["client"] = Annotated[kind, get_args(Resource[Client])[1]]
    tasks.register("send")(send)
    tasks.lifespan(a_generator)
    assert tasks.misfit({}) is None


def test_outside_of_a_pool_there_are_no_resources() -> None:
    with pytest.raises(PushqError, match=r"put @tasks\.lifespan above an async context manager"):
        resources_here()


@pytest.mark.parametrize("kind", ["lifespan", "middleware"])
async def test_what_yields_never_or_twice_is_told_with_its_place(kind: str) -> None:
    async def wrong(*_: Job, times: int) -> AsyncIterator[None]:
        for _time in range(times):
            yield

    for times, told in ((0, "has ended without a `yield`"), (2, "has yielded a second time")):
        function: Any = partial(wrong, times=times)
        arguments = [None] if kind == "middleware" else []
        around = yielding_once(kind, function)(*arguments)
        with pytest.raises(TasksError, match=rf"@tasks\.{kind}: .*wrong {told}; each way through it yields once"):
            async with around:
                pass


async def test_what_is_raised_inside_passes_through_as_it_is() -> None:
    @asynccontextmanager
    async def as_contextlib_would() -> AsyncIterator[None]:
        yield

    async def own() -> AsyncIterator[None]:
        yield

    for error in (RuntimeError("generator didn't stop"), StopAsyncIteration(), GeneratorExit(), ValueError()):
        for around in (as_contextlib_would(), yielding_once("lifespan", own)()):
            with pytest.raises(type(error)) as raised:
                async with around:
                    raise error
            assert raised.value is error
