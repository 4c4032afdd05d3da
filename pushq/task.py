"""Tasks: named handlers, and the registry in which a worker finds them. A row never names code, only a task."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, ParamSpec, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, PydanticSchemaGenerationError, ValidationError, create_model
from pydantic.errors import PydanticUserError

from pushq.backoff import Backoff, exponential
from pushq.errors import PayloadError, PushqError, TasksError
from pushq.job import Job, NewJob

P = ParamSpec("P")
R = TypeVar("R")

_running: ContextVar[Job] = ContextVar("pushq_job")


def current_job() -> Job:
    """The job whose handler is running here. Raises PushqError outside of one."""
    try:
        return _running.get()
    except LookupError:
        raise PushqError("current_job() is for handlers: no job is running here.") from None


@contextmanager
def running(job: Job) -> Iterator[None]:
    """Makes `job` the current one."""
    mark = _running.set(job)
    try:
        yield
    finally:
        _running.reset(mark)


@dataclass(frozen=True, slots=True, eq=False)
class Task(Generic[P, R]):
    """A named handler. Call it like the function it wraps; `.job(…)` makes a job of the same arguments."""

    name: str
    function: Callable[P, R]
    queue: str
    max_attempts: int
    timeout: timedelta | None
    backoff: Backoff
    payload_model: type[BaseModel]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(
            getattr(self.function, "__call__", None)  # noqa: B004 - an instance whose __call__ is async
        )

    def job(self, *args: P.args, **kwargs: P.kwargs) -> NewJob:
        """A job that calls the handler with these arguments, on the task's queue.

        Raises PayloadError when they do not fit its annotations or cannot be JSON.
        """
        try:
            given = inspect.signature(self.function).bind(*args, **kwargs).arguments
        except TypeError as error:
            raise PayloadError(f"Arguments do not fit task {self.name!r}: {error}.") from None
        for extra in [name for name in given if name not in _field_names(self.payload_model)]:
            given |= given.pop(extra)  # **kwargs come as one argument of that name
        model = self._checked(given)
        try:
            payload = model.model_dump(mode="json", by_alias=True, exclude_unset=True)
        except ValueError as error:
            raise PayloadError(f"Arguments of task {self.name!r} cannot be JSON: {error}.") from None
        return NewJob(self.name, payload, queue=self.queue)

    def arguments(self, payload: str) -> dict[str, Any]:
        """The handler's arguments, from a payload's JSON text.

        Raises PayloadError, which names the field and never shows its value.
        """
        try:
            given = json.loads(payload)
        except RecursionError:
            raise PayloadError(f"The payload of task {self.name!r} is nested too deeply to be read.") from None
        except ValueError as error:
            raise PayloadError(f"The payload of task {self.name!r} cannot be read: {_reason(error)}.") from None
        model = self._checked(given)
        fields = type(model).model_fields
        values = {field.alias or name: getattr(model, name) for name, field in fields.items()}
        return values | (model.model_extra or {})

    def _checked(self, given: object) -> BaseModel:
        try:
            return self.payload_model.model_validate(given)
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc'])) or 'payload'}: {fault['msg']}" for fault in error.errors()[:10]
            )
            raise PayloadError(f"The payload does not fit task {self.name!r}: {faults}.") from None
        except RecursionError:
            raise PayloadError(f"The payload of task {self.name!r} is nested too deeply to be checked.") from None


def _field_names(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def _reason(error: ValueError) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else "an integer has too many digits"


class Tasks:
    """The registry that `pushq supervise MODULE:TASKS` is given."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any]] = {}

    def register(
        self,
        name: str,
        *,
        queue: str = "default",
        max_attempts: int = 5,
        timeout: timedelta | None = None,
        backoff: Backoff | None = None,
    ) -> Callable[[Callable[P, R]], Task[P, R]]:
        """Registers a function as the handler of task `name`.

        `async def` runs on the event loop, `def` in a thread. queue: where jobs built in Python go. max_attempts:
        failures after which a job is failed. timeout: limit of one attempt; None: no limit. backoff: failures so far →
        delay; the default doubles from 2 seconds to an hour. Raises TasksError for what cannot work.
        """
        _check_options(name, queue, max_attempts, timeout)

        def decorate(function: Callable[P, R]) -> Task[P, R]:
            if name in self._tasks:
                raise TasksError(
                    f"Two tasks are named {name!r}: {_place(self._tasks[name].function)} and {_place(function)}; "
                    "rename one."
                )
            task = Task(name, function, queue, max_attempts, timeout, backoff or exponential(), _model(name, function))
            self._tasks[name] = task
            return task

        return decorate

    def find(self, name: str) -> Task[..., Any]:
        """The task of that name. Raises TasksError, with the one that may have been meant."""
        try:
            return self._tasks[name]
        except KeyError:
            close = difflib.get_close_matches(name, self._tasks, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise TasksError(f"No task named {name!r} is registered{hint}") from None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._tasks))

    @property
    def queues(self) -> tuple[str, ...]:
        return tuple(sorted({task.queue for task in self._tasks.values()}))

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task[..., Any]]:
        return iter(self._tasks.values())


def _check_options(name: str, queue: str, max_attempts: int, timeout: timedelta | None) -> None:
    if not isinstance(name, str) or not 1 <= len(name) <= 200:
        raise TasksError(f"A task's name has 1 to 200 characters, not {name!r}.")
    if not isinstance(queue, str) or not 1 <= len(queue) <= 200:
        raise TasksError(f"Task {name!r}: a queue's name has 1 to 200 characters, not {queue!r}.")
    if not isinstance(max_attempts, int) or not 1 <= max_attempts <= 10_000:
        raise TasksError(f"Task {name!r}: max_attempts is between 1 and 10,000, not {max_attempts!r}.")
    if timeout is not None and (not isinstance(timeout, timedelta) or timeout <= timedelta(0)):
        raise TasksError(f"Task {name!r}: timeout is a timedelta above zero, or None, not {timeout!r}.")


def _place(function: Callable[..., object]) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"


def _model(name: str, function: Callable[..., object]) -> type[BaseModel]:
    """A pydantic model with a field a parameter: the payload's keys are the handler's arguments."""
    if not callable(function):
        raise TasksError(f"Task {name!r}: {function!r} is not a function; put @tasks.register(…) above a def.")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TasksError(f"Task {name!r}: {_place(function)} is a generator; a handler returns its result.")
    hints = _hints(name, function)
    fields: dict[str, Any] = {}
    extra = "forbid"
    for number, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise TasksError(
                f"Task {name!r}: parameter {parameter.name!r} of {_place(function)} can only be given by position, and "
                "a payload has names; make it an ordinary one."
            )
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = "allow"
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        # Fields have names of our own, since pydantic refuses some that are fine for parameters.
        fields[f"argument_{number}"] = (hints.get(parameter.name, Any), Field(default, alias=parameter.name))
    config = ConfigDict(extra=extra, arbitrary_types_allowed=False, hide_input_in_errors=True)  # type: ignore[typeddict-item]
    try:
        return create_model("Payload", __config__=config, **fields)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        complaint = str(error).splitlines()[0]
        raise TasksError(
            f"Task {name!r}: {_place(function)} has an annotation that JSON cannot fill: {complaint}"
        ) from error


def _hints(name: str, function: Callable[..., object]) -> dict[str, Any]:
    target = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    try:
        return get_type_hints(target, include_extras=True)
    except (NameError, TypeError) as error:
        raise TasksError(f"Task {name!r}: an annotation of {_place(function)} cannot be resolved: {error}.") from error


Handler = Callable[..., Awaitable[object] | object]
