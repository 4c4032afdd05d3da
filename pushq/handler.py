"""Looks at a function that is registered as a handler: a call with arguments by name must do the work.

Decorators stand in the way. A decorator may hide an `async def` behind a `def`, take arguments by position alone, or
return an object that would do the work. A function that can be adapted is adapted. Any other is refused.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import CodeType, CoroutineType, FunctionType, MethodType
from typing import Any, ParamSpec, TypeVar, cast

from pushq.errors import TasksError
from pushq.trace import traceback_of

P = ParamSpec("P")
R = TypeVar("R")


def caller(name: str, function: Callable[P, R]) -> Callable[P, R]:
    """The function as a worker calls it, with arguments by name.

    Raises TasksError if such a call would not do the work.
    """
    parameters = parameters_of(name, function)
    _refuse_unworkable(name, function, parameters)
    if by_position := _by_position(name, function, parameters):
        return _called_by_position(function, by_position)
    return function if is_async(function) else _called_to_the_end(function)


def is_async(function: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(code_of(function))


def code_of(function: Any) -> Callable[..., object]:
    """The def behind a partial, a staticmethod or a callable object."""
    while isinstance(function, partial | staticmethod):
        function = function.func if isinstance(function, partial) else function.__func__
    return function if inspect.isroutine(function) else function.__call__


def place_of(function: object) -> str:
    while isinstance(function, partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def parameters_of(name: str, function: Callable[..., object]) -> list[inspect.Parameter]:
    """The function's parameters. Raises TasksError for a function without a signature, a generator, or no function."""
    if not callable(function) or inspect.isclass(function):
        raise TasksError(f"Task {name!r}: {function!r} is not a function; put @tasks.register(…) above a def.")
    code = code_of(function)
    if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
        raise TasksError(f"Task {name!r}: {place_of(function)} is a generator; a handler returns its result.")
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:
        raise TasksError(
            f"Task {name!r}: {place_of(function)} has no readable signature; wrap the function in a def."
        ) from None


def _refuse_unworkable(name: str, function: Callable[..., object], parameters: Sequence[inspect.Parameter]) -> None:
    place = place_of(function)
    if any((code := _code_object(layer)) and code in _CONTEXT_MANAGERS for layer in _layers(function)):
        raise TasksError(f"Task {name!r}: {place} is a context manager; call it in a `with` of a def.")
    if _lacks_its_object(function, parameters):
        raise TasksError(
            f"Task {name!r}: {place} is a method without its object, {parameters[0].name!r}; register the method of "
            "an object, or a def that makes one."
        )


def _lacks_its_object(function: Callable[..., object], parameters: Sequence[inspect.Parameter]) -> bool:
    """Whether the function is a method taken from its class.

    While the class is being made, only `self` or `cls` tells.
    """
    while isinstance(function, partial) and not function.args:
        function = function.func
    owner, _, own_name = getattr(function, "__qualname__", "").rpartition(".")
    if not parameters or not isinstance(function, FunctionType) or not owner or owner.endswith("<locals>"):
        return False
    kind: object = sys.modules.get(function.__module__)
    for step in owner.split("."):
        kind = inspect.getattr_static(kind, step, None)
    method = inspect.getattr_static(kind, own_name, None)
    return parameters[0].name in ("self", "cls") or (inspect.isclass(kind) and isinstance(method, FunctionType))


def _by_position(name: str, function: Callable[..., object], parameters: Sequence[inspect.Parameter]) -> Sequence[str]:
    """Parameters taken by position alone, although the signature, which a decorator copied, names them."""
    ordinary = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    if any(_code_object(layer) is _SINGLE_DISPATCH for layer in _layers(function)):
        return ordinary
    code = _code_object(code_of(function))
    if code is None or code.co_flags & inspect.CO_VARKEYWORDS:
        return ()
    named = code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount]
    lacking = [one.name for one in parameters if one.name not in named]
    if lacking and not (code.co_flags & inspect.CO_VARARGS and set(lacking) <= set(ordinary)):
        raise TasksError(
            f"Task {name!r}: {place_of(function)} does not take {lacking[0]!r}, which is in its signature; have its "
            "decorator take **kwargs and pass them on."
        )
    return ordinary if lacking else ()


def _called_by_position(function: Callable[P, R], names: Sequence[str]) -> Callable[P, R]:
    @functools.wraps(function)
    def call(**arguments: Any) -> Any:
        return plain(*[arguments.pop(name) for name in names], **arguments)

    @functools.wraps(function)
    async def wait(**arguments: Any) -> Any:
        return await cast("Any", plain(*[arguments.pop(name) for name in names], **arguments))

    plain: Callable[..., Any] = function
    return cast("Callable[P, R]", wait if is_async(function) else _called_to_the_end(call))


def _called_to_the_end(function: Callable[P, R]) -> Callable[P, R]:
    """Awaits a coroutine that a `def` returns, since the coroutine does the work."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        value: Any = function(*args, **kwargs)
        return _awaited(value) if type(value) is CoroutineType else value

    return call


def _awaited(coroutine: CoroutineType[Any, Any, Any]) -> object:
    """Runs a coroutine to its end, on the event loop of the pool that owns this thread, else on a new loop."""
    import asyncio  # noqa: PLC0415 - a producer of jobs needs neither

    from anyio import from_thread  # noqa: PLC0415

    async def wait() -> tuple[object, BaseException | None]:
        try:
            return await coroutine, None
        except BaseException as error:  # noqa: BLE001 - raised by the caller, without the frames in between
            frames = traceback_of(error)  # an exception's own attributes may be code that raises
            return None, BaseException.with_traceback(error, frames.tb_next if frames else None)

    ended: tuple[object, BaseException | None] | None = None
    try:
        ended = from_thread.run(wait)
    except RuntimeError:
        if inspect.getcoroutinestate(coroutine) != inspect.CORO_CREATED:
            raise
    value, error = ended or asyncio.run(wait())
    if error is not None:
        raise error
    return value


def _layers(function: Any) -> Iterator[object]:
    """The function, the function wrapped inside, and so on inward."""
    seen = set[int]()
    while function is not None and id(function) not in seen:
        seen.add(id(function))
        yield function
        if isinstance(function, partial):
            function = function.func
        elif isinstance(function, MethodType):
            function = function.__func__
        else:
            function = getattr(function, "__wrapped__", None)


def _code_object(function: object) -> CodeType | None:
    if isinstance(function, MethodType):
        function = function.__func__
    return function.__code__ if isinstance(function, FunctionType) else None


def _nothing(_: object) -> Iterator[None]:
    yield


# All functions that one of these decorators makes share one code object, which shows the decorator.
_CONTEXT_MANAGERS = (
    _code_object(contextlib.contextmanager(_nothing)),
    _code_object(contextlib.asynccontextmanager(cast("Any", _nothing))),
)
_SINGLE_DISPATCH = _code_object(functools.singledispatch(_nothing))
