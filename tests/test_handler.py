"""Whatever is registered does the work when a worker calls it, or is refused."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest

from pushq import Tasks
from pushq.errors import TasksError
from pushq.trace import trace


async def waits(to: str, times: int = 2) -> str:
    return to * times


def calls(to: str, times: int = 2) -> str:
    return to * times


def returns_a_coroutine(to: str) -> Any:
    return waits(to)


async def fails_in_an_async_def() -> None:
    await asyncio.sleep(0)
    raise KeyError("missing")


def fails_in_a_def() -> None:
    raise KeyError("missing")


def passes_on(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def passes_on_by_position(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def passes_on_by_position_and_waits(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any) -> Any:
        return await function(*args)

    return wrapper


def passes_nothing_on(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper() -> Any:
        return function("lost")

    return wrapper


def runs_it(function: Callable[..., Any]) -> Callable[..., Any]:
    """In a loop of its own, as a decorator for commands does."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(function(*args, **kwargs))

    return wrapper


def listed(function: Callable[..., Iterator[Any]]) -> Callable[..., str]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> str:
        return "".join(function(*args, **kwargs))

    return wrapper


class Mailer:
    def send(self, to: str) -> str:
        return to

    async def wait(this, to: str) -> str:  # noqa: N805
        return to

    @functools.singledispatchmethod
    def dispatch(self, to: str) -> str:
        return to

    @passes_on
    def decorated(self, to: str) -> str:
        return to

    @classmethod
    def of_class(cls, to: str) -> str:
        return to * 2

    @staticmethod
    def static(to: str) -> str:
        return to * 2

    class Inner:
        def send(self, to: str) -> str:
            return to


def generates(to: str) -> Iterator[str]:
    yield from (to, to)


async def generates_and_waits(to: str) -> AsyncIterator[str]:
    yield to


WORK: dict[str, Callable[..., Any]] = {
    "async def": waits,
    "def": calls,
    "def around async def": passes_on(waits),
    "two of them": passes_on(passes_on(waits)),
    "def that runs an async def": runs_it(waits),
    "def that returns a coroutine": returns_a_coroutine,
    "def of a coroutine of keywords": lambda *, to: waits(to=to),
    "decorator that takes positions": passes_on_by_position(calls),
    "decorator that takes positions, around async def": passes_on_by_position(waits),
    "async decorator that takes positions": passes_on_by_position_and_waits(waits),
    "singledispatch": functools.singledispatch(calls),
    "singledispatch, async": functools.singledispatch(waits),
    "singledispatch, decorated": passes_on(functools.singledispatch(calls)),
    "partial": partial(calls, times=2),
    "partial, of async def": partial(passes_on(waits), times=2),
    "partial, of a method": partial(Mailer.send, Mailer()),
    "method": Mailer().send,
    "async method": Mailer().wait,
    "decorated method": Mailer().decorated,
    "method of a class": Mailer.of_class,
    "static method": Mailer.static,
    "static method, as it stands in a class": staticmethod(calls),
    "cached": functools.lru_cache(calls),
    "cached, async": functools.cache(waits),
    "generator that a decorator uses up": listed(generates),
}


@pytest.mark.parametrize("kind", WORK)
def test_what_can_be_called_by_name_does_the_work(kind: str) -> None:
    task = Tasks().register("it")(WORK[kind])
    arguments = task.arguments(json.dumps({"to": "x"}))
    value = asyncio.run(task.function(**arguments)) if task.is_async else task.function(**arguments)

    assert value in ("x", "xx")


REFUSED: dict[str, tuple[Any, str]] = {
    "generator": (generates, "is a generator"),
    "async generator": (generates_and_waits, "is a generator"),
    "context manager": (contextlib.contextmanager(generates), "is a context manager; call it in a `with` of a def"),
    "async context manager": (contextlib.asynccontextmanager(generates_and_waits), "is a context manager"),
    "decorated context manager": (passes_on(contextlib.contextmanager(generates)), "is a context manager"),
    "method of no object": (Mailer.send, "Mailer.send is a method without its object, 'self'; register the method of"),
    "async one, of another name": (Mailer.wait, "is a method without its object, 'this'"),
    "decorated one": (Mailer.decorated, "is a method without its object"),
    "one in a partial": (partial(Mailer.send, to="x"), "is a method without its object"),
    "one of an inner class": (Mailer.Inner.send, "is a method without its object"),
    "one that dispatches": (Mailer().dispatch, "is a method without its object"),
    "decorator that takes nothing": (passes_nothing_on(calls), "does not take 'to', which is in its signature"),
    "class": (Mailer, "is not a function"),
    "coroutine": (None, "is not a function"),
    "builtin": (print, "can only be given by position"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_not_do_the_work_is_refused_in_a_sentence(kind: str) -> None:
    function, complaint = REFUSED[kind]
    with pytest.raises(TasksError, match=rf"^Task 'it': .*{complaint}.*\.$"):
        Tasks().register("it")(function)


def test_a_method_is_refused_while_its_class_is_being_made() -> None:
    registry = Tasks()
    with pytest.raises(TasksError, match="is a method without its object"):

        class _Service:
            @registry.register("it")
            def send(self, to: str) -> str:
                return to


def test_a_task_is_still_called_as_the_function_that_it_is() -> None:
    """Of a `def` that returns a coroutine a test gets that coroutine."""
    task = Tasks().register("it")(passes_on(waits))

    assert asyncio.run(task("x")) == "xx"
    assert Tasks().register("it")(functools.singledispatch(calls))("x", times=3) == "xxx"


@pytest.mark.parametrize("fails", [passes_on(fails_in_an_async_def), fails_in_a_def])
def test_a_traceback_begins_in_the_user_s_code_however_it_is_called(fails: Callable[..., Any]) -> None:
    task = Tasks().register("it")(fails)
    with pytest.raises(KeyError) as raised:
        task.function()

    frames = raised.value.__traceback__
    found = trace(raised.value.with_traceback(frames and frames.tb_next))  # without this test's own
    assert found
    assert "pushq/handler.py" not in found.text
    assert "anyio" not in found.text
    assert found.place.startswith("tests/test_handler.py:")
